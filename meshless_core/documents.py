"""The documents that carry desired state from the reconciler to the agents.

A document is self-contained: there is no atomicity across topics, so nothing in one may need another of the same moment. Its
envelope carries epoch, generation and digest; a receiver keeps the highest (epoch, generation) and never goes back, whatever
the bus does. Topics are exact, segments are DNS labels: `meshlet/<ns>/<name>`, `service/<ns>/<meshlet>/<service>`,
`node/<node>/manifest`. This module does no I/O.
"""

from __future__ import annotations

from collections.abc import Mapping

import attrs

from meshless_core.types import Endpoint, MeshletRef, PodRef, ServiceId

__all__ = [
    "Document",
    "MeshletDocument",
    "NodeManifest",
    "PodPlacement",
    "ServiceDocument",
    "TopicState",
    "VersionWeight",
    "manifest_topic",
    "meshlet_topic",
    "service_topic",
]


@attrs.frozen
class VersionWeight:
    """One line of a canary strategy: integer weight >= 0."""

    version: str
    weight: int


@attrs.frozen
class MeshletDocument:
    """What a meshlet is: known to the agents of its own pods.

    Attributes:
        ref: the meshlet.
        uses: services listed under `spec.client`.
        provides: names of its services.
    """

    ref: MeshletRef
    uses: tuple[ServiceId, ...]
    provides: tuple[str, ...]


@attrs.frozen
class ServiceDocument:
    """All an agent needs to connect to, or to serve, one service.

    Attributes:
        service: the service.
        declared_by: meshlets whose `spec.client` lists it.
        allow: the server's consent list, None without one.
        max_conn: concurrent connections per pod, None for no limit.
        idle_timeout_ns: nanoseconds without data in either direction, None for none.
        proxy_protocol: "v2" or None.
        hand_off: whether a client on the pod's node may get the service's socket itself.
        canary: the declared strategy, None without one.
        endpoints: every pod the selector matches, ready or not.
    """

    service: ServiceId
    declared_by: tuple[MeshletRef, ...]
    allow: tuple[MeshletRef, ...] | None
    max_conn: int | None
    idle_timeout_ns: int | None
    proxy_protocol: str | None
    canary: tuple[VersionWeight, ...] | None
    endpoints: tuple[Endpoint, ...]
    hand_off: bool = True


@attrs.frozen
class PodPlacement:
    """A pod of a node. `meshlet` is None if its label names no Meshlet that exists."""

    pod: PodRef
    uid: str
    meshlet: MeshletRef | None
    version: str | None


@attrs.frozen
class TopicState:
    """What a manifest says about a topic: the document must be at least this generation, with this digest at that one."""

    generation: int
    digest: str


@attrs.frozen
class NodeManifest:
    """What one node's agent must hold: topics not listed are dropped, pods listed are the ones it may serve."""

    node: str
    pods: tuple[PodPlacement, ...]
    topics: Mapping[str, TopicState]


@attrs.frozen
class Document:
    """Envelope and body.

    Attributes:
        topic: exact topic.
        epoch: term of the reconciler that wrote it; a higher epoch beats every generation of a lower one.
        generation: grows with each change within an epoch.
        digest: `sha256:<hex>` over the canonical JSON of the body.
        body: the content.
    """

    topic: str
    epoch: int
    generation: int
    digest: str
    body: MeshletDocument | ServiceDocument | NodeManifest


def meshlet_topic(ref: MeshletRef) -> str:
    """Topic of a meshlet's document."""
    return f"meshlet/{ref.namespace}/{ref.name}"


def service_topic(service: ServiceId) -> str:
    """Topic of a service's document."""
    return f"service/{service.namespace}/{service.meshlet}/{service.service}"


def manifest_topic(node: str) -> str:
    """Topic of a node's manifest."""
    return f"node/{node}/manifest"
