"""Kubernetes-style objects out of YAML text: several documents, `kind: List`, a line for everything.

This module must not judge a resource beyond "is it an object at all"; `schema` and `workloads` do.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs

from meshless_core.errors import Problem, ValidationError
from meshless_core.meshlet.reading import describe
from meshless_core.meshlet.yaml_source import Marks, Step, read_yaml

__all__ = ["LoadedObject", "load_objects", "scan_objects"]


@attrs.frozen
class LoadedObject:
    """An object as written.

    Attributes:
        data: plain JSON values; treat as read-only, since parts may be shared through YAML aliases.
        source: file name or other origin.
        marks: lines of everything in it; pass them to `parse_meshlet`.
    """

    data: Mapping[str, Any]
    source: str
    marks: Marks

    @property
    def line(self) -> int:
        """1-based line the object starts on."""
        return self.marks.line

    @property
    def origin(self) -> str:
        """`file:line`."""
        return f"{self.source}:{self.line}"

    @property
    def kind(self) -> str:
        """The `kind`, empty if there is none that is a string."""
        kind = self.data.get("kind")
        return kind if isinstance(kind, str) else ""

    def line_of(self, *path: Step) -> int:
        """Line of the value at a path such as `"spec", "server", "services", 0`, or of the nearest one around it."""
        return self.marks.line_of(path)


def scan_objects(text: str, source: str) -> tuple[list[LoadedObject], list[Problem]]:
    """Like `load_objects`, but returns what could be read together with the problems, to go on and find more."""
    documents, problems = read_yaml(text, source)
    objects: list[LoadedObject] = []
    for document in documents:
        if not isinstance(document.value, dict):
            problems.append(Problem("$", f"must be an object, not {describe(document.value)}", source, document.marks.line))
            continue
        whole = LoadedObject(document.value, source, document.marks)
        items = whole.data.get("items")
        if whole.kind != "List" or not isinstance(items, list):
            objects.append(whole)
            continue
        marks = whole.marks.children["items"]
        for index, item in enumerate(items):
            if isinstance(item, dict):
                objects.append(LoadedObject(item, source, marks.children[index]))
            else:
                line = marks.line_of([index])
                problems.append(Problem(f"$.items[{index}]", f"must be an object, not {describe(item)}", source, line))
    return objects, problems


def load_objects(text: str, source: str) -> list[LoadedObject]:
    """Read every object of a YAML text; a `kind: List` counts as its items.

    Args:
        text: YAML, one or more documents; empty documents are left out.
        source: file name or other origin, for messages.

    Raises:
        ValidationError: with every problem found: syntax, duplicate keys, keys that are not strings, aliases that expand
            without bound, documents that are not objects, a text that is too large or nested too deep.
    """
    objects, problems = scan_objects(text, source)
    if problems:
        raise ValidationError(problems)
    return objects
