"""The page of values: what hooks and the objects behind them are given and return, each with its fields."""

from __future__ import annotations

import enum
import inspect
import re

import attrs

from docs.generate.page import Page, docstring, fenced, prose, table, titled
from meshless_core import types

__all__ = ["PAGE", "value_names"]


def value_names() -> tuple[str, ...]:
    """Every public name of the vocabulary, classes first."""
    classes = [name for name in types.__all__ if isinstance(getattr(types, name), type)]
    return (*classes, *(name for name in types.__all__ if name not in classes))


def _fields(cls: type) -> str:
    rows = [
        (f"`{field.name}`", f"`{field.type}`", "required" if field.default is attrs.NOTHING else f"`{field.default!r}`")
        for field in attrs.fields(cls)
    ]
    return table(("field", "type", "default"), rows)


def _signature(name: str, function: object) -> str:
    assert callable(function)
    # annotations are kept as written, which inspect shows in quotes
    return name + re.sub(r"'([^']*)'", r"\1", str(inspect.signature(function)))


def _members(cls: type) -> list[str]:
    """The properties and class methods that a class adds itself, each with its first line."""
    lines = []
    for name, member in vars(cls).items():
        if name.startswith("_") or not getattr(member, "__doc__", None):
            continue
        if isinstance(member, classmethod):
            lines.append(f"- `{cls.__name__}.{_signature(name, getattr(cls, name))}`: {_summary(getattr(cls, name), name)}")
        elif isinstance(member, property) or hasattr(member, "func"):
            lines.append(f"- `.{name}`: {_summary(member, name)}")
    return lines


def _summary(thing: object, name: str) -> str:
    text = prose(docstring(thing, name)).replace("\n\n**Raises**\n\n- ", " Raises ")
    return " ".join(text.split())


def _describe(name: str) -> str:
    thing = getattr(types, name)
    parts = [f"## {name}"]
    if not isinstance(thing, type):
        if callable(thing):
            return "\n\n".join([*parts, fenced(_signature(name, thing), "python"), prose(docstring(thing, name))])
        return "\n\n".join([*parts, f"`{name} = {thing!r}`"])
    parts.append(prose(docstring(thing, name)))
    if issubclass(thing, enum.Enum):
        if thing is types.ReplyCode:
            parts.append("Its members: [Reply codes](reply-codes.md).")
        else:
            parts.append("Its members: " + ", ".join(f"`{name}.{member.name}`" for member in thing) + ".")
    elif attrs.has(thing):
        parts.append(_fields(thing))
    members = _members(thing)
    if members:
        parts.append("\n".join(members))
    return "\n\n".join(parts)


_INTRODUCTION = (
    "What plugins are given and return, besides what stands with the [hooks](hooks.md) themselves. All are imported from "
    "`meshless_core`; all are immutable and can be compared and hashed. Make them with the fields in this order, or by name."
)


def _render() -> str:
    return titled("Values", "meshless_core/types.py", _INTRODUCTION, map(_describe, value_names()))


PAGE = Page("values.md", _render)
