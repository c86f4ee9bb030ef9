"""A hook of mkdocs: fills a section of the navigation from its folder, so that a new page needs no change of mkdocs.yml.

An entry `Title: folder/*` becomes every page of that folder that the navigation does not already name, by file name.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

__all__ = ["expand", "on_config"]


def expand(navigation: list[Any], docs: Path) -> list[Any]:
    """The navigation with every `folder/*` replaced by the pages of the folder."""
    named = set(_named(navigation))

    def spread(items: list[Any]) -> list[Any]:
        result: list[Any] = []
        for item in items:
            if isinstance(item, str) and item.endswith("/*"):
                pages = (path.relative_to(docs).as_posix() for path in sorted((docs / item[:-2]).glob("*.md")))
                result += [page for page in pages if page not in named]
            elif isinstance(item, dict):
                result.append({title: spread(value) if isinstance(value, list) else value for title, value in item.items()})
            else:
                result.append(item)
        return result

    return spread(navigation)


def _named(items: Any) -> list[str]:
    if isinstance(items, str):
        return [] if items.endswith("/*") else [items]
    if isinstance(items, dict):
        return [name for value in items.values() for name in _named(value)]
    return [name for item in items for name in _named(item)]


def on_config(config: Any) -> Any:
    """Called by mkdocs once the configuration is read."""
    config["nav"] = expand(config["nav"], Path(config["docs_dir"]))
    return config
