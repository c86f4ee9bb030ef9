"""Loading of plugins: entry points and configuration in, a checked and ordered set of objects out."""

from meshless_core.plugins.kinds import AGENT_NEEDS, KIND_RULES, RECONCILER_NEEDS, Kind
from meshless_core.plugins.lifecycle import START_TIMEOUT, PluginLifecycle
from meshless_core.plugins.loaded import LoadedPlugins, Registration
from meshless_core.plugins.loader import installed_plugins, load_plugins, load_uninstalled

__all__ = [
    "AGENT_NEEDS",
    "KIND_RULES",
    "RECONCILER_NEEDS",
    "START_TIMEOUT",
    "Kind",
    "LoadedPlugins",
    "PluginLifecycle",
    "Registration",
    "installed_plugins",
    "load_plugins",
    "load_uninstalled",
]
