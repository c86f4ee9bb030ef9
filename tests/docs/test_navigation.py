"""A new page is in the navigation without anybody naming it."""

from __future__ import annotations

from pathlib import Path

from docs.generate.navigation import expand


def test_a_folder_in_the_navigation_becomes_its_pages_without_those_already_named(tmp_path: Path) -> None:
    for name in ("a.md", "b.md", "index.md"):
        (tmp_path / "how-to").mkdir(exist_ok=True)
        (tmp_path / "how-to" / name).write_text("# x\n")
    assert expand([{"How": ["how-to/index.md", "how-to/*"]}, "x.md"], tmp_path) == [
        {"How": ["how-to/index.md", "how-to/a.md", "how-to/b.md"]},
        "x.md",
    ]
