"""`meshless.yaml`: strict YAML to frozen settings, every problem at once with file, line, path and fix."""

from meshless_core.config.loading import config_to_data, config_to_yaml, load_config, load_plugin_settings, parse_config
from meshless_core.config.settings import (
    DEFAULT_PLUGINS,
    AgentSettings,
    Config,
    MeshSettings,
    PluginSetting,
    ReconcilerSettings,
)
from meshless_core.config.structuring import Seconds

__all__ = [
    "DEFAULT_PLUGINS",
    "AgentSettings",
    "Config",
    "MeshSettings",
    "PluginSetting",
    "ReconcilerSettings",
    "Seconds",
    "config_to_data",
    "config_to_yaml",
    "load_config",
    "load_plugin_settings",
    "parse_config",
]
