"""Reads `meshless.yaml` into a `Config`, and writes one back.

A missing key means its default and nothing else; there is no cascade of files or environment variables to wonder about. An
explicit `plugins:` replaces the default set, so that what is written is what runs. Options of plugins are kept as written: the
loader structures them, since only it knows their classes.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, Final

import attrs
import yaml

from meshless_core.config.settings import AgentSettings, Config, MeshSettings, PluginSetting, ReconcilerSettings
from meshless_core.config.structuring import Seconds, structure
from meshless_core.errors import ConfigError, Problem
from meshless_core.meshlet import Marks, format_duration
from meshless_core.meshlet.reading import Fields, ProblemLog, describe
from meshless_core.meshlet.yaml_source import MAX_TEXT_LENGTH, read_yaml

__all__ = ["config_to_data", "config_to_yaml", "load_config", "parse_config"]

_SECTIONS: Final[Mapping[str, type[Any]]] = {
    "mesh": MeshSettings,
    "agent": AgentSettings,
    "reconciler": ReconcilerSettings,
}


def load_config(path: str | os.PathLike[str] | None) -> Config:
    """Read a configuration file.

    Args:
        path: the file; None for the defaults.

    Raises:
        ConfigError: the file cannot be read (then chained to the `OSError`), or with every problem in it.
    """
    if path is None:
        return Config()
    source = os.fspath(path)
    try:
        with open(source, encoding="utf-8") as file:
            text = file.read(MAX_TEXT_LENGTH + 1)
    except OSError as error:
        raise ConfigError([Problem("", f"cannot be read: {error.strerror or error}", source)]) from error
    except UnicodeDecodeError as error:
        raise ConfigError([Problem("", "is not utf-8 text: save it as utf-8", source)]) from error
    return parse_config(text, source)


def load_plugin_settings(path: str | os.PathLike[str]) -> tuple[PluginSetting, ...] | None:
    """The plugins a configuration file names, as far as they can be read, whatever else is wrong with the file.

    Args:
        path: the file.

    Returns:
        They in their order; None if the file names none or cannot be read.
    """
    source = os.fspath(path)
    try:
        with open(source, encoding="utf-8") as file:
            documents, _ = read_yaml(file.read(MAX_TEXT_LENGTH + 1), source)
    except (OSError, UnicodeDecodeError):
        return None
    if not documents:
        return None
    top = Fields.of(documents[0].value, (), ProblemLog(source, documents[0].marks))
    return None if top is None else _plugins(top, source, documents[0].marks)


def parse_config(text: str, source: str) -> Config:
    """Read a configuration from text.

    Args:
        text: YAML, one document; an empty one means the defaults.
        source: file name or other origin, for messages.

    Raises:
        ConfigError: with every problem found, each with file:line, path and fix.
    """
    documents, problems = read_yaml(text, source)
    if len(documents) > 1:
        second = documents[1].marks.line
        problems.append(Problem("", "a second document starts here: a configuration is one document", source, second))
    if not documents:
        if problems:
            raise ConfigError(problems)
        return Config()
    log = ProblemLog(source, documents[0].marks)
    config = _config(documents[0].value, source, documents[0].marks, log)
    problems += log.problems
    if problems or config is None:
        raise ConfigError(sorted(problems, key=lambda problem: problem.line))
    return config


def _config(value: object, source: str, marks: Marks, log: ProblemLog) -> Config | None:
    top = Fields.of(value, (), log)
    if top is None:
        return None
    top.only([*_SECTIONS, "plugins"])
    sections: dict[str, Any] = {}
    for name, cls in _SECTIONS.items():
        raw = top.value(name, Mapping, "a mapping")
        if raw is not None:
            sections[name] = structure(cls, raw, path=(name,), log=log)
    plugins = _plugins(top, source, marks)
    if log.problems:
        return None
    config = Config(**sections) if plugins is None else Config(**sections, plugins=plugins)
    _check_together(config, log)
    return config


def _plugins(top: Fields, source: str, marks: Marks) -> tuple[PluginSetting, ...] | None:
    if "plugins" in top and top.is_list("plugins"):
        top.problem("plugins", "must be a mapping from plugin name to options, not a sequence: write `<name>: {}`")
        return None
    raw = top.value("plugins", Mapping, "a mapping from plugin name to options")
    if raw is None:
        return None
    found = []
    inner = marks.children["plugins"].children
    for name, options in raw.items():
        if options is not None and not isinstance(options, Mapping):
            path = (*top.path, "plugins", name)
            top.log.add(path, f"must be a mapping of options, not {describe(options)}: write {{}} for the defaults")
            options = None  # it is named all the same, so nobody misses it besides
        found.append(PluginSetting(name, options or {}, source, inner[name].line, inner[name]))
    return tuple(found)


def _check_together(config: Config, log: ProblemLog) -> None:
    """Settings that only make sense together."""
    agent = config.agent
    if agent.ejection_max < agent.ejection_base:
        log.add(("agent", "ejection_max"), "must be at least ejection_base: raise it, or lower ejection_base")
    if agent.endpoint_timeout > agent.connect_timeout:
        log.add(("agent", "endpoint_timeout"), "must be at most connect_timeout: lower it, or raise connect_timeout")


def config_to_data(config: Config) -> dict[str, Any]:
    """The effective configuration as plain JSON values, durations as Go writes them, every default spelt out."""
    data: dict[str, Any] = {name: _section(getattr(config, name)) for name in _SECTIONS}
    data["plugins"] = {plugin.name: dict(plugin.options_raw) for plugin in config.plugins}
    return data


def _section(settings: Any) -> dict[str, Any]:
    attrs.resolve_types(type(settings))
    return {field.name: _written(field, getattr(settings, field.name)) for field in attrs.fields(type(settings))}


def _written(field: attrs.Attribute[Any], value: Any) -> Any:
    return format_duration(round(value * 1_000_000_000)) if field.type is Seconds else value


def config_to_yaml(config: Config) -> str:
    """The effective configuration as YAML; `parse_config` reads it back to an equal one."""
    text: str = yaml.safe_dump(config_to_data(config), sort_keys=False, allow_unicode=True, width=120)
    return text
