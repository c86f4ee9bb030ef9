"""Plain data to frozen attrs classes, strictly: for our own settings and for the options of every plugin.

cattrs dispatches on types; every hook here is ours, because as shipped it makes `True` of `"false"`, 5 of `"5"`, `[8, 0]` of
`"80"`, drops unknown keys and loses the text of validators (each reproduced in the tests). Every problem is collected, with its
path. This module must not know a particular setting.
"""

from __future__ import annotations

import enum
import math
import pathlib
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, NewType, TypeVar

import attrs
import cattrs
from cattrs.cols import is_frozenset, is_mapping, is_sequence, is_set
from cattrs.strategies import configure_union_passthrough

from meshless_core.errors import InvalidDurationError
from meshless_core.meshlet import parse_duration
from meshless_core.meshlet.reading import ProblemLog, describe, is_integer, nearest
from meshless_core.meshlet.yaml_source import Step

__all__ = ["Seconds", "UnsupportedTypeError", "structure", "supports"]

Seconds = NewType("Seconds", float)
"""A duration in seconds, written as Go writes durations: `5s`, `1m30s`, `250ms`. Never negative."""

_T = TypeVar("_T")
_NS_PER_SECOND: Final = 1_000_000_000


class UnsupportedTypeError(TypeError):
    """A class to be filled has a field of a type this module cannot fill: a mistake of its author, not of the user."""


class _Wrong(ValueError):  # noqa: N818 - control flow inside this module: a value is not what the field needs
    """One value is wrong; the path is added on the way up."""


class _Several(ValueError):  # noqa: N818 - control flow inside this module
    """Problems of the parts of a value, each with the step that leads to it (None: the value as a whole)."""

    def __init__(self, parts: Iterable[tuple[Step | None, Exception]]) -> None:
        super().__init__()
        self.parts = tuple(parts)


def structure(cls: type[_T], value: object, *, path: tuple[Step, ...], log: ProblemLog) -> _T | None:
    """Make an instance of an attrs class from plain data.

    Args:
        cls: the attrs class; see `supports`.
        value: plain JSON values.
        path: where `value` stands in its document.
        log: takes every problem found.

    Returns:
        The instance, None if there was a problem.

    Raises:
        UnsupportedTypeError: the class has a field of a type that cannot be filled.
    """
    try:
        return _converter().structure(value, cls)
    except cattrs.StructureHandlerNotFoundError as error:
        raise UnsupportedTypeError(str(error)) from error
    except UnsupportedTypeError:
        raise
    except Exception as error:  # noqa: BLE001 - validators and converters of a plugin's class may raise anything
        _collect(error, path, log)
        return None


def supports(cls: type[Any]) -> str | None:
    """What keeps an attrs class from being filled, None if nothing does."""
    try:
        _converter().get_structure_hook(cls)
    except (UnsupportedTypeError, cattrs.StructureHandlerNotFoundError) as error:
        return str(error)
    return None


def _collect(error: Exception, path: tuple[Step, ...], log: ProblemLog) -> None:
    if isinstance(error, _Several):
        for step, inner in error.parts:
            _collect(inner, path if step is None else (*path, step), log)
        return
    if isinstance(error, _Wrong):
        log.add(path, str(error))
        return
    # attrs' own validators raise with the text, the attribute, ... as arguments: the text is what a person needs.
    text = str(error.args[0]) if error.args else type(error).__name__
    log.add(path, text if isinstance(error, ValueError | TypeError) else f"{type(error).__name__}: {text}")


# --- scalars ---------------------------------------------------------------------------------------------------------


def _bool(value: object, _: object) -> bool:
    if isinstance(value, bool):
        return value
    raise _Wrong(f"must be true or false, not {describe(value)}{_unquote(value, _is_bool)}")


def _int(value: object, _: object) -> int:
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    raise _Wrong(f"must be an integer, not {describe(value)}{_unquote(value, is_integer)}")


def _float(value: object, _: object) -> float:
    if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        return float(value)
    raise _Wrong(f"must be a number, not {describe(value)}{_unquote(value, _is_number)}")


def _str(value: object, _: object) -> str:
    if isinstance(value, str):
        return value
    hint = ": put it in quotes" if isinstance(value, bool | int | float) else ""
    raise _Wrong(f"must be a string, not {describe(value)}{hint}")


def _unquote(value: object, would_do: Callable[[str], bool]) -> str:
    return ": write it without quotes" if isinstance(value, str) and would_do(value) else ""


def _is_bool(text: str) -> bool:
    return text in ("true", "false")


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def _path(value: object, _: object) -> pathlib.Path:
    text = _str(value, str)
    if not text or "\0" in text:
        raise _Wrong(f"must be a path, not {describe(text)}")
    return pathlib.Path(text)


def _seconds(value: object, _: object) -> Seconds:
    if isinstance(value, int | float) and not isinstance(value, bool):
        if value == 0:
            return Seconds(0.0)
        raise _Wrong(f"must be a duration with a unit, not {describe(value)}: write for example {value}s")
    if not isinstance(value, str):
        raise _Wrong(f"must be a duration such as 5s, not {describe(value)}")
    try:
        duration = parse_duration(value)
    except InvalidDurationError as error:
        raise _Wrong(str(error)) from error
    if duration < 0:
        raise _Wrong(f"must not be negative, {describe(value)} is")
    return Seconds(duration / _NS_PER_SECOND)


def _literal(value: object, cls: Any) -> Any:
    choices = typing.get_args(cls)
    for choice in choices:
        if type(choice) is type(value) and choice == value:
            return choice
    raise _Wrong(f"must be {_one_of(choices)}, not {describe(value)}")


def _enum(value: object, cls: type[enum.Enum]) -> enum.Enum:
    for member in cls:
        if type(member.value) is type(value) and member.value == value:
            return member
    raise _Wrong(f"must be {_one_of([member.value for member in cls])}, not {describe(value)}")


def _one_of(choices: Iterable[object]) -> str:
    return " or ".join(str(choice) for choice in choices)


# --- collections -----------------------------------------------------------------------------------------------------


def _sequence_hook(cls: Any, converter: cattrs.Converter) -> Callable[[object, Any], Any]:
    """Sequences come from YAML sequences only: a string is not one, whatever Python thinks."""
    arguments = typing.get_args(cls)
    origin = typing.get_origin(cls) or cls
    fixed = origin is tuple and bool(arguments) and arguments[-1] is not Ellipsis
    element: Any = arguments[0] if arguments else Any
    hooks = [(kind, converter.get_structure_hook(kind)) for kind in (arguments if fixed else [element])]
    build: Callable[[list[Any]], Any] = origin if origin in (list, set, frozenset) else tuple

    def read(value: object, _: object) -> Any:
        if not isinstance(value, list | tuple):
            raise _Wrong(f"must be a sequence, not {describe(value)}: write [{_sample(value)}]")
        if fixed and len(value) != len(hooks):
            raise _Wrong(f"must have {len(hooks)} entries, not {len(value)}")
        found, wrong = [], []
        for index, item in enumerate(value):
            kind, hook = hooks[index if fixed else 0]
            try:
                found.append(hook(item, kind))
            except Exception as error:  # noqa: BLE001 - collected, shown with its path
                wrong.append((index, error))
        if wrong:
            raise _Several(wrong)
        if build in (set, frozenset) and len(set(found)) != len(found):
            raise _Wrong("must not list the same value twice")
        return build(found)

    return read


def _sample(value: object) -> str:
    return str(value) if isinstance(value, str | int | float) and len(str(value)) <= 32 else "..."


def _mapping_hook(cls: Any, converter: cattrs.Converter) -> Callable[[object, Any], Any]:
    arguments = typing.get_args(cls)
    kind: Any = arguments[1] if len(arguments) == 2 else Any
    if arguments and arguments[0] is not str:
        raise UnsupportedTypeError(f"mappings need string keys, {cls} has others")
    hook = converter.get_structure_hook(kind)

    def read(value: object, _: object) -> dict[str, Any]:
        if not isinstance(value, Mapping):
            raise _Wrong(f"must be a mapping, not {describe(value)}")
        found: dict[str, Any] = {}
        wrong: list[tuple[Step | None, Exception]] = []
        for key, item in value.items():
            try:
                found[key] = hook(item, kind)
            except Exception as error:  # noqa: BLE001 - collected, shown with its path
                wrong.append((key, error))
        if wrong:
            raise _Several(wrong)
        return found

    return read


# --- attrs classes ---------------------------------------------------------------------------------------------------


def _class_hook(cls: Any, converter: cattrs.Converter) -> Callable[[object, Any], Any]:
    try:
        attrs.resolve_types(cls)
    except NameError as error:
        raise UnsupportedTypeError(f"a type annotation of {cls.__qualname__} cannot be resolved: {error}") from error
    fields = {field.alias: field for field in attrs.fields(cls) if field.init}
    hooks = {name: converter.get_structure_hook(field.type or Any) for name, field in fields.items()}

    def read(value: object, _: object) -> Any:
        if not isinstance(value, Mapping):
            raise _Wrong(f"must be a mapping, not {describe(value)}{': write {} for the defaults' if value is None else ''}")
        wrong: list[tuple[Step | None, Exception]] = [
            (key, _Wrong(f"unknown setting, {nearest(str(key), fields)}")) for key in value if key not in fields
        ]
        found: dict[str, Any] = {}
        for name, field in fields.items():
            if name in value:
                try:
                    found[name] = hooks[name](value[name], field.type)
                except Exception as error:  # noqa: BLE001 - collected, shown with its path
                    wrong.append((name, error))
            elif field.default is attrs.NOTHING:
                wrong.append((None, _Wrong(f"required setting {name!r} is missing")))
        wrong += _validate(cls, found, fields)
        if wrong:
            raise _Several(wrong)
        return cls(**found)

    return read


def _validate(
    cls: Any, found: Mapping[str, Any], fields: Mapping[str, attrs.Attribute[Any]]
) -> Iterable[tuple[Step | None, Exception]]:
    """Run each field's validator by itself: attrs would stop at the first that raises.

    A validator may look at other fields of its instance, so it gets one that was made without validation.
    """
    missing = any(field.default is attrs.NOTHING and name not in found for name, field in fields.items())
    if missing or not any(field.validator for field in fields.values()):
        return
    probe = object.__new__(cls)
    try:
        with attrs.validators.disabled():
            probe.__init__(**found)
    except Exception as error:  # noqa: BLE001 - converters of a plugin's class may raise anything
        yield None, error
        return
    for name, field in fields.items():
        if field.validator is not None and name in found:
            try:
                field.validator(probe, field, getattr(probe, field.name))
            except Exception as error:  # noqa: BLE001 - collected, shown with its path
                yield name, error


def _is_literal(cls: Any) -> bool:
    return typing.get_origin(cls) is typing.Literal


def _is_enum(cls: Any) -> bool:
    return isinstance(cls, type) and issubclass(cls, enum.Enum)


def _is_collection(cls: Any) -> bool:
    if cls is str or cls is bytes:
        return False
    origin = typing.get_origin(cls) or cls
    return origin is tuple or bool(is_sequence(cls) or is_set(cls) or is_frozenset(cls) or origin is Sequence)


def _converter() -> cattrs.Converter:
    """A new converter: classes of plugins are few, and nothing of one load may leak into the next."""
    converter = cattrs.Converter(forbid_extra_keys=True)
    configure_union_passthrough(str | bool | int | float | None, converter)
    for kind, hook in ((bool, _bool), (int, _int), (float, _float), (str, _str), (pathlib.Path, _path)):
        converter.register_structure_hook(kind, hook)
    converter.register_structure_hook_func(lambda cls: cls is Seconds, _seconds)
    converter.register_structure_hook_func(_is_literal, _literal)
    converter.register_structure_hook_func(_is_enum, _enum)
    converter.register_structure_hook_factory(_is_collection, _sequence_hook)
    converter.register_structure_hook_factory(is_mapping, _mapping_hook)
    converter.register_structure_hook_factory(attrs.has, _class_hook)
    return converter
