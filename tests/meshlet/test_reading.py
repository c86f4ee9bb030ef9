from __future__ import annotations

import pytest

from meshless_core.meshlet.reading import Fields, ProblemLog, describe, nearest
from meshless_core.meshlet.yaml_source import Marks


def test_a_problem_gets_the_line_of_its_path_and_they_come_in_order() -> None:
    log = ProblemLog("f.yaml", Marks(1, {"a": Marks(5), "b": Marks(3)}))
    log.add(("a",), "late")
    log.add(("b", "absent"), "early")
    assert [str(problem) for problem in log.in_order()] == ["f.yaml:3: $.b.absent: early", "f.yaml:5: $.a: late"]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "nothing (null)"),
        (True, "the boolean true"),
        (5, "the number 5"),
        ("x", "the string 'x'"),
        ("x" * 100, f"the string '{'x' * 64}...'"),
        ({}, "a mapping"),
        ([], "a sequence"),
    ],
)
def test_a_value_is_described_for_people_and_cut(value: object, text: str) -> None:
    assert describe(value) == text


def test_the_nearest_word_is_suggested_or_all_are_listed() -> None:
    assert nearest("wieght", ["weight", "version"]) == "did you mean 'weight'?"
    assert nearest("zzz", ["weight", "version"]) == "known are version, weight"
    assert nearest("zzz", []) == "none is known here"


def test_a_field_that_is_missing_or_wrong_reads_as_none_and_only_the_wrong_is_noted() -> None:
    log = ProblemLog("", None)
    fields = Fields({"a": True, "n": 5, "s": "x", "l": [{}, 5]}, ("top",), log)
    assert (fields.integer("absent", least=0), fields.integer("a", least=0), fields.integer("n", least=6)) == (None, None, None)
    assert (fields.integer("n", least=5), fields.string("s"), fields.label("s"), fields.raw("a")) == (5, "x", "x", True)
    items = fields.items("l")
    assert items is not None
    assert [item.path for item in items] == [("top", "l", 0)]
    assert [str(problem) for problem in log.problems] == [
        "$.top.a: must be an integer, not the boolean true",
        "$.top.n: must be an integer from 6 to 2147483647, not 5",
        "$.top.l[1]: must be a mapping with string keys, not the number 5",
    ]


def test_zero_is_the_integer_only() -> None:
    fields = Fields({"a": 0, "b": False, "c": 0.0, "d": "0"}, (), ProblemLog("", None))
    assert [fields.is_zero(key) for key in "abcde"] == [True, False, False, False, False]
