"""The plugins of this process: what registered what, and the objects made from it, each exactly once.

`create` is the first code of a plugin that runs with its options; whatever it raises becomes a `PluginError` that names the
plugin. Starting and stopping is `lifecycle`'s.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, cast

import attrs

from meshless_core.errors import PluginError, Problem
from meshless_core.hookspecs import (
    Authorizer,
    Bus,
    CanarySelector,
    CredentialsSource,
    Discovery,
    HandshakeProtocol,
    HandshakeSpec,
    InlineAuthorizer,
    PluginSpec,
    Transport,
)
from meshless_core.meshlet.yaml_source import format_path
from meshless_core.plugins.inspection import article, missing_methods, waiting_method
from meshless_core.plugins.kinds import KIND_RULES, Kind

__all__ = ["LoadedPlugins", "Registration"]


@attrs.frozen
class Registration:
    """One thing one plugin provides.

    Attributes:
        kind: what it provides.
        name: entry-point name, the key under `plugins:`.
        distribution: the distribution it comes from.
        version: that distribution's version.
        order: 1-based position in the configuration.
        spec: what its hook returned.
        options: instance of `spec.options`.
        source: configuration file, empty for the default set.
        line: 1-based line there, 0 when unknown.
    """

    kind: Kind
    name: str
    distribution: str
    version: str
    order: int
    spec: PluginSpec
    options: Any
    source: str = ""
    line: int = 0

    @property
    def owner(self) -> str:
        """Distribution and version."""
        return f"{self.distribution} {self.version}".strip()

    def problem(self, message: str) -> Problem:
        """A problem of this plugin, naming where it was enabled and where it comes from."""
        return Problem(
            format_path(("plugins", self.name)), f"plugin {self.name} of {self.owner}: {message}", self.source, self.line
        )


class LoadedPlugins:
    """Access to the active plugins by kind. Not thread-safe: used by the process's main loop while it starts.

    Attributes:
        registrations: everything registered, in the order of the configuration.
    """

    def __init__(self, registrations: tuple[Registration, ...]) -> None:
        self.registrations = registrations
        self._instances: dict[tuple[Kind, str], Any] = {}

    def of(self, kind: Kind) -> tuple[Registration, ...]:
        """Registrations of one kind, in the order of the configuration."""
        return tuple(one for one in self.registrations if one.kind is kind)

    def instances(self) -> tuple[tuple[Registration, Any], ...]:
        """What has been created so far, in the order of the configuration."""
        made = ((one, self._instances.get((one.kind, one.name))) for one in self.registrations)
        return tuple((one, instance) for one, instance in made if instance is not None)

    def authorizers(self) -> tuple[tuple[str, Authorizer | InlineAuthorizer], ...]:
        """Name and object of every authorizer, in the order of the configuration.

        Raises:
            PluginError: one cannot be created.
        """
        return tuple((one.name, self._create(one)) for one in self.of(Kind.AUTHORIZER))

    def canary(self) -> CanarySelector:
        """The canary selector.

        Raises:
            PluginError: there is none, or it cannot be created.
        """
        return cast("CanarySelector", self._only(Kind.CANARY))

    def transport(self, credentials: CredentialsSource) -> Transport:
        """The tunnel transport; `credentials` count on the first call, which creates it.

        Raises:
            PluginError: there is none, or it cannot be created.
        """
        return cast("Transport", self._only(Kind.TRANSPORT, credentials))

    def discovery(self) -> Discovery:
        """The discovery plugin.

        Raises:
            PluginError: there is none, or it cannot be created.
        """
        return cast("Discovery", self._only(Kind.DISCOVERY))

    def bus(self) -> Bus:
        """The bus.

        Raises:
            PluginError: there is none, or it cannot be created.
        """
        return cast("Bus", self._only(Kind.BUS))

    def handshakes(self) -> Mapping[int, Callable[[], HandshakeProtocol]]:
        """By first byte: the factory of the handshake that claims it.

        Raises:
            PluginError: one cannot be created.
        """
        factories: dict[int, Callable[[], HandshakeProtocol]] = {}
        for one in self.of(Kind.HANDSHAKE):
            factory = self._create(one)
            assert isinstance(one.spec, HandshakeSpec)
            factories.update(dict.fromkeys(one.spec.first_bytes, factory))
        return factories

    def handshake_names(self) -> Mapping[int, str]:
        """By first byte: the name of the handshake that claims it."""
        names: dict[int, str] = {}
        for one in self.of(Kind.HANDSHAKE):
            assert isinstance(one.spec, HandshakeSpec)
            names.update(dict.fromkeys(one.spec.first_bytes, one.name))
        return names

    def _only(self, kind: Kind, *extra: Any) -> Any:
        registered = self.of(kind)
        if not registered:
            standard = KIND_RULES[kind].standard
            raise PluginError([Problem("$.plugins", f"no {kind} plugin is enabled: add one, for example {standard}")])
        return self._create(registered[0], *extra)

    def _create(self, one: Registration, *extra: Any) -> Any:
        key = (one.kind, one.name)
        if key not in self._instances:
            self._instances[key] = _created(one, extra)
        return self._instances[key]


def _created(one: Registration, extra: tuple[Any, ...]) -> Any:
    try:
        instance = one.spec.create(one.options, *extra)
    except Exception as error:  # plugin boundary: reported with the plugin's name, chained
        what = f"create failed with {type(error).__name__}: {error}"
        raise PluginError([one.problem(f"{what}; check its options, or report it to its authors")]) from error
    if inspect.iscoroutine(instance):
        instance.close()
        raise PluginError([one.problem("create is async: make it a plain function and do the waiting in start()")])
    missing = missing_methods(instance, KIND_RULES[one.kind].methods)
    if missing is not None:
        what = f"create returned {article(type(instance).__name__)} without {missing}"
        raise PluginError([one.problem(f"{what}, which {article(one.kind)} plugin must have")])
    waiting = waiting_method(instance, KIND_RULES[one.kind].plain)
    if waiting is not None:
        instead = KIND_RULES[one.kind].instead or "make it a plain function that only computes"
        raise PluginError([one.problem(f"{waiting}() is async, but its caller does not wait: {instead}")])
    return instance
