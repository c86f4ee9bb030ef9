"""Decisions are numbered, have the form the index shows, and are listed there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ADR = Path(__file__).resolve().parents[2] / "docs" / "adr"
RECORDS = sorted(ADR.glob("[0-9]*.md"))


@pytest.mark.parametrize("path", RECORDS, ids=lambda path: path.stem)
def test_a_decision_has_the_form_and_is_in_the_index(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    title = text.splitlines()[0]
    number, _, name = title.removeprefix("# ").partition(". ")
    assert title == f"# {number}. {name}"
    assert int(path.name[:4]) == int(number)
    assert re.search(r"^Accepted, \d{4}-\d\d[.,]", text, re.MULTILINE)
    assert re.findall("^## (.*)", text, re.MULTILINE) == ["Context", "Decision", "Consequences", "What would change our mind"]
    assert f"- [{number}. {name}]({path.name})\n" in (ADR / "index.md").read_text(encoding="utf-8")


def test_the_index_lists_nothing_else() -> None:
    listed = re.findall(r"\]\((\d{4}-[^)]+)\)", (ADR / "index.md").read_text(encoding="utf-8"))
    assert listed == [path.name for path in RECORDS]
