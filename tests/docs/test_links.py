"""Links lead somewhere: in the built site, and in the Markdown people read in the repository."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from docs.generate.links import broken_links, main

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted(
    path
    for pattern in ("*.md", "docs/**/*.md", "plugins/*/*.md", "sdk/*/*.md", "protocol/*.md", "bench/*.md", "examples/**/*.md")
    for path in ROOT.glob(pattern)
)
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")


def anchors(markdown: str) -> set[str]:
    """What headings are called in links, the way both GitHub and the site do it."""
    prose = re.sub(r"^```.*?^```", "", markdown, flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ (.+)$", prose, re.MULTILINE)
    return {re.sub(r"[\s]+", "-", re.sub(r"[^\w\- ]", "", heading.lower()).strip()) for heading in headings}


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_between_the_repositorys_pages_lead_somewhere(path: Path) -> None:
    text = re.sub(r"^```.*?^```", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    for link in LINK.findall(text):
        if "://" in link or link.startswith("mailto:"):
            continue
        file, _, anchor = link.partition("#")
        target = (path.parent / file).resolve() if file else path
        assert target.exists(), f"{link}: no such file"
        if anchor and target.suffix == ".md":
            assert anchor in anchors(target.read_text(encoding="utf-8")), f"{link}: no such heading"


@pytest.mark.slow
def test_the_site_builds_strictly_and_no_link_in_it_is_broken(tmp_path: Path) -> None:
    built = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert built.returncode == 0, built.stdout + built.stderr
    assert broken_links(tmp_path / "site") == []


def test_the_site_asks_nobody_elses_server() -> None:
    text = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    assert re.search(r"^  font: false", text, re.MULTILINE)
    assert "extra_javascript" not in text


def test_a_missing_page_a_missing_anchor_and_a_missing_picture_are_found(tmp_path: Path) -> None:
    (tmp_path / "index.html").write_text('<a href="two.html#here">x</a><a href="two.html#gone">y</a><img src="no.svg">')
    (tmp_path / "two.html").write_text('<h1 id="here">h</h1><a href="index.html">i</a><a href="three.html">n</a>')
    assert broken_links(tmp_path) == [
        "/index.html: two.html#gone: no such anchor on that page",
        "/index.html: no.svg: no such page or file",
        "/two.html: three.html: no such page or file",
    ]
    assert main([str(tmp_path)]) == 1


def test_a_sound_site_passes(tmp_path: Path) -> None:
    (tmp_path / "index.html").write_text('<h1 id="top">h</h1><a href="#top">x</a><a href="https://example.org/gone">y</a>')
    assert main([str(tmp_path)]) == 0
