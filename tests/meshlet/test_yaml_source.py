"""YAML as plain JSON values with lines: what `yaml.safe_load` lets through is refused."""

from __future__ import annotations

import math
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from meshless_core.meshlet import yaml_source
from meshless_core.meshlet.yaml_source import MAX_ALIASED_NODES, MAX_DEPTH, format_path, read_yaml


def value_of(text: str) -> Any:
    documents, problems = read_yaml(text, "f.yaml")
    assert problems == []
    (document,) = documents
    return document.value


def problems_of(text: str) -> list[str]:
    return [str(problem) for problem in read_yaml(text, "f.yaml")[1]]


@pytest.fixture(params=["libyaml", "python"])
def _parser(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """PyYAML comes with and without libyaml."""
    if request.param == "python":
        monkeypatch.setattr(yaml_source, "_LOADER", yaml.SafeLoader)


pytestmark = pytest.mark.usefixtures("_parser")


def test_documents_are_plain_values_with_the_line_of_everything() -> None:
    documents, problems = read_yaml("---\na: 1\nb:\n  - x\n  - {c: ok}\n---\n# nothing\n---\n- 2\n", "f.yaml")
    assert problems == []
    assert [document.value for document in documents] == [{"a": 1, "b": ["x", {"c": "ok"}]}, [2]]
    marks = documents[0].marks
    assert [marks.line_of(path) for path in ((), ("a",), ("b",), ("b", 0), ("b", 1, "c"))] == [2, 2, 3, 4, 5]
    assert marks.line_of(["b", 1, "absent", 7]) == 5, "the nearest value around it"
    assert documents[1].marks.line == 9


def test_a_duplicate_key_is_an_error_and_the_rest_is_still_read() -> None:
    text = "a: 1\nb: {c: 1, c: {d: 2}}\na: [x, y]\ne: 5\n"
    documents, _ = read_yaml(text, "f.yaml")
    assert documents[0].value == {"a": 1, "b": {"c": 1}, "e": 5}
    assert problems_of(text) == [
        "f.yaml:2: $.b.c: duplicate key, first written on line 2: keep one",
        "f.yaml:3: $.a: duplicate key, first written on line 1: keep one",
    ]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("1: x", "f.yaml:1: $: key '1' is read as a number: put it in quotes"),
        ("a: {on: x}", "f.yaml:1: $.a: key 'on' is read as a boolean: put it in quotes"),
        ("~: x", "f.yaml:1: $: key '~' is read as null: put it in quotes"),
        ("[a]: x", "f.yaml:1: $: a key must be a string, not a mapping or sequence"),
        ("? {a: b}\n: x", "f.yaml:1: $: a key must be a string, not a mapping or sequence"),
        ("k: &k a\n*k : x", "f.yaml:2: $: an alias cannot be a key: write the key out"),
        ("a: *b", "f.yaml:1: $.a: alias *b is not defined above"),
        ("a: &a [*a]", "f.yaml:1: $.a[0]: alias *a refers to itself"),
        ("a: &x {b: 1}\nc: {<<: *x}", "f.yaml:2: $.c: merge keys (<<) are not supported: write the fields out"),
        (
            "a: !!python/object/apply:os.system [x]",
            "tag 'tag:yaml.org,2002:python/object/apply:os.system' is not supported here: remove it",
        ),
        ("a: !secret x", "f.yaml:1: $.a: tag '!secret' is not supported here: remove it"),
        ("a: !!int x", "f.yaml:1: $.a: tag 'tag:yaml.org,2002:int' is not supported here: remove it"),
        ("a: !!binary aGk=", "tag 'tag:yaml.org,2002:binary' is not supported here: remove it"),
        ("a: !!set {x}", "tag 'tag:yaml.org,2002:set' is not supported here: remove it"),
        ("a: b: c", "f.yaml:1: not valid yaml: mapping values are not allowed"),
        ("a:\n\tb: 1\n", "cannot start any token; the line has a tab: indent with spaces"),
        ("a: [1,", "not valid yaml: while parsing a flow"),
        ("a: 'x", "not valid yaml: while scanning a quoted scalar"),
        ("a: 1\nb: \x07", "f.yaml:2: not valid yaml: unprintable character #x0007, remove it"),
        ("a: \ud800", "f.yaml:1: not valid yaml: unprintable character #xd800, remove it"),
    ],
)
def test_problem_says_where_and_what_to_do(text: str, problem: str) -> None:
    found = problems_of(text)
    assert len(found) >= 1
    assert problem in found[0]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        *(("yes", True), ("Off", False), ("TRUE", True), ("y", "y"), ("null", None), ("~", None), ("", None), ("nil", "nil")),
        *(
            ("5", 5),
            ("-5", -5),
            ("+5", 5),
            ("0x1F", 31),
            ("0b11", 3),
            ("0o17", 15),
            ("017", 15),
            ("018", 18.0),
            ("1_000", "1_000"),
        ),
        *(
            ("1.5", 1.5),
            ("1e3", 1000.0),
            (".5", 0.5),
            ("1.", 1.0),
            ("1.2.3", "1.2.3"),
            (".inf", ".inf"),
            (".nan", ".nan"),
            ("1e999", "1e999"),
        ),
        *(
            ("2024-01-01", "2024-01-01"),
            ("1:30", "1:30"),
            ("=", "="),
            ("v1", "v1"),
            ('"5"', "5"),
            ("'yes'", "yes"),
            ("!!str 5", "5"),
            ("! 5", "5"),
        ),
        *(("!!float 5", 5), ("!!int 5", 5), ("!!bool no", False), ("!!null ~", None)),
        *(("18446744073709551615", 2**64 - 1), ("18446744073709551616", 1.8446744073709552e19), ("9" * 200, "9" * 200)),
    ],
)
def test_plain_scalars_are_read_as_kubectl_reads_them(text: str, value: object) -> None:
    found = value_of(f"a: {text}")["a"]
    assert found == value
    assert type(found) is type(value)


def test_nothing_but_json_comes_out() -> None:
    assert value_of("[2024-01-01, 12:30:45, .nan, 0o8, 1e400]") == ["2024-01-01", "12:30:45", ".nan", "0o8", "1e400"]


def test_an_alias_stands_for_its_value_and_line() -> None:
    documents, problems = read_yaml("a: &x\n  b: 1\nc: [*x, *x]\n", "f.yaml")
    assert problems == []
    assert documents[0].value == {"a": {"b": 1}, "c": [{"b": 1}, {"b": 1}]}
    assert documents[0].marks.line_of(["c", 1, "b"]) == 2


def test_anchors_end_with_their_document() -> None:
    assert problems_of("a: &x 1\n---\nb: *x\n") == ["f.yaml:3: $.b: alias *x is not defined above"]


def test_a_billion_laughs_is_refused_quickly() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 10)]
    (problem,) = problems_of("\n".join(lines))
    assert f"aliases expand to more than {MAX_ALIASED_NODES} values: write them out" in problem


def test_nesting_is_bounded_and_costs_no_stack() -> None:
    assert value_of("[" * (MAX_DEPTH - 1) + "]" * (MAX_DEPTH - 1)) is not None
    (problem,) = problems_of("[" * 900 + "]" * 900)
    assert problem == f"f.yaml:1: nested deeper than {MAX_DEPTH} levels"


def test_size_is_bounded_before_anything_is_parsed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(yaml_source, "MAX_TEXT_LENGTH", 10)
    assert problems_of("a: 34567890") == ["f.yaml: the file has 11 characters, more than 10: split it"]


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ((), "$"),
        (("spec", "services", 0, "maxConn"), "$.spec.services[0].maxConn"),
        (("metadata", "labels", "meshless/meshlet"), '$.metadata.labels["meshless/meshlet"]'),
        (("a.b",), '$["a.b"]'),
    ],
)
def test_a_path_reads_like_the_document(path: tuple[str | int, ...], text: str) -> None:
    assert format_path(path) == text


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text("abc-: yesno5'\"{}#\n\t*&!", max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text("abcyesno:-5~ #'", max_size=6), inner, max_size=4),
    max_leaves=12,
)


@given(JSON.filter(lambda value: value is not None))
def test_what_a_yaml_writer_quotes_comes_back_as_it_was(value: object) -> None:
    found = value_of(
        yaml.safe_dump(value, allow_unicode=True, default_style='"') if isinstance(value, str) else yaml.safe_dump(value)
    )
    assert _same(found, value)


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(_same(a[key], b[key]) for key in a)
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(_same, a, b))
    if isinstance(a, float) and isinstance(b, float):
        return math.isclose(a, b)
    return type(a) is type(b) and bool(a == b)


@given(st.text("ab:-[]{}&*!|>'\"#%@`,? \n\t0~<", max_size=40))
def test_any_text_gives_documents_or_problems_and_nothing_else(text: str) -> None:
    documents, problems = read_yaml(text, "f.yaml")
    assert all(problem.message for problem in problems)
    assert all(document.value is not None for document in documents)
