"""`python -m docs.generate.links SITE`: every internal link and anchor of the built site leads somewhere.

Works on the HTML a reader gets, so it also sees what Markdown validation cannot: raw HTML, images, the theme's own links. Links
to other sites are not followed: a build must not depend on them.
"""

from __future__ import annotations

import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urljoin, urlsplit

import attrs

__all__ = ["broken_links"]

_ATTRIBUTES = {("a", "href"), ("img", "src"), ("link", "href"), ("script", "src")}


@attrs.define
class _Document:
    links: list[str] = attrs.Factory(list)
    anchors: set[str] = attrs.Factory(set)


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.document = _Document()

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        for name, value in attributes:
            if value is None:
                continue
            if name == "id" or (tag == "a" and name == "name"):
                self.document.anchors.add(value)
            if (tag, name) in _ATTRIBUTES:
                self.document.links.append(value)


def _read(path: Path) -> _Document:
    reader = _Reader()
    reader.feed(path.read_text(encoding="utf-8"))
    return reader.document


def broken_links(site: Path) -> list[str]:
    """Say which links of which page lead nowhere.

    Args:
        site: folder of the built site.

    Returns:
        One line per broken link: page, link, what is missing.
    """
    documents = {path: _read(path) for path in sorted(site.rglob("*.html"))}
    broken = []
    for path, document in documents.items():
        if path.name == "404.html":  # written for the site's root, its links are absolute
            continue
        here = "/" + path.relative_to(site).as_posix()
        for link in document.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            goal = urlsplit(urljoin(here, link))
            target = site / unquote(goal.path).lstrip("/")
            if target.is_dir():
                target /= "index.html"
            if not target.exists():
                broken.append(f"{here}: {link}: no such page or file")
            elif goal.fragment and target in documents and unquote(goal.fragment) not in documents[target].anchors:
                broken.append(f"{here}: {link}: no such anchor on that page")
    return broken


def main(arguments: list[str]) -> int:
    """Check the site named on the command line, return the exit status."""
    if len(arguments) != 1 or not Path(arguments[0], "index.html").exists():
        print("usage: python -m docs.generate.links SITE, where SITE is a built site", file=sys.stderr)
        return 2
    broken = broken_links(Path(arguments[0]))
    for line in broken:
        print(line)
    pages = sum(1 for _ in Path(arguments[0]).rglob("*.html"))
    print(f"links: {pages} pages, {len(broken)} broken")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
