"""From objects as people write them to Meshlets and Pods: what a cluster's controllers and scheduler would do, on paper.

Deterministic: the same files give the same pods with the same names, uids and nodes, in any order and after any restart. A
changed pod template, or another node, gives a pod of the same name another uid: to the mesh it is another pod. This module does
no I/O.
"""

from __future__ import annotations

import json
import re
import uuid
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

import attrs

from meshless_core import LoadedObject, Problem, is_dns_label

__all__ = ["MAX_PODS", "Expansion", "expand"]

MAX_PODS: Final = 20_000
"""Pods of one snapshot: a typo in `replicas` must not eat the machine."""

_WORKLOADS: Final[Mapping[str, str]] = {"Deployment": "apps/v1", "StatefulSet": "apps/v1", "DaemonSet": "apps/v1"}
_UIDS: Final = uuid.UUID("6f1c1d0a-6f0c-5c5e-9d0e-2f6f6c1f3c57")  # name space of our uuid5; never change it: uids would change
_LABEL: Final = "use 1 to 63 of a-z, 0-9 and '-', no '-' at the ends"
_LABEL_VALUE: Final = re.compile(r"(?:[A-Za-z0-9](?:[A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?)?", re.ASCII)


@attrs.frozen
class Expansion:
    """What became of a set of objects.

    Attributes:
        objects: Meshlets as written, and Pods with name, uid and node.
        origin: `file:line` per object.
        ignored: kinds that mean nothing here, with the origin of the first of each.
        problems: everything that is wrong; if there is any, the objects are not to be used.
    """

    objects: tuple[Mapping[str, Any], ...]
    origin: tuple[str, ...]
    ignored: Mapping[str, str]
    problems: tuple[Problem, ...]


def expand(loaded: Iterable[LoadedObject], nodes: Sequence[str]) -> Expansion:
    """Expand workloads to pods and place every pod.

    Args:
        loaded: objects as written.
        nodes: names of the nodes pods without `spec.nodeName` are spread over.
    """
    expander = _Expander(nodes)
    for one in loaded:
        expander.add(one)
    return expander.result()


class _Expander:
    def __init__(self, nodes: Sequence[str]) -> None:
        self._nodes = tuple(nodes)
        self._objects: list[Mapping[str, Any]] = []
        self._origin: list[str] = []
        self._ignored: dict[str, str] = {}
        self._problems: list[Problem] = []
        self._declared: dict[tuple[str, str, str], str] = {}
        self._pods: dict[tuple[str, str], str] = {}

    def result(self) -> Expansion:
        return Expansion(tuple(self._objects), tuple(self._origin), self._ignored, tuple(self._problems))

    def add(self, one: LoadedObject) -> None:
        kind = one.kind
        if not kind:
            self._wrong(one, "$.kind", "is missing or not a string: every object has one", "kind")
            return
        if kind not in ("Meshlet", "Pod", *_WORKLOADS):
            self._ignored.setdefault(kind, one.origin)
            return
        expected = {"Pod": "v1", **_WORKLOADS}.get(kind)
        if expected is not None and one.data.get("apiVersion") != expected:
            self._wrong(one, "$.apiVersion", f"of a {kind} has to be {expected}", "apiVersion")
        metadata = self._mapping(one, one.data, "metadata")
        namespace, name = metadata.get("namespace", "default"), metadata.get("name")
        if kind == "Meshlet":
            # The reconciler judges it, and keeps its last good version; only a second one of the same name is our affair.
            if isinstance(namespace, str) and isinstance(name, str):
                self._declare(one, kind, namespace, name)
            self._objects.append(one.data)
            self._origin.append(one.origin)
            return
        if not isinstance(namespace, str) or not is_dns_label(namespace):
            self._wrong(one, "$.metadata.namespace", f"is not a DNS label: {_LABEL}", "metadata", "namespace")
            return
        if not isinstance(name, str) or len(name) > 240 or not all(map(is_dns_label, name.split("."))):
            self._wrong(one, "$.metadata.name", "is missing or not DNS labels joined by dots", "metadata", "name")
            return
        self._declare(one, kind, namespace, name)
        if kind == "Pod":
            self._pod(one, namespace, name)
        else:
            self._workload(one, kind, namespace, name)

    def _declare(self, one: LoadedObject, kind: str, namespace: str, name: str) -> None:
        first = self._declared.get((kind, namespace, name))
        if first is None:
            self._declared[kind, namespace, name] = one.origin
        else:
            self._wrong(
                one, "$.metadata.name", f"{kind} {namespace}/{name} is declared at {first} already: keep one", "metadata"
            )

    def _pod(self, one: LoadedObject, namespace: str, name: str) -> None:
        metadata = self._mapping(one, one.data, "metadata")
        spec = self._mapping(one, one.data, "spec")
        if not self._check_template(one, metadata, spec, ""):
            return
        content = {"metadata": {key: metadata.get(key) for key in ("labels", "annotations")}, "spec": spec}
        pod = self._placed(one, metadata, spec, content, namespace, name, (namespace, name), 0)
        if pod is None:
            return
        if isinstance(uid := metadata.get("uid"), str) and uid:
            pod["metadata"]["uid"] = uid
        if "status" in one.data:
            pod["status"] = one.data["status"]
        self._emit(one, namespace, name, pod)

    def _workload(self, one: LoadedObject, kind: str, namespace: str, name: str) -> None:
        spec = self._mapping(one, one.data, "spec")
        template = self._mapping(one, spec, "template", "$.spec", "spec")
        metadata = self._mapping(one, template, "metadata", "$.spec.template", "spec", "template")
        pod_spec = self._mapping(one, template, "spec", "$.spec.template", "spec", "template")
        if not self._check_template(one, metadata, pod_spec, ".spec.template", "spec", "template"):
            return
        selector = self._mapping(one, spec, "selector", "$.spec", "spec").get("matchLabels")
        if isinstance(selector, Mapping):
            labels = metadata.get("labels") or {}
            if missing := [key for key, value in selector.items() if labels.get(key) != value]:
                text = f"is not what the pod template is labelled with ({', '.join(map(str, missing))}): make them equal"
                self._wrong(one, "$.spec.selector.matchLabels", text, "spec", "selector", "matchLabels")
                return
        for suffix, index, node in self._replicas(one, kind, spec):
            pod_name = f"{name}-{suffix}"
            placed = dict(pod_spec) if node is None or pod_spec.get("nodeName") else {**pod_spec, "nodeName": node}
            pod = self._placed(one, metadata, placed, template, namespace, pod_name, (namespace, name), index)
            if pod is None:
                return
            owner = {"apiVersion": _WORKLOADS[kind], "kind": kind, "name": name, "controller": True}
            pod["metadata"]["ownerReferences"] = [owner]
            self._emit(one, namespace, pod_name, pod)

    def _replicas(self, one: LoadedObject, kind: str, spec: Mapping[str, Any]) -> Iterator[tuple[str, int, str | None]]:
        """Name suffix, index, and the node if the kind chooses it, of each pod of a workload."""
        if kind == "DaemonSet":
            for index, node in enumerate(self._nodes):
                yield node, index, node
            return
        replicas = spec.get("replicas", 1)
        if type(replicas) is not int or not 0 <= replicas <= MAX_PODS:
            self._wrong(one, "$.spec.replicas", f"has to be an integer of 0 to {MAX_PODS}", "spec", "replicas")
            return
        for index in range(replicas):
            yield str(index), index, None

    def _check_template(
        self, one: LoadedObject, metadata: Mapping[str, Any], spec: Mapping[str, Any], path: str, *at: str
    ) -> bool:
        before = len(self._problems)
        labels = self._mapping(one, metadata, "labels", f"${path}.metadata", *at, "metadata")
        for key, value in labels.items():
            if not isinstance(value, str) or _LABEL_VALUE.fullmatch(value) is None:
                text = "is not a label value: a string in quotes of up to 63 of A-Z a-z 0-9 '.' '_' '-'"
                self._wrong(one, f'${path}.metadata.labels["{key}"]', text, *at, "metadata", "labels", key)
        node = spec.get("nodeName")
        if node is not None and not (isinstance(node, str) and is_dns_label(node)):
            self._wrong(one, f"${path}.spec.nodeName", f"is not a DNS label: {_LABEL}", *at, "spec", "nodeName")
        containers = spec.get("containers", [])
        if not isinstance(containers, list) or not all(isinstance(container, Mapping) for container in containers):
            self._wrong(one, f"${path}.spec.containers", "has to be a list of mappings", *at, "spec", "containers")
        return len(self._problems) == before

    def _placed(
        self,
        one: LoadedObject,
        metadata: Mapping[str, Any],
        spec: Mapping[str, Any],
        content: object,
        namespace: str,
        name: str,
        spread_by: tuple[str, str],
        index: int,
    ) -> dict[str, Any] | None:
        node = spec.get("nodeName") or self._nodes[(zlib.crc32("/".join(spread_by).encode()) + index) % len(self._nodes)]
        try:
            fingerprint = json.dumps([content, node], sort_keys=True, allow_nan=False)
        except ValueError as error:
            self._wrong(one, "$", f"is no JSON value: {error}")
            return None
        kept = {key: metadata[key] for key in ("labels", "annotations") if metadata.get(key) is not None}
        uid = str(uuid.uuid5(_UIDS, f"{namespace}/{name}/{fingerprint}"))
        return {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"namespace": namespace, "name": name, "uid": uid, **kept},
            "spec": {**spec, "nodeName": node},
        }

    def _emit(self, one: LoadedObject, namespace: str, name: str, pod: Mapping[str, Any]) -> None:
        if (first := self._pods.get((namespace, name))) is not None:
            self._wrong(one, "$.metadata.name", f"pod {namespace}/{name} comes from {first} already: rename one", "metadata")
            return
        if len(self._pods) >= MAX_PODS:
            self._wrong(one, "$.spec.replicas", f"more than {MAX_PODS} pods in all: lower replicas", "spec")
            return
        self._pods[namespace, name] = one.origin
        self._objects.append(pod)
        self._origin.append(one.origin)

    def _mapping(self, one: LoadedObject, parent: Mapping[str, Any], key: str, path: str = "$", *at: str) -> Mapping[str, Any]:
        value = parent.get(key)
        if isinstance(value, Mapping):
            return value
        if value is not None:
            self._wrong(one, f"{path}.{key}", "has to be a mapping", *at, key)
        return {}

    def _wrong(self, one: LoadedObject, path: str, message: str, *at: str) -> None:
        problem = Problem(path, message, one.source, one.line_of(*at))
        if problem not in self._problems[-8:]:  # a field that is read twice is wrong once
            self._problems.append(problem)
