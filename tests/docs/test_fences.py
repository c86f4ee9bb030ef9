"""Every block of a page is one on the site too: an opening it does not know becomes text, with all that follows."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

DOCS = Path(__file__).resolve().parents[2] / "docs"
OPENING = re.compile(r'```[\w+-]*( title="[^"]+")?( hl_lines="[\d -]+")?')


def wrong_openings(text: str) -> list[str]:
    fences = [line.strip() for line in text.splitlines() if line.lstrip().startswith("```")]
    assert len(fences) % 2 == 0, "a block is never closed"
    return [opening for opening in fences[::2] if not OPENING.fullmatch(opening)]


@pytest.mark.parametrize("page", sorted(DOCS.rglob("*.md")), ids=lambda page: str(page.relative_to(DOCS)))
def test_every_block_is_opened_in_a_way_the_site_knows(page: Path) -> None:
    assert wrong_openings(page.read_text(encoding="utf-8")) == []


def test_an_opening_with_a_word_the_site_does_not_know_is_found() -> None:
    assert wrong_openings('```console eventually\n$ true\n```\n```sh title="x"\n```\n') == ["```console eventually"]
