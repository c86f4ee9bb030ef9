"""Every setting of `meshless.yaml`: type, default, unit and reason in one place.

The reference page is generated from the `doc` metadata. A setting that only one plugin needs belongs to that plugin's options.
This module must not read anything.
"""

# ruff: noqa: RUF009 - `_setting` returns `attrs.field()`; ruff only knows that call by its own name
from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, TypeVar

import attrs

from meshless_core.config.structuring import Seconds
from meshless_core.meshlet import Marks
from meshless_core.types import is_dns_label

__all__ = [
    "DEFAULT_PLUGINS",
    "AgentSettings",
    "Config",
    "MeshSettings",
    "PluginSetting",
    "ReconcilerSettings",
]

_T = TypeVar("_T")
_Validator = Callable[[Any, "attrs.Attribute[Any]", Any], None]

DEFAULT_PLUGINS: Final = (
    "handshake_v1",
    "handshake_v2",
    "handshake_socks5",
    "handshake_http",
    "policy_declared",
    "canary_weighted",
    "transport_tls",
    "discovery_file",
    "bus_directory",
)
"""Plugins that are active when the configuration has no `plugins:`, in this order."""


def _setting(default: _T, doc: str, validator: _Validator | None = None) -> _T:
    made: _T = attrs.field(default=default, validator=validator, metadata={"doc": doc})
    return made


def _at_least(least: int) -> _Validator:
    def check(_: object, field: attrs.Attribute[Any], value: int) -> None:
        if value < least:
            raise ValueError(f"{field.name} must be at least {least}, not {value}")

    return check


def _positive(_: object, field: attrs.Attribute[Any], value: float) -> None:
    if value <= 0:
        raise ValueError(f"{field.name} must be longer than 0")


def _trust_domain(_: object, field: attrs.Attribute[Any], value: str) -> None:
    if len(value) > 255 or not all(map(is_dns_label, value.split("."))):
        raise ValueError(f"{value[:64]!r} is not a trust domain: use DNS labels joined by dots, such as mesh.local")


def _host_port(_: object, field: attrs.Attribute[Any], value: str) -> None:
    host, colon, port = value.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    if not (colon and host and port.isascii() and port.isdigit() and int(port) <= 65535) or (":" in host and not bracketed):
        raise ValueError(f"{value[:64]!r} is not an address: write <host>:<port>, an IPv6 host in brackets")


def _admin(instance: object, field: attrs.Attribute[Any], value: str | None) -> None:
    if value is None:
        return
    scheme, _, rest = value.partition(":")
    if scheme == "unix" and rest:
        return
    if scheme != "tcp":
        raise ValueError(f"{value[:64]!r} is not an address: write unix:<path> or tcp:<host>:<port>")
    _host_port(instance, field, rest)


@attrs.frozen
class MeshSettings:
    """What all parts of one mesh have to agree on."""

    trust_domain: str = _setting(
        "mesh.local",
        "DNS name. Default mesh.local. First part of every identity, spiffe://<trust domain>/ns/<namespace>/meshlet/<name>; "
        "agents of different trust domains never talk to each other.",
        _trust_domain,
    )


@attrs.frozen
class AgentSettings:
    """The node agent."""

    handshake_timeout: Seconds = _setting(
        Seconds(5.0),
        "Duration. Default 5s, which the product contract fixes. From accepting a connection until its request is complete; "
        "then the client gets TIMEOUT. Keeps clients that never finish from holding descriptors.",
        _positive,
    )
    connect_timeout: Seconds = _setting(
        Seconds(10.0),
        "Duration. Default 10s. From the complete request until the reply, all endpoints tried included; then the client gets "
        "TIMEOUT. Long enough for three failing endpoints, short enough for a person.",
        _positive,
    )
    authorize_timeout: Seconds = _setting(
        Seconds(1.0),
        "Duration. Default 1s. How long one authorizer may take; then its answer counts as a no. Generous for a lookup, and an "
        "authorizer that hangs does not use up the connect_timeout.",
        _positive,
    )
    endpoint_timeout: Seconds = _setting(
        Seconds(3.0),
        "Duration. Default 3s. How long one endpoint may take before the next one is tried. Longer than one lost SYN (1s) and "
        "its retry, shorter than a third of connect_timeout.",
        _positive,
    )
    max_connections: int = _setting(
        20_000,
        "Number of connections. Default 20000. All client connections of this agent at once; more get OVERLOADED. A connection "
        "takes two to three descriptors, so `ulimit -n` should be three times this.",
        _at_least(1),
    )
    max_handshakes_per_pod: int = _setting(
        256,
        "Number of connections. Default 256. Connections of one pod whose request is not complete; more get OVERLOADED. One "
        "pod cannot use up max_connections, or another pod's share, with requests it never completes.",
        _at_least(1),
    )
    max_tunnels_unauthenticated: int = _setting(
        256,
        "Number of connections. Default 256. Connections from other agents, or from whoever reaches the port, that have not "
        "yet proven an identity; for each one more the oldest is closed, so that a flood locks nobody out. Bounds memory "
        "before anybody is known.",
        _at_least(1),
    )
    max_tunnels_idle: int = _setting(
        1024,
        "Number of sessions. Default 1024. Secure sessions of other agents that carry no connection now; for each one more the "
        "longest idle is closed, and its agent makes another when it needs one. Each costs some 30 KB; bounds what an agent "
        "can take that has proven an identity.",
        _at_least(1),
    )
    drain_timeout: Seconds = _setting(
        Seconds(30.0),
        "Duration. Default 30s, as long as the grace period of a Kubernetes pod. How long connections may go on after the "
        "agent was told to stop; then they are closed. 0 closes them at once.",
    )
    tunnel_pool_size: int = _setting(
        32,
        "Number of sessions. Default 32. Idle secure sessions kept per identity, peer agent and target, so that the next "
        "connection needs no TLS handshake. Each costs some 30 KB at both ends; 0 keeps none.",
        _at_least(0),
    )
    tunnel_idle: Seconds = _setting(
        Seconds(60.0),
        "Duration. Default 60s. How long an idle secure session is kept. Below the idle limits of usual firewalls.",
    )
    ejection_base: Seconds = _setting(
        Seconds(1.0),
        "Duration. Default 1s. How long an endpoint is passed over after its first failure; doubles with every further one. "
        "Short, since most failures are restarts.",
        _positive,
    )
    ejection_max: Seconds = _setting(
        Seconds(60.0),
        "Duration. Default 60s. Longest time an endpoint is passed over; at least ejection_base. It is tried all the same when "
        "no other endpoint is left.",
        _positive,
    )
    relay_budget: Seconds = _setting(
        Seconds(0.002),
        "Duration. Default 2ms. How long bytes are moved in one go before accepting and deciding get their turn. Longer is a "
        "little more throughput, shorter is quicker answers under load.",
        _positive,
    )
    hand_off: bool = _setting(
        True,
        "true or false. Default true. Whether a client that can take it gets the socket of a service on its own node, with no "
        "proxy in between. Set false where a connection must not outlive its agent, or bytes have to be counted; "
        "spec.server.services[].handOff does it for one service.",
    )
    workers: int = _setting(
        1,
        "Number of processes. Default 1. One process moves bytes on one core; with more, each is a whole agent that accepts "
        "from the same pods and the same tunnel port; max_connections, max_handshakes_per_pod and max_tunnels_* are "
        "divided among them. At most the number of cores that the node can spare; each costs some memory.",
        _at_least(1),
    )
    tunnel_address: str = _setting(
        "127.0.0.1:0",
        "<host>:<port>. Default 127.0.0.1:0, a free port on loopback: nothing is exposed unless you say so. Where this agent "
        "listens for other agents; on a node, its address in the cluster and a fixed port.",
        _host_port,
    )
    admin: str | None = _setting(
        None,
        "unix:<path> or tcp:<host>:<port>. Default: the Unix socket admin.sock in state_dir. Where metrics, health and live "
        "connections are served. There is no authentication: keep it on a socket file or on loopback.",
        _admin,
    )
    state_dir: str = _setting(
        "/var/lib/meshless",
        "Directory. Default /var/lib/meshless. Last known good documents, leaves and their keys; made with mode 0700. Must "
        "survive a restart of the agent, or it starts NOT_READY without a control plane.",
    )


@attrs.frozen
class ReconcilerSettings:
    """The reconciler."""

    resync: Seconds = _setting(
        Seconds(600.0),
        "Duration. Default 10m. How often everything is compiled and compared with the bus although nothing changed: repairs "
        "what a lost notice or a foreign hand left wrong. A full pass costs little, so this is about being calm.",
        _positive,
    )


@attrs.frozen
class PluginSetting:
    """One entry of `plugins:`.

    Attributes:
        name: entry-point name of the plugin.
        options_raw: its options as written, structured with the plugin's own class by the loader.
        source: file name, empty for the default set.
        line: 1-based line of the entry, 0 when unknown.
        marks: lines within the options, None when unknown.
    """

    name: str
    options_raw: Mapping[str, Any] = attrs.field(factory=dict)
    source: str = attrs.field(default="", eq=False)
    line: int = attrs.field(default=0, eq=False)
    marks: Marks | None = attrs.field(default=None, repr=False, eq=False)


@attrs.frozen
class Config:
    """The whole configuration: `Config()` is what holds without a file.

    Attributes:
        mesh: section `mesh`.
        agent: section `agent`.
        reconciler: section `reconciler`.
        plugins: active plugins in their order.
    """

    mesh: MeshSettings = MeshSettings()
    agent: AgentSettings = AgentSettings()
    reconciler: ReconcilerSettings = ReconcilerSettings()
    plugins: tuple[PluginSetting, ...] = tuple(PluginSetting(name) for name in DEFAULT_PLUGINS)
