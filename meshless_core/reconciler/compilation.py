"""From meshlets, pods and nodes to documents: a pure function, the same result for the same world, in any order.

Level-based: it looks at the whole state and never at what changed. What it notices on the way (a client's target that does not
exist, a version without pods) comes back as findings; the documents are right all the same.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

import attrs

from meshless_core.documents import (
    MeshletDocument,
    PodPlacement,
    ServiceDocument,
    VersionWeight,
    meshlet_topic,
    service_topic,
)
from meshless_core.meshlet import Meshlet
from meshless_core.reconciler.world import PodView, World
from meshless_core.types import Endpoint, MeshletRef, PodRef, ServiceId

__all__ = ["Desired", "Findings", "NodeNeeds", "compile_documents"]


@attrs.frozen
class NodeNeeds:
    """What one node's manifest has to list.

    Attributes:
        pods: its pods that are labelled with a meshlet, by name.
        topics: the documents these pods need, sorted.
    """

    pods: tuple[PodPlacement, ...]
    topics: tuple[str, ...]


@attrs.frozen
class Findings:
    """What people want to know about a meshlet, beyond "it is valid".

    Attributes:
        missing_targets: services under `spec.client` that do not exist.
        pods: its pods.
        ready_pods: those of them that can be reached and are ready.
        unplaced: its pods that are on no node of the mesh, with the node's name if they have one.
        not_selected: its pods the selector does not match.
        strangers: pods the selector matches that are not labelled as this meshlet's.
        unavailable_versions: versions with a weight above 0 and no ready pod.
        unlisted_versions: versions of ready pods that the canary strategy does not list ("" for pods without a version).
    """

    missing_targets: tuple[ServiceId, ...] = ()
    pods: tuple[PodRef, ...] = ()
    ready_pods: tuple[PodRef, ...] = ()
    unplaced: tuple[tuple[PodRef, str | None], ...] = ()
    not_selected: tuple[PodRef, ...] = ()
    strangers: tuple[PodRef, ...] = ()
    unavailable_versions: tuple[str, ...] = ()
    unlisted_versions: tuple[str, ...] = ()


@attrs.frozen
class Desired:
    """What should be on the bus.

    Attributes:
        documents: by topic, manifests excepted: those need the documents' generations.
        needs: by node; every node of the mesh has an entry, also one without pods.
        findings: by meshlet.
    """

    documents: Mapping[str, MeshletDocument | ServiceDocument]
    needs: Mapping[str, NodeNeeds]
    findings: Mapping[MeshletRef, Findings]


def compile_documents(world: World, nodes: Mapping[str, str], pod_overrides: Mapping[PodRef, bool] | None = None) -> Desired:
    """Compile a world into documents.

    Args:
        world: valid objects.
        nodes: address (`host:port`) of each node's agent for tunnels, by node name.
        pod_overrides: readiness of pods as somebody nearer to them sees it; beats what the pod's status says.
    """
    overrides = pod_overrides or {}
    pods = [
        attrs.evolve(pod, ready=overrides[pod.ref]) if pod.ref in overrides else pod
        for pod in sorted(world.pods, key=lambda pod: pod.ref)
        if not pod.finished
    ]
    by_meshlet: dict[MeshletRef, list[PodView]] = defaultdict(list)
    by_node: dict[str | None, list[PodView]] = defaultdict(list)
    by_label: dict[tuple[str, str, str], list[PodView]] = defaultdict(list)
    for pod in pods:
        by_node[pod.node].append(pod)
        for key, value in pod.labels.items():
            by_label[pod.ref.namespace, key, value].append(pod)
        if pod.meshlet is not None:
            by_meshlet[pod.meshlet].append(pod)
    services = {
        ServiceId(service.name, ref.name, ref.namespace)
        for ref, meshlet in world.meshlets.items()
        for service in meshlet.services
    }
    declared_by: dict[ServiceId, set[MeshletRef]] = defaultdict(set)
    for ref, meshlet in world.meshlets.items():
        for target in meshlet.clients:
            declared_by[target].add(ref)

    documents: dict[str, MeshletDocument | ServiceDocument] = {}
    findings: dict[MeshletRef, Findings] = {}
    for ref, meshlet in sorted(world.meshlets.items()):
        documents[meshlet_topic(ref)] = MeshletDocument(
            ref=ref,
            uses=tuple(sorted(set(meshlet.clients))),
            provides=tuple(sorted(service.name for service in meshlet.services)),
        )
        own = by_meshlet[ref]
        serving = [pod for pod in own if _selected(meshlet, pod)]
        endpoints = tuple(
            Endpoint(pod.ref, pod.uid, pod.node, nodes[pod.node], pod.version, pod.ready)
            for pod in serving
            if pod.node is not None and pod.node in nodes
        )
        documents.update(_services(meshlet, endpoints, declared_by))
        # Who matches a selector is among those who match its first label: the whole namespace need not be looked at.
        first = next(iter((meshlet.selector or {}).items()), None)
        candidates = [] if first is None else by_label.get((ref.namespace, *first), [])
        findings[ref] = _findings(meshlet, own, candidates, endpoints, nodes, services)
    return Desired(documents, {node: _needs(by_node[node], world.meshlets, services) for node in sorted(nodes)}, findings)


def _selected(meshlet: Meshlet, pod: PodView) -> bool:
    """The selector narrows the pods down; without one, the label `meshless/meshlet` alone says who serves."""
    return meshlet.selector is None or all(pod.labels.get(key) == value for key, value in meshlet.selector.items())


def _services(
    meshlet: Meshlet, endpoints: tuple[Endpoint, ...], declared_by: Mapping[ServiceId, set[MeshletRef]]
) -> dict[str, ServiceDocument]:
    found = {}
    for service in meshlet.services:
        target = ServiceId(service.name, meshlet.ref.name, meshlet.ref.namespace)
        found[service_topic(target)] = ServiceDocument(
            service=target,
            declared_by=tuple(sorted(declared_by.get(target, ()))),
            allow=None if service.allow is None else tuple(sorted(set(service.allow))),
            max_conn=service.max_conn,
            idle_timeout_ns=service.idle_timeout_ns,
            proxy_protocol=service.proxy_protocol,
            hand_off=service.hand_off,
            canary=None
            if meshlet.canary is None
            else tuple(VersionWeight(line.version, line.weight) for line in meshlet.canary),
            endpoints=endpoints,
        )
    return found


def _needs(pods: list[PodView], meshlets: Mapping[MeshletRef, Meshlet], services: set[ServiceId]) -> NodeNeeds:
    placements = []
    topics: set[str] = set()
    for pod in pods:
        if pod.meshlet is None:
            continue
        meshlet = meshlets.get(pod.meshlet)
        placements.append(PodPlacement(pod.ref, pod.uid, None if meshlet is None else meshlet.ref, pod.version))
        if meshlet is None:
            continue
        topics.add(meshlet_topic(meshlet.ref))
        topics.update(service_topic(target) for target in meshlet.clients if target in services)
        topics.update(
            service_topic(ServiceId(service.name, meshlet.ref.name, meshlet.ref.namespace)) for service in meshlet.services
        )
    return NodeNeeds(tuple(placements), tuple(sorted(topics)))


def _findings(
    meshlet: Meshlet,
    own: list[PodView],
    candidates: list[PodView],
    endpoints: tuple[Endpoint, ...],
    nodes: Mapping[str, str],
    services: set[ServiceId],
) -> Findings:
    ready_versions = {endpoint.version or "" for endpoint in endpoints if endpoint.ready}
    listed = {line.version for line in meshlet.canary or ()}
    return Findings(
        missing_targets=tuple(sorted({target for target in meshlet.clients if target not in services})),
        pods=tuple(pod.ref for pod in own),
        ready_pods=tuple(endpoint.pod for endpoint in endpoints if endpoint.ready),
        unplaced=tuple((pod.ref, pod.node) for pod in own if pod.node is None or pod.node not in nodes),
        not_selected=tuple(pod.ref for pod in own if not _selected(meshlet, pod)) if meshlet.services else (),
        strangers=tuple(pod.ref for pod in candidates if pod.meshlet != meshlet.ref and _selected(meshlet, pod)),
        unavailable_versions=tuple(
            line.version for line in meshlet.canary or () if line.weight > 0 and line.version not in ready_versions
        ),
        unlisted_versions=tuple(sorted(ready_versions - listed)) if meshlet.canary is not None else (),
    )
