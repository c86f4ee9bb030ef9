"""The kinds of plugins: which hook registers one, what the hook returns, how many can be active, and what the object must have.

Data only; `hookspecs` holds the contracts, this table says how the loader treats each. It must not load anything.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import Final

import attrs

from meshless_core.hookspecs import (
    AuthorizerSpec,
    BusSpec,
    CanarySelectorSpec,
    DiscoverySpec,
    HandshakeSpec,
    PluginSpec,
    TransportSpec,
)

__all__ = ["AGENT_NEEDS", "KIND_RULES", "RECONCILER_NEEDS", "Kind", "KindRule"]


class Kind(enum.StrEnum):
    """What a plugin provides."""

    HANDSHAKE = "handshake"
    AUTHORIZER = "authorizer"
    CANARY = "canary"
    TRANSPORT = "transport"
    DISCOVERY = "discovery"
    BUS = "bus"


@attrs.frozen
class KindRule:
    """How the loader treats a kind.

    Attributes:
        hook: name of the hook that registers one.
        spec: class of what the hook has to return.
        single: whether at most one can be active.
        standard: the plugin of the default set that provides it, to name in a message.
        methods: names of which the created object must have at least one each (alternatives are joined by "|").
        plain: names of methods that must not be async.
        instead: what to do about one that is, if there is something better than making it a plain function.
    """

    hook: str
    spec: type[PluginSpec]
    single: bool
    standard: str
    methods: tuple[str, ...]
    plain: tuple[str, ...] = ()
    instead: str = ""


KIND_RULES: Final[Mapping[Kind, KindRule]] = {
    Kind.HANDSHAKE: KindRule("meshless_register_handshake", HandshakeSpec, False, "handshake_v1", ("__call__",)),
    Kind.AUTHORIZER: KindRule(
        "meshless_register_authorizer",
        AuthorizerSpec,
        False,
        "policy_declared",
        ("authorize|authorize_inline",),
        plain=("authorize_inline",),
        instead="name it authorize()",
    ),
    Kind.CANARY: KindRule(
        "meshless_register_canary_selector", CanarySelectorSpec, True, "canary_weighted", ("choose",), plain=("choose",)
    ),
    Kind.TRANSPORT: KindRule("meshless_register_transport", TransportSpec, True, "transport_tls", ("connect", "accept")),
    Kind.DISCOVERY: KindRule("meshless_register_discovery", DiscoverySpec, True, "discovery_file", ("watch",)),
    Kind.BUS: KindRule("meshless_register_bus", BusSpec, True, "bus_directory", ("publish", "subscribe", "topics")),
}

AGENT_NEEDS: Final = frozenset({Kind.HANDSHAKE, Kind.AUTHORIZER, Kind.CANARY, Kind.TRANSPORT, Kind.BUS})
"""Kinds without which an agent cannot work."""

RECONCILER_NEEDS: Final = frozenset({Kind.DISCOVERY, Kind.BUS})
"""Kinds without which a reconciler cannot work."""
