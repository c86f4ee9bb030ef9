from __future__ import annotations

import pytest

from meshless_core.errors import ValidationError
from meshless_core.meshlet import load_objects, scan_objects


def test_each_document_is_an_object_with_its_origin() -> None:
    first, second = load_objects("kind: A\n---\n\n---\nkind: B\nspec:\n  x: [1, 2]\n", "dir/f.yaml")
    assert (first.kind, first.origin, second.kind, second.origin) == ("A", "dir/f.yaml:1", "B", "dir/f.yaml:5")
    assert second.line_of("spec", "x", 1) == 7


def test_a_list_counts_as_its_items() -> None:
    objects = load_objects("apiVersion: v1\nkind: List\nitems:\n  - kind: A\n  - kind: B\n", "f.yaml")
    assert [(one.kind, one.line) for one in objects] == [("A", 4), ("B", 5)]


def test_an_empty_text_has_no_objects() -> None:
    assert load_objects("# nothing\n", "f.yaml") == []


def test_a_kind_that_is_no_string_is_no_kind() -> None:
    (one,) = load_objects("kind: 5\n", "f.yaml")
    assert one.kind == ""


def test_every_problem_is_raised_together_with_its_line() -> None:
    text = "kind: A\nkind: B\n---\n- 1\n---\nkind: List\nitems: [5]\n---\njust text\n"
    with pytest.raises(ValidationError) as caught:
        load_objects(text, "f.yaml")
    assert [str(problem) for problem in caught.value] == [
        "f.yaml:2: $.kind: duplicate key, first written on line 1: keep one",
        "f.yaml:4: $: must be an object, not a sequence",
        "f.yaml:7: $.items[0]: must be an object, not the number 5",
        "f.yaml:9: $: must be an object, not the string 'just text'",
    ]


def test_scanning_returns_the_good_with_the_bad() -> None:
    objects, problems = scan_objects("kind: A\n---\n5\n---\nkind: [\n", "f.yaml")
    assert [one.kind for one in objects] == ["A"]
    assert [problem.line for problem in problems] == [6, 3]
