"""Reads the configuration of a command that loads plugins: what is wrong with either is told at once."""

from __future__ import annotations

import attrs

from meshless_core.config import Config, load_config, load_plugin_settings
from meshless_core.errors import ConfigError, PluginError
from meshless_core.plugins import Kind, load_plugins

__all__ = ["load_config_for"]


def load_config_for(path: str | None, needs: frozenset[Kind], *, made_from: str | None = None) -> Config:
    """Read a configuration file.

    Args:
        path: the file; None for the defaults.
        needs: kinds of plugins the command cannot work without.
        made_from: the file that one was made from: what is wrong with a plugin is told with that file's lines. None if it was
            written by hand.

    Raises:
        ConfigError: the file cannot be read (then chained to the `OSError`), or with every problem in it, those of its plugins
            included. A file that is right otherwise is returned: who loads its plugins finds what is wrong with them.
    """
    try:
        config = load_config(path)
        return config if made_from is None else _told_as_in(made_from, config)
    except ConfigError as error:
        plugins = load_plugin_settings(path) if path is not None else None
        if plugins is None:
            raise
        try:
            load_plugins(Config(plugins=plugins), needs=needs)
        except PluginError as others:
            problems = [*error.problems, *others.problems]
            raise ConfigError(sorted(problems, key=lambda problem: problem.line)) from error
        raise


def _told_as_in(path: str, config: Config) -> Config:
    """The same configuration, with the places in another file for the plugins that this file names too, if it can be read."""
    written = {setting.name: setting for setting in load_plugin_settings(path) or ()}
    plugins = tuple(
        attrs.evolve(setting, source=there.source, line=there.line, marks=there.marks)
        if (there := written.get(setting.name)) is not None
        else setting
        for setting in config.plugins
    )
    return attrs.evolve(config, plugins=plugins)
