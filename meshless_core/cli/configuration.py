"""Reads the configuration of a command that loads plugins: what is wrong with either is told at once."""

from __future__ import annotations

from meshless_core.config import Config, load_config, load_plugin_settings
from meshless_core.errors import ConfigError, PluginError
from meshless_core.plugins import Kind, load_plugins

__all__ = ["load_config_for"]


def load_config_for(path: str | None, needs: frozenset[Kind]) -> Config:
    """Read a configuration file.

    Args:
        path: the file; None for the defaults.
        needs: kinds of plugins the command cannot work without.

    Raises:
        ConfigError: the file cannot be read (then chained to the `OSError`), or with every problem in it, those of its plugins
            included. A file that is right otherwise is returned: who loads its plugins finds what is wrong with them.
    """
    try:
        return load_config(path)
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
