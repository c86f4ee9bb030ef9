"""The page of settings: every key of `meshless.yaml` and every option of the plugins in this repository."""

from __future__ import annotations

import importlib
import importlib.metadata
import types
import typing
from collections.abc import Iterator, Sequence
from pathlib import Path

import attrs

from docs.generate.page import GenerationError, Page, docstring, prose, table, titled
from meshless_core import ENTRY_POINT_GROUP, PluginSpec
from meshless_core.config import Config, Seconds
from meshless_core.meshlet import format_duration

__all__ = ["PAGE", "Setting", "core_settings", "plugin_settings"]


@attrs.frozen
class Setting:
    """One documented key: its path, type, default and reason."""

    path: str
    type: str
    default: str
    doc: str


_PLUGINS = Path(__file__).resolve().parents[2] / "plugins"
_WRITTEN: dict[object, str] = {str: "string", int: "integer", float: "number", bool: "boolean", Path: "path"}
"""What a type is called in YAML."""


def _type_name(annotation: object) -> str:
    if isinstance(annotation, str):
        return annotation
    if annotation is type(None):
        return "null"
    if annotation is Seconds:
        return "duration"
    if annotation in _WRITTEN:
        return _WRITTEN[annotation]
    if typing.get_origin(annotation) in (tuple, list, Sequence):
        return f"list of {_type_name(typing.get_args(annotation)[0])}"
    if isinstance(annotation, types.UnionType) or typing.get_origin(annotation) is typing.Union:
        return " or ".join(_type_name(part) for part in typing.get_args(annotation))
    if isinstance(annotation, type) and not typing.get_args(annotation):
        return annotation.__name__
    return str(annotation).replace("typing.", "").replace("collections.abc.", "")


def _default(field: attrs.Attribute[object], kind: object) -> str:
    value: object = field.default
    if value is attrs.NOTHING:
        return "required"
    if factory := getattr(value, "factory", None):  # what attrs.Factory leaves; the name itself is typed as a function
        value = factory()
    match value:
        case None:
            return "none"
        case bool():
            return f"`{str(value).lower()}`"
        case float() if _type_name(kind).startswith("duration"):
            return f"`{format_duration(round(value * 1e9))}`"
        case str() if not value:
            return '`""`'
        case tuple() | list():
            return f"`[{', '.join(map(str, value))}]`"
        case _:
            return f"`{value}`"


def _settings(cls: type, prefix: str) -> Iterator[Setting]:
    hints = typing.get_type_hints(cls)
    for field in attrs.fields(cls):
        path = f"{prefix}{field.name}"
        kind = hints.get(field.name, field.type)
        if isinstance(kind, type) and attrs.has(kind):
            yield from _settings(kind, f"{path}.")
            continue
        if field.metadata.get("internal"):
            continue
        doc = field.metadata.get("doc")
        if not doc:
            raise GenerationError(f"setting {path} ({cls.__name__}.{field.name}) lacks metadata={{'doc': unit, default, why}}")
        yield Setting(path, _type_name(kind), _default(field, kind), str(doc))


def core_settings() -> dict[str, tuple[type, tuple[Setting, ...]]]:
    """Every section of `meshless.yaml` with its class and settings.

    Raises:
        GenerationError: a setting says nothing about itself.
    """
    hints = typing.get_type_hints(Config)
    sections = {}
    for field in attrs.fields(Config):
        kind = hints[field.name]
        if isinstance(kind, type) and attrs.has(kind):
            sections[field.name] = (kind, tuple(_settings(kind, f"{field.name}.")))
    return sections


def plugin_settings() -> dict[str, tuple[str, str, tuple[Setting, ...]]]:
    """Per plugin of this repository: its distribution, the first words about it, and its options.

    Raises:
        GenerationError: a plugin cannot be imported, or an option says nothing about itself.
    """
    ours = {"meshless", *(f"meshless-{path.name.replace('_', '-')}" for path in _PLUGINS.iterdir())}
    found = {}
    for entry in sorted(importlib.metadata.entry_points(group=ENTRY_POINT_GROUP), key=lambda entry: entry.name):
        distribution = entry.dist.name if entry.dist else ""
        if distribution not in ours:
            continue
        try:
            module = importlib.import_module(entry.module)
        except ImportError as error:
            raise GenerationError(f"plugin {entry.name} ({entry.module}) cannot be imported: {error}") from error
        specs = [
            function()
            for name, function in vars(module).items()
            if name.startswith("meshless_register_") and hasattr(function, "meshless_impl")
        ]
        options = {spec.options for spec in specs if isinstance(spec, PluginSpec)}
        if not options:
            raise GenerationError(f"plugin {entry.name} ({entry.module}) registers nothing")
        settings = tuple(
            setting
            for cls in sorted(options, key=lambda cls: cls.__qualname__)
            for setting in _settings(cls, f"plugins.{entry.name}.")
        )
        summary = docstring(module, entry.module).split("\n\n")[0]
        found[entry.name] = (distribution, summary, settings)
    return found


def _rows(settings: tuple[Setting, ...]) -> str:
    if not settings:
        return "No options."
    return table(
        ("setting", "type", "default", "meaning"),
        [(f"`{setting.path}`", f"`{setting.type}`", setting.default, setting.doc) for setting in settings],
    )


def _render() -> str:
    parts = []
    for name, (cls, settings) in core_settings().items():
        parts.append(f"## {name}\n\n{prose(docstring(cls, cls.__name__))}\n\n{_rows(settings)}")
    parts.append(
        "## plugins\n\nA mapping from a plugin's name to its options. Only plugins named here are active, in the written "
        "order; without the key the default set is."
    )
    for name, (distribution, summary, settings) in plugin_settings().items():
        parts.append(f"### {name}\n\n{summary}\n\nDistribution `{distribution}`.\n\n{_rows(settings)}")
    introduction = (
        "Everything `meshless.yaml` may say. The file is read strictly: an unknown key, a wrong type or a duplicate is an "
        "error with file, line and path. Without a file every default holds."
    )
    return titled("Settings", "meshless_core/config and the plugins' options classes", introduction, parts)


PAGE = Page("settings.md", _render)
