"""YAML text to plain JSON values, strictly, with a line for every value.

Why not `yaml.safe_load`: it lets the last of two equal keys win in silence, turns dates into objects that are no JSON, expands
aliases without limit, recurses, and forgets where things were. This builder works on the parser's events, so its stack is ours
and bounded, and reads plain scalars the way `kubectl` does (go-yaml), so a file means here what it means there.

This module must not know any resource; it does no I/O.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final, TypeAlias

import attrs
import yaml

from meshless_core.errors import Problem

__all__ = ["MAX_ALIASED_NODES", "MAX_DEPTH", "MAX_TEXT_LENGTH", "Marks", "Step", "YamlDocument", "format_path", "read_yaml"]

MAX_TEXT_LENGTH: Final = 16 * 1024 * 1024
"""Characters of one file: some 30,000 pods; beyond that it is not a file somebody meant to give us."""

MAX_DEPTH: Final = 64
"""Levels of nesting; a Deployment needs about ten."""

MAX_ALIASED_NODES: Final = 100_000
"""Values that aliases of one file may add, which stops a small file from becoming a huge one ("billion laughs")."""

Step: TypeAlias = str | int
"""One step of a path: the key of a mapping or the index of a sequence."""

_LOADER: Final[Any] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_PLAIN_STEP: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*")
_NULLS: Final = frozenset({"", "~", "null", "Null", "NULL"})
_BOOLS: Final = {
    spelling: value
    for value, words in ((True, ("true", "yes", "on")), (False, ("false", "no", "off")))
    for word in words
    for spelling in (word, word.capitalize(), word.upper())
}
_INT: Final = re.compile(r"[-+]?(?:0b[01]+|0o[0-7]+|0x[0-9a-fA-F]+|0[0-7]*|[1-9][0-9]*)")
_FLOAT: Final = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?")
# The characters YAML 1.1 allows (section 5.1); checked here because the two parsers of PyYAML fail in different ways.
_UNPRINTABLE: Final = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_TAGS: Final = "tag:yaml.org,2002:"
_TAGGED: Final[Mapping[str, tuple[type, ...]]] = {
    _TAGS + "null": (type(None),),
    _TAGS + "bool": (bool,),
    _TAGS + "int": (int,),
    _TAGS + "float": (int, float),
}


def format_path(path: Sequence[Step]) -> str:
    """Write a path as `$.spec.server.services[0].maxConn`; keys that are no plain words are quoted in brackets."""
    text = "$"
    for step in path:
        if isinstance(step, int):
            text += f"[{step}]"
        elif _PLAIN_STEP.fullmatch(step):
            text += f".{step}"
        else:
            text += f'["{step}"]'
    return text


@attrs.frozen
class Marks:
    """Where a value and all the values in it were written.

    Attributes:
        line: 1-based; of the key for a field of a mapping.
        children: by key or index; empty for scalars.
    """

    line: int
    children: dict[Step, Marks] = attrs.field(factory=dict)

    def line_of(self, path: Sequence[Step]) -> int:
        """Line of the value at `path`, or of the nearest one around it that exists."""
        here = self
        for step in path:
            inner = here.children.get(step)
            if inner is None:
                break
            here = inner
        return here.line


@attrs.frozen
class YamlDocument:
    """One document of a file: JSON values (dict with str keys, list, str, int, float, bool, None) and their lines."""

    value: Any
    marks: Marks


@attrs.define
class _Open:
    """A collection that is being read."""

    value: dict[str, Any] | list[Any]
    marks: Marks
    anchor: str | None
    nodes_before: int
    key: str | None = None
    key_line: int = 0
    skip: bool = False


@attrs.frozen
class _Anchored:
    value: Any
    marks: Marks
    nodes: int


class _Rejected(Exception):  # noqa: N818 - control flow inside this module, never seen outside
    """Reading cannot go on; carries the problem."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(str(problem))
        self.problem = problem


def read_yaml(text: str, source: str) -> tuple[list[YamlDocument], list[Problem]]:
    """Read all documents of a text.

    Args:
        text: one or more YAML documents; empty ones are left out.
        source: file name or other origin, for the problems.

    Returns:
        The documents that could be read and every problem found. A syntax error ends the reading; a duplicate key, a key that
        is not a string and the like do not, so that the rest can still be checked.
    """
    if len(text) > MAX_TEXT_LENGTH:
        size = f"the file has {len(text)} characters, more than {MAX_TEXT_LENGTH}: split it"
        return [], [Problem("", size, source)]
    odd = _UNPRINTABLE.search(text)
    if odd is not None:
        line = text.count("\n", 0, odd.start()) + 1
        return [], [Problem("", f"not valid yaml: unprintable character #x{ord(odd[0]):04x}, remove it", source, line)]
    builder = _Builder(source)
    try:
        for event in yaml.parse(text, Loader=_LOADER):
            builder.feed(event)
    except _Rejected as stop:
        builder.problems.append(stop.problem)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        what = ", ".join(part for part in (error.context, error.problem) if part)
        if mark is not None and any("\t" in line for line in text.split("\n")[mark.line : mark.line + 1]):
            what += "; the line has a tab: indent with spaces"
        builder.problems.append(Problem("", f"not valid yaml: {what}", source, mark.line + 1 if mark else 0))
    except yaml.YAMLError as error:
        builder.problems.append(Problem("", f"not valid yaml: {error}", source))
    return builder.documents, builder.problems


class _Builder:
    """Folds parser events into values; iterative, so depth is a number we check and not Python's stack."""

    def __init__(self, source: str) -> None:
        self.documents: list[YamlDocument] = []
        self.problems: list[Problem] = []
        self._source = source
        self._stack: list[_Open] = []
        self._anchors: dict[str, _Anchored] = {}
        self._nodes = 0
        self._aliased = 0

    def feed(self, event: Any) -> None:
        match event:
            case yaml.DocumentStartEvent():
                self._anchors.clear()
            case yaml.ScalarEvent():
                self._scalar(event)
            case yaml.MappingStartEvent():
                self._open({}, event)
            case yaml.SequenceStartEvent():
                self._open([], event)
            case yaml.MappingEndEvent() | yaml.SequenceEndEvent():
                self._close()
            case yaml.AliasEvent():
                self._alias(event)
            case _:
                pass  # stream start and end, document end: nothing to keep

    def _path(self) -> list[Step]:
        return [step for step in map(_position, self._stack) if step is not None]

    def _problem(self, line: int, message: str, *more: Step) -> Problem:
        return Problem(format_path([*self._path(), *more]), message, self._source, line)

    def _scalar(self, event: Any) -> None:
        line = event.start_mark.line + 1
        top = self._stack[-1] if self._stack else None
        if top is not None and isinstance(top.value, dict) and top.key is None:
            self._key(top, event, line)
            return
        self._nodes += 1
        value = self._scalar_value(event, line)
        if event.anchor is not None:
            self._anchors[event.anchor] = _Anchored(value, Marks(line), 1)
        self._add(value, Marks(line))

    def _key(self, top: _Open, event: Any, line: int) -> None:
        assert isinstance(top.value, dict)
        key = event.value
        value = self._scalar_value(event, line)
        if event.implicit[0] and key == "<<":
            self.problems.append(self._problem(line, "merge keys (<<) are not supported: write the fields out"))
            top.skip = True
        elif not isinstance(value, str):
            self.problems.append(self._problem(line, f"key {key[:64]!r} is read as {_kind(value)}: put it in quotes"))
            top.skip = True
        elif key in top.value:
            first = top.marks.children[key].line
            self.problems.append(self._problem(line, f"duplicate key, first written on line {first}: keep one", key))
            top.skip = True
        top.key, top.key_line = key, line

    def _scalar_value(self, event: Any, line: int) -> Any:
        text: str = event.value
        tag: str | None = event.tag
        if tag is None:
            return _plain(text) if event.implicit[0] else text
        if tag in ("!", _TAGS + "str"):
            return text
        value = _plain(text)
        if type(value) not in _TAGGED.get(tag, ()):
            self.problems.append(self._problem(line, f"tag {tag[:64]!r} is not supported here: remove it"))
        return value

    def _open(self, value: dict[str, Any] | list[Any], event: Any) -> None:
        line = event.start_mark.line + 1
        if len(self._stack) >= MAX_DEPTH:
            raise _Rejected(Problem("", f"nested deeper than {MAX_DEPTH} levels", self._source, line))
        if self._at_key():
            raise _Rejected(self._problem(line, "a key must be a string, not a mapping or sequence"))
        if event.tag not in (None, "!", _TAGS + "map", _TAGS + "seq"):
            self.problems.append(self._problem(line, f"tag {event.tag[:64]!r} is not supported here: remove it"))
        self._nodes += 1
        self._stack.append(_Open(value, Marks(line), event.anchor, self._nodes - 1))

    def _close(self) -> None:
        done = self._stack.pop()
        if done.anchor is not None:
            self._anchors[done.anchor] = _Anchored(done.value, done.marks, self._nodes - done.nodes_before)
        self._add(done.value, done.marks)

    def _alias(self, event: Any) -> None:
        line = event.start_mark.line + 1
        name = event.anchor
        if self._at_key():
            raise _Rejected(self._problem(line, "an alias cannot be a key: write the key out"))
        known = self._anchors.get(name)
        if known is None:
            inside = any(level.anchor == name for level in self._stack)
            why = "refers to itself" if inside else "is not defined above"
            raise _Rejected(self._problem(line, f"alias *{name[:64]} {why}"))
        self._nodes += known.nodes
        self._aliased += known.nodes
        if self._aliased > MAX_ALIASED_NODES:
            raise _Rejected(self._problem(line, f"aliases expand to more than {MAX_ALIASED_NODES} values: write them out"))
        self._add(known.value, known.marks)

    def _at_key(self) -> bool:
        return bool(self._stack) and isinstance(self._stack[-1].value, dict) and self._stack[-1].key is None

    def _add(self, value: Any, marks: Marks) -> None:
        if not self._stack:
            if value is not None:
                self.documents.append(YamlDocument(value, marks))
            return
        top = self._stack[-1]
        if isinstance(top.value, list):
            top.marks.children[len(top.value)] = marks
            top.value.append(value)
            return
        assert top.key is not None
        if not top.skip:
            # The line of the key, not of the value: that is where a person looks for the field.
            top.marks.children[top.key] = Marks(top.key_line, marks.children)
            top.value[top.key] = value
        top.key, top.skip = None, False


def _position(level: _Open) -> Step | None:
    return len(level.value) if isinstance(level.value, list) else level.key


def _plain(text: str) -> Any:
    """Value of an unquoted scalar, as go-yaml resolves it: null, bool, int of 64 bits, finite float, else a string."""
    if text in _NULLS:
        return None
    if text in _BOOLS:
        return _BOOLS[text]
    if len(text) > _LONGEST_NUMBER:
        return text
    if _INT.fullmatch(text):
        value = _integer(text)
        if -(1 << 63) <= value < 1 << 64:
            return value
    if _FLOAT.fullmatch(text):
        number = float(text)
        if math.isfinite(number):
            return number
    return text


_LONGEST_NUMBER: Final = 128


def _integer(text: str) -> int:
    digits = text.lstrip("+-")
    value = int(digits, 8) if re.fullmatch(r"0[0-7]+", digits) else int(digits, 0)
    return -value if text.startswith("-") else value


def _kind(value: object) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return "a boolean"
        case int() | float():
            return "a number"
        case _:
            return "something else"
