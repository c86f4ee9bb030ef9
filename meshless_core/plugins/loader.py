"""Turns the configuration and the installed entry points into a checked, ordered set of plugins, or one error that tells all.

The rules, each against a trap (docs/adr/0010):

- Only plugins the configuration names are imported, each by itself: one that fails keeps no other from being checked.
- Order is the configuration's. pluggy's own (last registered first, `tryfirst`, `sys.path`) never counts: we keep name and
  object together and call each plugin's hook ourselves.
- Two distributions claiming one name is an error, not "the first on the path".
- The manager is made here, per load. Nothing happens at import.

This module must not create or start a plugin: `LoadedPlugins` and `PluginLifecycle` do.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable, Iterable
from difflib import get_close_matches
from importlib.metadata import EntryPoint
from typing import Any

import attrs
import pluggy

from meshless_core.config import Config, PluginSetting
from meshless_core.config.structuring import structure
from meshless_core.errors import PluginError, Problem
from meshless_core.hookspecs import ENTRY_POINT_GROUP, HandshakeSpec, Hooks
from meshless_core.meshlet import Marks
from meshless_core.meshlet.reading import ProblemLog
from meshless_core.meshlet.yaml_source import format_path
from meshless_core.plugins.inspection import article, problems_of_hooks, problems_of_spec
from meshless_core.plugins.kinds import KIND_RULES, Kind
from meshless_core.plugins.loaded import LoadedPlugins, Registration

__all__ = ["installed_plugins", "load_plugins", "load_uninstalled"]


def installed_plugins() -> tuple[EntryPoint, ...]:
    """Every plugin that is installed, enabled or not."""
    return tuple(importlib.metadata.entry_points(group=ENTRY_POINT_GROUP))


def load_plugins(
    config: Config,
    *,
    needs: frozenset[Kind] = frozenset(),
    registry: Callable[[], Iterable[EntryPoint]] = installed_plugins,
) -> LoadedPlugins:
    """Import and check the plugins a configuration names.

    Args:
        config: names the plugins, their order and options.
        needs: kinds this process cannot work without (`AGENT_NEEDS`, `RECONCILER_NEEDS`).
        registry: tells what is installed.

    Raises:
        PluginError: with every problem of every plugin, each naming the plugin, its distribution and version, and the fix.
    """
    loader = _Loader(tuple(registry()))
    for order, setting in enumerate(config.plugins, start=1):
        loader.load(order, setting)
    loader.check_the_set(needs, source=config.plugins[0].source if config.plugins else "")
    if loader.problems:
        raise PluginError(loader.problems)
    return LoadedPlugins(tuple(loader.registrations))


def load_uninstalled(plugin: object, name: str) -> LoadedPlugins:
    """Check one plugin as `load_plugins` does, without options, though it may not be installed.

    Args:
        plugin: the module or object that has the hooks.
        name: what to call it in problems.

    Raises:
        PluginError: with every problem of the plugin.
    """
    loader = _Loader(())
    loader.take(plugin, _Candidate(PluginSetting(name), 1, "your distribution", ""))
    if loader.problems:
        raise PluginError(loader.problems)
    return LoadedPlugins(tuple(loader.registrations))


def _owner(entry: EntryPoint) -> tuple[str, str]:
    """Distribution and version an entry point comes from."""
    dist = entry.dist
    return (dist.name, dist.version) if dist is not None else ("an unknown distribution", "")


@attrs.frozen
class _Candidate:
    """A plugin while it is being checked."""

    setting: PluginSetting
    order: int
    distribution: str
    version: str

    @property
    def owner(self) -> str:
        return f"{self.distribution} {self.version}".strip()


class _Loader:
    def __init__(self, installed: tuple[EntryPoint, ...]) -> None:
        self.problems: list[Problem] = []
        self.registrations: list[Registration] = []
        self._installed = installed
        self._failed = False
        self._core = f"meshless {importlib.metadata.version('meshless')}"
        self._manager = pluggy.PluginManager("meshless")
        self._manager.add_hookspecs(Hooks)

    def load(self, order: int, setting: PluginSetting) -> None:
        before = len(self.problems)
        entry = self._find(setting)
        if entry is not None:
            candidate = _Candidate(setting, order, *_owner(entry))
            plugin = self._import(entry, candidate)
            if plugin is not None:
                self.take(plugin, candidate)
        self._failed = self._failed or len(self.problems) > before

    def take(self, plugin: object, candidate: _Candidate) -> None:
        """Check what has been imported, and register what it provides."""
        if self._register(plugin, candidate):
            self._ask(candidate)

    def _add(self, setting: PluginSetting, message: str) -> None:
        self.problems.append(Problem(format_path(("plugins", setting.name)), message, setting.source, setting.line))

    def _blame(self, candidate: _Candidate, message: str) -> None:
        self._add(candidate.setting, f"plugin {candidate.setting.name} of {candidate.owner}: {message}")

    def _find(self, setting: PluginSetting) -> EntryPoint | None:
        found = [entry for entry in self._installed if entry.name == setting.name]
        if not found:
            names = sorted({entry.name for entry in self._installed})
            listed = f"installed are {', '.join(names)}" if names else "no plugin is installed at all"
            near = get_close_matches(setting.name, names, n=1)
            cure = (
                f"{f'did you mean {near[0]!r}? if not, ' if near else ''}install the distribution that does, or remove the name"
            )
            self._add(setting, f"no installed distribution provides a plugin {setting.name!r} ({listed}): {cure}")
            return None
        if len(found) > 1:
            owners = " and ".join(sorted(" ".join(_owner(entry)) for entry in found))
            self._add(setting, f"plugin name {setting.name!r} is claimed by {owners}: uninstall all but one of them")
            return None
        return found[0]

    def _import(self, entry: EntryPoint, candidate: _Candidate) -> object | None:
        try:
            plugin: object | None = entry.load()
        except (Exception, SystemExit) as error:  # noqa: BLE001 - plugin boundary: reported, and the load refused
            what = f"cannot import {entry.value!r}: {type(error).__name__}: {error}"
            self._blame(candidate, f"{what}; reinstall {candidate.distribution}, or remove the plugin from the configuration")
            return None
        if plugin is None:
            self._blame(candidate, f"entry point {entry.value!r} is None: name a module or object that has the hooks")
        return plugin

    def _register(self, plugin: object, candidate: _Candidate) -> bool:
        wrong = list(problems_of_hooks(plugin, self._manager))
        for message in wrong:
            self._blame(candidate, message)
        if wrong:
            return False
        try:
            self._manager.register(plugin, candidate.setting.name)
            self._manager.check_pending()
        except (ValueError, pluggy.PluginValidationError) as error:
            self._blame(candidate, f"is refused: {' '.join(str(error).split())[:512]}; see the hooks in the reference")
            return False
        return True

    def _ask(self, candidate: _Candidate) -> None:
        """Call the plugin's hooks, check what they return, and structure its options."""
        made: list[tuple[type[Any], Any]] = []
        for kind, rule in KIND_RULES.items():
            caller: pluggy.HookCaller = getattr(self._manager.hook, rule.hook)
            for implementation in caller.get_hookimpls():
                if implementation.plugin_name != candidate.setting.name:
                    continue
                try:
                    spec: Any = implementation.function()
                except Exception as error:  # noqa: BLE001 - plugin boundary: reported, and the load refused
                    what = f"{rule.hook} failed with {type(error).__name__}: {error}"
                    self._blame(candidate, f"{what}; it must only return {article(rule.spec.__name__)}")
                    continue
                wrong = list(problems_of_spec(spec, rule.spec, rule.hook, owner=candidate.owner, core=self._core))
                for message in wrong:
                    self._blame(candidate, message)
                if not wrong:
                    self._accept(kind, spec, candidate, made)

    def _accept(self, kind: Kind, spec: Any, candidate: _Candidate, made: list[tuple[type[Any], Any]]) -> None:
        if made and made[0][0] is not spec.options:
            first = made[0][0].__qualname__
            self._blame(
                candidate, f"its hooks name different options classes, {first} and {spec.options.__qualname__}: use one"
            )
            return
        if not made:
            made.append((spec.options, self._options(spec.options, candidate)))
        options = made[0][1]
        if options is None:
            return
        setting = candidate.setting
        self.registrations.append(
            Registration(
                kind=kind,
                name=setting.name,
                distribution=candidate.distribution,
                version=candidate.version,
                order=candidate.order,
                spec=spec,
                options=options,
                source=setting.source,
                line=setting.line,
            )
        )

    def _options(self, cls: type[Any], candidate: _Candidate) -> Any | None:
        """Structured options, None with the problems noted."""
        setting = candidate.setting
        here = setting.marks or Marks(setting.line)
        whole = Marks(setting.line, {"plugins": Marks(setting.line, {setting.name: here})})
        log = ProblemLog(setting.source, whole)
        options = structure(cls, setting.options_raw, path=("plugins", setting.name), log=log)
        prefix = f"plugin {setting.name} of {candidate.owner}: "
        self.problems += [attrs.evolve(problem, message=prefix + problem.message) for problem in log.in_order()]
        return options

    def check_the_set(self, needs: frozenset[Kind], *, source: str) -> None:
        """Problems no plugin has by itself; `source` is the file that names them."""
        claimed: dict[int, Registration] = {}
        for kind, rule in KIND_RULES.items():
            registered = [one for one in self.registrations if one.kind is kind]
            if rule.single and len(registered) > 1:
                names = " and ".join(f"{one.name} ({one.owner})" for one in registered)
                for second in registered[1:]:
                    self.problems.append(
                        second.problem(f"only one {kind} plugin can be active, not {names}: remove all but one")
                    )
            # A plugin that failed to load may have been the one: then its own error is the one to act on.
            if kind in needs and not registered and not self._failed:
                message = (
                    f"no {kind} plugin is enabled, but this command needs one: add one, for example `{rule.standard}: {{}}`"
                )
                self.problems.append(Problem("$.plugins", message, source))
        for one in self.registrations:
            if not isinstance(one.spec, HandshakeSpec):
                continue
            for byte in sorted(one.spec.first_bytes):
                first = claimed.setdefault(byte, one)
                if first is not one:
                    message = f"claims first byte 0x{byte:02x}, which {first.name} of {first.owner} has: remove one of them"
                    self.problems.append(one.problem(message))
