"""From a discovery snapshot to valid objects, one by one: a bad object costs itself only.

An object that is not valid is replaced by its own last good version, if there was one; the problems are kept for the status.
What was good survives a restart of the reconciler (`dump`, `restore`), so that a restart during a typo takes nothing away.
This module does no I/O and logs nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Final

import attrs

from meshless_core.errors import Problem, ValidationError
from meshless_core.hookspecs import DiscoverySnapshot
from meshless_core.meshlet import Meshlet, parse_meshlet
from meshless_core.types import MeshletRef, PodRef, is_dns_label

__all__ = ["MESHLET_LABEL", "VERSION_LABEL", "ObjectMemory", "PodView", "World", "parse_pod"]

MESHLET_LABEL: Final = "meshless/meshlet"
"""Pod label: which meshlet the pod belongs to (product contract, section 2)."""

VERSION_LABEL: Final = "version"
"""Pod label: the version the canary strategy speaks of."""

_Key = tuple[str, str, str]


@attrs.frozen
class PodView:
    """What the reconciler needs to know of a pod.

    Attributes:
        ref: the pod.
        uid: its uid.
        node: name of its node, None if it has none yet.
        labels: all labels.
        meshlet: the meshlet its label names, None without the label.
        version: its version label, None without one or with an empty one.
        ready: whether it may receive new connections.
        finished: whether it will never run again (phase Succeeded or Failed).
    """

    ref: PodRef
    uid: str
    node: str | None
    labels: Mapping[str, str]
    meshlet: MeshletRef | None
    version: str | None
    ready: bool
    finished: bool


@attrs.frozen
class World:
    """One complete state of valid objects.

    Attributes:
        meshlets: in force: valid now, or their last good version.
        pods: every pod, by name.
        rejected: problems of Meshlets that are not valid now.
        observed: `metadata.generation` of each Meshlet where the API gives one.
        problems: everything that is wrong with any object.
    """

    meshlets: Mapping[MeshletRef, Meshlet]
    pods: tuple[PodView, ...]
    rejected: Mapping[MeshletRef, tuple[Problem, ...]]
    observed: Mapping[MeshletRef, int]
    problems: tuple[Problem, ...]


@attrs.frozen
class _Remembered:
    raw: Mapping[str, Any]
    value: Any


class ObjectMemory:
    """Remembers the last good version of every object that still exists."""

    def __init__(self) -> None:
        self._good: dict[_Key, _Remembered] = {}

    def update(self, snapshot: DiscoverySnapshot) -> World:
        """Validate a snapshot. Unchanged objects are not parsed again; objects that are gone are forgotten."""
        problems: list[Problem] = []
        rejected: dict[_Key, tuple[Problem, ...]] = {}
        observed: dict[MeshletRef, int] = {}
        keys = [_key(raw) for raw in snapshot.objects]
        twice = {key for key, count in Counter(key for key in keys if key is not None).items() if count > 1}
        for raw, origin, key in zip(snapshot.objects, snapshot.origin, keys, strict=True):
            kind = raw.get("kind")
            if kind not in ("Meshlet", "Pod"):
                continue
            found = self._problems(raw, origin, key, twice)
            problems += found
            if key is None:
                continue
            if found:
                rejected[key] = (*rejected.get(key, ()), *found)
            if kind == "Meshlet" and type(generation := raw["metadata"].get("generation")) is int:
                observed[MeshletRef(*key[1:])] = generation
        present = {key for key in keys if key is not None}
        self._good = {key: remembered for key, remembered in self._good.items() if key in present}
        return World(
            meshlets={MeshletRef(*key[1:]): good.value for key, good in sorted(self._good.items()) if key[0] == "Meshlet"},
            pods=tuple(good.value for key, good in sorted(self._good.items()) if key[0] == "Pod"),
            rejected={MeshletRef(*key[1:]): found for key, found in rejected.items() if key[0] == "Meshlet"},
            observed=observed,
            problems=tuple(problems),
        )

    def dump(self) -> list[Mapping[str, Any]]:
        """The last good Meshlets as objects, JSON values; give them to `restore` after a restart."""
        return [good.raw for key, good in sorted(self._good.items()) if key[0] == "Meshlet"]

    def restore(self, objects: Sequence[object]) -> None:
        """Remember what `dump` gave; what is not valid (any more) is left out."""
        for raw in objects:
            if isinstance(raw, dict) and (key := _key(raw)) is not None and key[0] == "Meshlet":
                try:
                    self._good[key] = _Remembered(raw, parse_meshlet(raw))
                except ValidationError:
                    continue

    def _problems(self, raw: Mapping[str, Any], origin: str, key: _Key | None, twice: set[_Key]) -> tuple[Problem, ...]:
        """Remember a valid object; otherwise what is wrong with it."""
        if key is not None and key in twice:
            message = f"{key[0]} {key[1]}/{key[2]} is declared more than once: keep one; the last good version stays in force"
            return (Problem("$.metadata.name", message, origin),)
        if key is not None and (known := self._good.get(key)) is not None and known.raw == raw:
            return ()
        try:
            value = parse_meshlet(raw, origin) if raw.get("kind") == "Meshlet" else parse_pod(raw, origin)
        except ValidationError as error:
            return error.problems
        assert key is not None  # both parsers insist on namespace and name
        self._good[key] = _Remembered(raw, value)
        return ()


def parse_pod(obj: Mapping[str, Any], origin: str = "") -> PodView:
    """Read what the reconciler needs of a Pod; everything else of it is Kubernetes' business.

    A pod is ready if its `Ready` condition says so. A pod without a status (from a file) is: nobody can know better, and a
    dial of a service that does not answer goes on to the next pod.

    Raises:
        ValidationError: with every problem found.
    """
    reader = _PodReader(obj, origin)
    metadata = reader.mapping(obj, "metadata", "$")
    spec = reader.mapping(obj, "spec", "$")
    status = reader.mapping(obj, "status", "$")
    namespace = reader.text(metadata, "namespace", "$.metadata") or "default"
    name = reader.text(metadata, "name", "$.metadata") or ""
    uid = reader.text(metadata, "uid", "$.metadata") or ""
    node = reader.text(spec, "nodeName", "$.spec") or None
    labels = reader.labels(metadata)
    reader.check(is_dns_label(namespace), "$.metadata.namespace", "is not a DNS label")
    reader.check(0 < len(name) <= 253 and all(map(is_dns_label, name.split("."))), "$.metadata.name", "is not a pod's name")
    reader.check(bool(uid), "$.metadata.uid", "is missing: the discovery plugin has to give every pod one")
    meshlet = labels.get(MESHLET_LABEL) or None
    if meshlet is not None:
        reader.check(is_dns_label(meshlet), f'$.metadata.labels["{MESHLET_LABEL}"]', "is not a meshlet's name (a DNS label)")
    if reader.problems:
        raise ValidationError(reader.problems)
    conditions = status.get("conditions")
    ready = not status or any(
        isinstance(condition, Mapping) and condition.get("type") == "Ready" and condition.get("status") == "True"
        for condition in (conditions if isinstance(conditions, list) else ())
    )
    return PodView(
        ref=PodRef(namespace, name),
        uid=uid,
        node=node,
        labels=labels,
        meshlet=None if meshlet is None else MeshletRef(namespace, meshlet),
        version=labels.get(VERSION_LABEL) or None,
        ready=ready and metadata.get("deletionTimestamp") is None,
        finished=status.get("phase") in ("Succeeded", "Failed"),
    )


class _PodReader:
    """Collects problems while reading."""

    def __init__(self, obj: Mapping[str, Any], origin: str) -> None:
        self._origin = origin
        self.problems: list[Problem] = []

    def check(self, right: bool, path: str, message: str) -> None:
        if not right:
            self.problems.append(Problem(path, message, self._origin))

    def mapping(self, parent: Mapping[str, Any], key: str, path: str) -> Mapping[str, Any]:
        value = parent.get(key)
        if value is None:
            return {}
        if isinstance(value, Mapping):
            return value
        self.check(False, f"{path}.{key}", "has to be a mapping")
        return {}

    def text(self, parent: Mapping[str, Any], key: str, path: str) -> str | None:
        value = parent.get(key)
        if value is None or isinstance(value, str):
            return value
        self.check(False, f"{path}.{key}", "has to be a string")
        return None

    def labels(self, metadata: Mapping[str, Any]) -> Mapping[str, str]:
        labels = self.mapping(metadata, "labels", "$.metadata")
        wrong = [key for key, value in labels.items() if not isinstance(value, str)]
        for key in wrong:
            self.check(False, f'$.metadata.labels["{key}"]', "has to be a string: put it in quotes")
        return {key: value for key, value in labels.items() if key not in wrong}


def _key(raw: Mapping[str, Any]) -> _Key | None:
    """Kind, namespace and name, None if the object does not tell them."""
    metadata = raw.get("metadata")
    if not isinstance(metadata, Mapping):
        return None
    kind, namespace, name = raw.get("kind"), metadata.get("namespace"), metadata.get("name")
    if namespace is None:
        namespace = "default"
    if not (isinstance(kind, str) and isinstance(namespace, str) and isinstance(name, str)):
        return None
    return kind, namespace, name
