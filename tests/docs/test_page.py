"""The Markdown shapes of generated pages, and that nothing undocumented gets through."""

from __future__ import annotations

import pytest

from docs.generate.page import GenerationError, cell, code, docstring, prose, table


def test_something_public_without_a_docstring_stops_the_generation() -> None:
    class Silent:
        pass

    with pytest.raises(GenerationError, match="Silent is public and has no docstring"):
        docstring(Silent, "Silent")


def test_a_cell_keeps_the_table_whole() -> None:
    assert cell("a | b\n   c") == "a \\| b c"
    assert cell("<host>, `<port>`") == "&lt;host>, `<port>`"
    assert table(("x",), [("1|2",)]) == "| x |\n|---|\n| 1\\|2 |"


def test_sections_of_a_docstring_become_lists() -> None:
    text = "Do it.\n\nArgs:\n    a: first, and\n        more.\n\nRaises:\n    ValueError: never.\n"
    assert prose(text) == "Do it.\n\n**Args**\n\n- `a`: first, and more.\n\n**Raises**\n\n- `ValueError`: never."


def test_an_example_block_of_a_docstring_becomes_code() -> None:
    assert prose("Like this::\n\n    a = 1\n    b = 2\n") == "Like this:\n\n```python\na = 1\nb = 2\n```"


def test_backticks_survive_inline_code() -> None:
    assert code("plain") == "`plain`"
    assert code("a`b") == "`` a`b ``"
