"""The page of errors: the one tree of exceptions, as a tree."""

from __future__ import annotations

import inspect
from collections.abc import Iterator

from docs.generate.page import Page, docstring, fenced, prose, titled
from meshless_core import errors

__all__ = ["PAGE", "error_classes"]


def error_classes() -> tuple[type[BaseException], ...]:
    """Every public error."""
    named = (getattr(errors, name) for name in errors.__all__)
    return tuple(thing for thing in named if isinstance(thing, type) and issubclass(thing, BaseException))


def _public_parent(cls: type[BaseException]) -> type[BaseException]:
    public = set(error_classes())
    bases: tuple[type[BaseException], ...] = inspect.getmro(cls)[1:]
    return next(base for base in bases if base in public or not issubclass(base, errors.MeshlessError))


def _tree(parent: type[BaseException], depth: int) -> Iterator[tuple[int, type[BaseException]]]:
    yield depth, parent
    for cls in error_classes():
        if cls is not parent and _public_parent(cls) is parent:
            yield from _tree(cls, depth + 1)


def _render() -> str:
    tree = list(_tree(errors.MeshlessError, 0))
    picture = "\n".join(f"{'    ' * depth}{cls.__name__}" for depth, cls in tree)
    parts = [fenced(picture, "text")]
    for _, cls in tree:
        also = [base.__name__ for base in cls.__bases__ if not issubclass(base, errors.MeshlessError) and base is not Exception]
        note = f"\n\nIs also a `{'`, `'.join(also)}`." if also else ""
        parts.append(f"## {cls.__name__}\n\n{prose(docstring(cls, cls.__name__))}{note}")
    parts.append(f"## Problem\n\n{prose(docstring(errors.Problem, 'Problem'))}")
    return titled("Errors", "meshless_core/errors.py", _INTRODUCTION, parts)


_INTRODUCTION = (
    "Everything Meshless raises on purpose is a `MeshlessError`; anything else is a bug. Messages name the object and say what "
    "to do next. Errors about an input hold every problem found, each a `Problem` with file, line and path."
)

PAGE = Page("errors.md", _render)
