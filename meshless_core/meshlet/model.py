"""The Meshlet resource as values: what is left after validation, so nothing here checks anything.

This module must not parse: `schema` makes these objects and reports what is wrong.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, TypeAlias

import attrs

from meshless_core.types import MeshletRef, ServiceId

__all__ = ["API_VERSIONS", "CanaryWeight", "ClientUse", "Meshlet", "Service"]

API_VERSIONS: Final = ("meshless.dev/v1", "ext.burningxflame.github.com/v1")
"""API groups a Meshlet may come in: ours, and the one of the system the format comes from."""

ClientUse: TypeAlias = ServiceId
"""An entry of `spec.client` is the id of the service it names, nothing more."""


@attrs.frozen
class CanaryWeight:
    """One line of `spec.server.canary`.

    Attributes:
        version: value of the pods' `version` label.
        weight: integer >= 0; its share is weight / sum of all weights.
    """

    version: str
    weight: int


@attrs.frozen
class Service:
    """One entry of `spec.server.services`.

    Attributes:
        name: DNS label, unique within the meshlet.
        max_conn: concurrent connections per pod, None for no limit.
        idle_timeout_ns: nanoseconds without data in either direction before a connection is closed, None for never.
        allow: the only meshlets that may connect; None without a list, empty for nobody.
        proxy_protocol: "v2" or None.
        hand_off: whether a client on the pod's node may get the service's socket itself; False keeps the agent in between.
    """

    name: str
    max_conn: int | None = None
    idle_timeout_ns: int | None = None
    allow: tuple[MeshletRef, ...] | None = None
    proxy_protocol: str | None = None
    hand_off: bool = True


@attrs.frozen
class Meshlet:
    """A valid Meshlet.

    Attributes:
        ref: namespace and name.
        clients: services it uses, in the written order, without duplicates.
        selector: labels a pod must have to provide the services; None if it provides none, or if every pod labelled
            `meshless/meshlet: <name>` does.
        services: services it provides, in the written order.
        canary: the declared strategy, None without one (then all ready pods are equal).
    """

    ref: MeshletRef
    clients: tuple[ServiceId, ...] = ()
    selector: Mapping[str, str] | None = None
    services: tuple[Service, ...] = ()
    canary: tuple[CanaryWeight, ...] | None = None
