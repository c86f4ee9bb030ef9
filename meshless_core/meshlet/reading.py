"""Reading fields out of plain data while collecting every problem, each with its path and line.

Why: a person who made three mistakes should see three messages, not one per attempt. A method answers None when the value is
missing or wrong; the problem is then already noted, and the caller goes on. This module must not know any resource.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from meshless_core.errors import Problem
from meshless_core.meshlet.yaml_source import Marks, Step, format_path
from meshless_core.types import is_dns_label

__all__ = ["MAX_INT32", "Fields", "ProblemLog", "describe", "is_integer", "nearest"]

MAX_INT32 = 2**31 - 1


def nearest(word: str, known: Collection[str]) -> str:
    """A hint for a word that is none of `known`: the nearest one, else all of them."""
    near = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    if near:
        return f"did you mean {near[0]!r}?"
    return f"known are {', '.join(sorted(known))}" if known else "none is known here"


def is_integer(text: str) -> bool:
    """Whether a string would be an integer if it were written without quotes."""
    digits = text.removeprefix("-")
    return digits.isascii() and digits.isdigit()


def describe(value: object) -> str:
    """What a plain value is, for messages; long values are cut."""
    match value:
        case None:
            return "nothing (null)"
        case bool():
            return f"the boolean {str(value).lower()}"
        case int() | float():
            return f"the number {value}"
        case str():
            return f"the string {value if len(value) <= 64 else value[:64] + '...'!r}"
        case Mapping():
            return "a mapping"
        case _:
            return "a sequence"


class ProblemLog:
    """Collects problems of one document.

    Attributes:
        problems: what was found, in the order of discovery.
    """

    def __init__(self, source: str, marks: Marks | None) -> None:
        self.problems: list[Problem] = []
        self._source = source
        self._marks = marks

    def add(self, path: Sequence[Step], message: str) -> None:
        """Note a problem with the value at `path`; a field that is read twice is wrong once."""
        line = self._marks.line_of(path) if self._marks is not None else 0
        problem = Problem(format_path(path), message, self._source, line)
        if problem not in self.problems:
            self.problems.append(problem)

    def in_order(self) -> list[Problem]:
        """The problems by line."""
        return sorted(self.problems, key=lambda problem: problem.line)


class Fields:
    """A mapping of a document with the path it stands at."""

    def __init__(self, data: Mapping[str, Any], path: tuple[Step, ...], log: ProblemLog) -> None:
        self._data = data
        self.path = path
        self.log = log

    @classmethod
    def of(cls, value: object, path: tuple[Step, ...], log: ProblemLog) -> Fields | None:
        """Wrap a mapping; anything else is noted as a problem."""
        if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
            return cls(value, path, log)
        log.add(path, f"must be a mapping with string keys, not {describe(value)}")
        return None

    def __contains__(self, key: str) -> bool:
        return key in self._data

    def __iter__(self) -> Iterator[str]:
        return iter(self._data)

    def problem(self, key: Step | None, message: str) -> None:
        """Note a problem with a field, or with the mapping itself when `key` is None."""
        self.log.add(self.path if key is None else (*self.path, key), message)

    def only(self, known: Collection[str], *, hints: Mapping[str, str] | None = None) -> None:
        """Note every field that is not known; `hints` says what to do about particular ones."""
        for key in self._data:
            if key not in known:
                hint = (hints or {}).get(key) or nearest(key, known)
                self.problem(key, f"unknown field, {hint}")

    def raw(self, key: str) -> Any:
        """Value of a field as it is, None if it is not there."""
        return self._data.get(key)

    def is_empty(self, key: str) -> bool:
        """Whether the field is there and is an empty mapping or sequence."""
        return key in self._data and self._data[key] in ({}, [], ())

    def is_list(self, key: str) -> bool:
        """Whether the field is there and is a sequence."""
        return isinstance(self._data.get(key), list | tuple)

    def is_zero(self, key: str) -> bool:
        """Whether the field is there and is the integer 0."""
        value = self._data.get(key)
        return type(value) is int and value == 0

    def required(self, key: str, cure: str = "") -> bool:
        """Whether the field is there; noted if not, with the cure where there is one."""
        if key in self._data:
            return True
        self.problem(None, f"required field {key!r} is missing{cure and f': {cure}'}")
        return False

    def value(self, key: str, kind: type | tuple[type, ...], name: str) -> Any:
        """Value of a field if it is there and of the kind; bool is never taken for a number."""
        if key not in self._data:
            return None
        value = self._data[key]
        if isinstance(value, kind) and not (isinstance(value, bool) and kind is not bool):
            return value
        hint = ""
        if value is None:
            hint = ": give it a value or remove it"
        elif kind is str and isinstance(value, bool | int | float):
            hint = ": put it in quotes"
        elif kind is int and isinstance(value, str) and is_integer(value):
            hint = ": write it without quotes"
        self.problem(key, f"must be {name}, not {describe(value)}{hint}")
        return None

    def string(self, key: str) -> str | None:
        """A string."""
        value: str | None = self.value(key, str, "a string")
        return value

    def label(self, key: str) -> str | None:
        """A DNS label."""
        value = self.string(key)
        if value is None or is_dns_label(value):
            return value
        self.problem(key, f"{describe(value)} is not a DNS label: use 1 to 63 of a-z, 0-9 and '-', no '-' at the ends")
        return None

    def integer(self, key: str, *, least: int, most: int = MAX_INT32) -> int | None:
        """An integer within bounds."""
        raw = self._data.get(key)
        if isinstance(raw, float) and abs(raw) > most:  # also how a long row of digits is read
            self.problem(key, f"must be an integer from {least} to {most}, not {raw:g}")
            return None
        value: int | None = self.value(key, int, "an integer")
        if value is not None and not least <= value <= most:
            self.problem(key, f"must be an integer from {least} to {most}, not {value}")
            return None
        return value

    def boolean(self, key: str) -> bool | None:
        """True or false."""
        value: bool | None = self.value(key, bool, "true or false")
        return value

    def fields(self, key: str) -> Fields | None:
        """A mapping."""
        value = self.value(key, Mapping, "a mapping")
        return None if value is None else Fields.of(value, (*self.path, key), self.log)

    def items(self, key: str) -> list[Fields] | None:
        """A sequence of mappings; entries that are not are noted and left out."""
        value = self.value(key, (list, tuple), "a sequence")
        if value is None:
            return None
        entries = (Fields.of(item, (*self.path, key, index), self.log) for index, item in enumerate(value))
        return [entry for entry in entries if entry is not None]
