"""Documents compiled into tables: everything a connection needs to know, looked up instead of computed.

Why compiled: documents change rarely and connections are many, so all work that grows with the number of services, clients or
pods is done once per change. After that a connection costs a few dictionary look-ups. A table is a value: it never changes,
the next change makes another one, and a connection that is being set up keeps the one it began with.

This module decides nothing about a connection, and does no I/O.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Iterator, Mapping
from typing import Final

import attrs

from meshless_core.documents import (
    Document,
    MeshletDocument,
    NodeManifest,
    ServiceDocument,
    meshlet_topic,
    service_topic,
)
from meshless_core.types import Endpoint, MeshletRef, PodRef, ServiceId, VersionShare

__all__ = [
    "Exclusion",
    "ExclusionCause",
    "Revision",
    "Route",
    "RoutingTable",
    "VersionGroup",
    "compile_routes",
]

_NANOSECONDS_PER_SECOND: Final = 1_000_000_000


@attrs.frozen(order=True)
class Revision:
    """Age of a document: a higher epoch beats every generation of a lower one."""

    epoch: int
    generation: int


_NO_REVISION: Final = Revision(-1, -1)


class ExclusionCause(enum.Enum):
    """Why an endpoint or a version gets no new connections."""

    NOT_READY = "not-ready"
    VERSION_NOT_LISTED = "version-not-listed"
    WEIGHT_ZERO = "weight-zero"
    NO_READY_POD = "no-ready-pod"


@attrs.frozen
class Exclusion:
    """Something left out of a route, and why.

    Attributes:
        cause: why.
        version: the version it is about, None for pods without a `version` label.
        endpoint: the endpoint left out; None if the cause is about a version as a whole.
    """

    cause: ExclusionCause
    version: str | None
    endpoint: Endpoint | None

    @property
    def detail(self) -> str:
        """For people: what was left out, why, and what would change it."""
        label = "without a version label" if self.version is None else f"of version {self.version}"
        unready = ", and is not ready" if self.endpoint is not None and not self.endpoint.ready else ""
        match self.cause:
            case ExclusionCause.NOT_READY:
                return f"pod {self._pod} is not ready"
            case ExclusionCause.VERSION_NOT_LISTED:
                return f"pod {self._pod} is {label}, which spec.server.canary does not list{unready}: add it for a share"
            case ExclusionCause.WEIGHT_ZERO:
                where = f"version {self.version}" if self.endpoint is None else f"pod {self._pod}"
                return f"{where} gets no new connections: version {self.version} has weight 0 in spec.server.canary{unready}"
            case ExclusionCause.NO_READY_POD:
                return f"version {self.version} has no ready pod: its share goes to the other versions"

    @property
    def _pod(self) -> str:
        return "" if self.endpoint is None else str(self.endpoint.pod)


@attrs.frozen(eq=False)
class VersionGroup:
    """The usable endpoints of one version. Compared by identity: a compiled table makes each once, so it can be a cheap key.

    Attributes:
        local: endpoints on this node.
        remote: endpoints on other nodes.
    """

    local: tuple[Endpoint, ...]
    remote: tuple[Endpoint, ...]

    def __len__(self) -> int:
        return len(self.local) + len(self.remote)

    def __iter__(self) -> Iterator[Endpoint]:
        yield from self.local
        yield from self.remote


@attrs.frozen(eq=False)
class Route:
    """A service as a connection sees it.

    With a canary strategy there is one share, and one group, per version that can be chosen. Without one all ready pods are
    equal whatever their label says, so there is a single share with version None whose group holds them all; a client that
    wishes for a version is served by `for_wishes`.

    Attributes:
        service: the service.
        text: the service id as text.
        declared_by: meshlets whose `spec.client` lists it.
        allow: the server's consent list, None without one.
        max_conn: concurrent connections per pod, None for no limit.
        idle_timeout: seconds without data in either direction, None for none.
        proxy_protocol: "v2" or None.
        hand_off: whether a client on the pod's node may get the service's socket itself.
        canary: the declared weights, zeros included; None without a strategy.
        shares: the versions that can be chosen: ready >= 1 and weight >= 1. Weights are as declared: what a missing version
            leaves behind is divided among the others in proportion by leaving it out of the sum.
        groups: the endpoints of each share, by its version.
        excluded: what was left out and why.
        local_pods: every endpoint on this node, ready or not, by pod: for the server's side.
        endpoints: every endpoint, ready or not.
    """

    service: ServiceId
    text: str
    declared_by: frozenset[MeshletRef]
    allow: frozenset[MeshletRef] | None
    max_conn: int | None
    idle_timeout: float | None
    proxy_protocol: str | None
    hand_off: bool
    canary: Mapping[str, int] | None
    shares: tuple[VersionShare, ...]
    groups: Mapping[str | None, VersionGroup]
    excluded: tuple[Exclusion, ...] = attrs.field(repr=False)
    local_pods: Mapping[PodRef, Endpoint] = attrs.field(repr=False)
    endpoints: tuple[Endpoint, ...] = attrs.field(repr=False)
    _by_version: Route | None = attrs.field(repr=False, default=None)

    def for_wishes(self, sticky_key: bytes | None, version_pin: str | None) -> Route:
        """The route to choose a version from, given what the client wishes.

        Only without a canary strategy does it differ from this one: a client that pins a version, or wants always the same,
        needs versions to choose from. They are then weighted by their ready pods, so that all pods stay equal.
        """
        if self._by_version is None:
            return self
        if sticky_key is not None or (version_pin is not None and version_pin in self._by_version.groups):
            return self._by_version
        return self


@attrs.frozen(eq=False)
class RoutingTable:
    """All routes and meshlets one agent knows. Make it with `compile_routes`.

    Attributes:
        node: the node whose agent this is for; decides which endpoints are local.
        routes: every service.
        meshlets: every meshlet.
        revisions: per topic, the revision of the document that was compiled; only of documents that came in an envelope.
        awaited: topics the node's manifest lists whose documents have not arrived: what they are about exists.
        pods: the pods of this node, by the manifest.
    """

    node: str
    routes: Mapping[ServiceId, Route] = attrs.field(repr=False)
    meshlets: Mapping[MeshletRef, MeshletDocument] = attrs.field(repr=False)
    revisions: Mapping[str, Revision] = attrs.field(repr=False)
    awaited: frozenset[str] = attrs.field(repr=False)
    pods: frozenset[PodRef] = attrs.field(repr=False)
    _by_text: Mapping[str, Route] = attrs.field(repr=False)
    _uses: Mapping[MeshletRef, frozenset[ServiceId]] = attrs.field(repr=False)
    _compiled_from: Mapping[ServiceId, ServiceDocument] = attrs.field(repr=False)

    def meshlet(self, ref: MeshletRef) -> MeshletDocument | None:
        """The meshlet's document, None if this agent has none."""
        return self.meshlets.get(ref)

    def uses(self, ref: MeshletRef) -> frozenset[ServiceId] | None:
        """The services a meshlet lists under `spec.client`, None if this agent has no document of it."""
        return self._uses.get(ref)

    def route(self, service: ServiceId) -> Route | None:
        """The service's route, None if this agent has no document of it."""
        return self.routes.get(service)

    def route_for(self, service_text: str) -> Route | None:
        """Like `route`, by the service id as text: half the cost, since a string caches its hash."""
        return self._by_text.get(service_text)

    def endpoints(self) -> Iterator[Endpoint]:
        """Every endpoint of every service, ready or not: what a balancer has to remember."""
        for route in self.routes.values():
            yield from route.endpoints


def compile_routes(
    node: str,
    documents: Iterable[Document | MeshletDocument | ServiceDocument | NodeManifest],
    previous: RoutingTable | None = None,
) -> RoutingTable:
    """Compile what an agent holds into a table.

    Args:
        node: name of the agent's node.
        documents: documents or bare bodies, in any order. Of several for one topic the highest (epoch, generation) counts; a
            bare body counts as lower than any envelope, and a later one replaces an earlier one of the same revision.
        previous: the table in force; routes of documents that are still the same objects are taken over.
    """
    bodies: dict[str, MeshletDocument | ServiceDocument] = {}
    revisions: dict[str, Revision] = {}
    announced: set[str] = set()
    pods: set[PodRef] = set()
    for document in documents:
        if isinstance(document, Document):
            body, revision = document.body, Revision(document.epoch, document.generation)
        else:
            body, revision = document, _NO_REVISION
        if isinstance(body, NodeManifest):
            announced.update(body.topics)
            pods.update(placement.pod for placement in body.pods)
            continue
        topic = meshlet_topic(body.ref) if isinstance(body, MeshletDocument) else service_topic(body.service)
        if revision < revisions.get(topic, _NO_REVISION):
            continue
        bodies[topic], revisions[topic] = body, revision
    meshlets = {body.ref: body for body in bodies.values() if isinstance(body, MeshletDocument)}
    services = {body.service: body for body in bodies.values() if isinstance(body, ServiceDocument)}
    reusable = previous if previous is not None and previous.node == node else None
    routes = {service: _reuse(reusable, body) or _compile_route(node, body) for service, body in services.items()}
    return RoutingTable(
        node=node,
        routes=routes,
        meshlets=meshlets,
        revisions={topic: revision for topic, revision in revisions.items() if revision is not _NO_REVISION},
        awaited=frozenset(announced - bodies.keys()),
        pods=frozenset(pods),
        by_text={route.text: route for route in routes.values()},
        uses={ref: frozenset(body.uses) for ref, body in meshlets.items()},
        compiled_from=services,
    )


def _reuse(previous: RoutingTable | None, document: ServiceDocument) -> Route | None:
    if previous is None or previous._compiled_from.get(document.service) is not document:  # noqa: SLF001 - own class
        return None
    return previous.routes[document.service]


def _compile_route(node: str, document: ServiceDocument) -> Route:
    endpoints = tuple({(endpoint.pod, endpoint.uid): endpoint for endpoint in document.endpoints}.values())
    # An empty list declares no version at all, so it is no strategy; weights are checked where the Meshlet is read.
    canary = {line.version: line.weight for line in document.canary} if document.canary else None
    excluded: list[Exclusion] = []
    usable: dict[str | None, list[Endpoint]] = {}
    for endpoint in endpoints:
        cause = _exclusion_cause(endpoint, canary)
        if cause is None:
            usable.setdefault(endpoint.version, []).append(endpoint)
        else:
            excluded.append(Exclusion(cause, endpoint.version, endpoint))
    by_version: Route | None = None
    weights: Mapping[str | None, int]
    if canary is None:
        route_groups: Mapping[str | None, list[Endpoint]] = {None: [e for group in usable.values() for e in group]}
        weights = {None: 1}
    else:
        route_groups, weights = usable, dict(canary.items())
        for version, weight in canary.items():
            if weight < 1:
                excluded.append(Exclusion(ExclusionCause.WEIGHT_ZERO, version, None))
            elif version not in usable:
                excluded.append(Exclusion(ExclusionCause.NO_READY_POD, version, None))
    route = Route(
        service=document.service,
        text=str(document.service),
        declared_by=frozenset(document.declared_by),
        allow=None if document.allow is None else frozenset(document.allow),
        max_conn=document.max_conn,
        # Zero is Go's way to say "no timeout".
        idle_timeout=document.idle_timeout_ns / _NANOSECONDS_PER_SECOND if document.idle_timeout_ns else None,
        proxy_protocol=document.proxy_protocol,
        hand_off=document.hand_off,
        canary=canary,
        shares=_shares(route_groups, weights),
        groups=_groups(node, route_groups),
        excluded=tuple(excluded),
        local_pods={endpoint.pod: endpoint for endpoint in endpoints if endpoint.node == node},
        endpoints=endpoints,
    )
    if canary is None and len(usable) > 1:
        pods = {version: len(group) for version, group in usable.items()}
        by_version = attrs.evolve(route, shares=_shares(usable, pods), groups=_groups(node, usable))
        route = attrs.evolve(route, by_version=by_version)
    return route


def _exclusion_cause(endpoint: Endpoint, canary: Mapping[str, int] | None) -> ExclusionCause | None:
    if canary is not None:
        if endpoint.version is None or endpoint.version not in canary:
            return ExclusionCause.VERSION_NOT_LISTED
        if canary[endpoint.version] < 1:
            return ExclusionCause.WEIGHT_ZERO
    return None if endpoint.ready else ExclusionCause.NOT_READY


def _shares(groups: Mapping[str | None, list[Endpoint]], weights: Mapping[str | None, int]) -> tuple[VersionShare, ...]:
    return tuple(
        VersionShare(version, weight, len(groups[version])) for version, weight in weights.items() if groups.get(version)
    )


def _groups(node: str, groups: Mapping[str | None, list[Endpoint]]) -> dict[str | None, VersionGroup]:
    return {
        version: VersionGroup(
            local=tuple(endpoint for endpoint in endpoints if endpoint.node == node),
            remote=tuple(endpoint for endpoint in endpoints if endpoint.node != node),
        )
        for version, endpoints in groups.items()
        if endpoints
    }
