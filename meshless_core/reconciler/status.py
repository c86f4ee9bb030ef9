"""What the reconciler knows about each Meshlet, as conditions, and about itself: for people, `meshless check` and alerts.

Conditions follow the Kubernetes API conventions: observations, not a state machine; all known types from first sight on;
`lastTransitionTime` changes only with `status`. This module does no I/O and reads no clock.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

import attrs

from meshless_core.documents import meshlet_topic, service_topic
from meshless_core.errors import Problem
from meshless_core.reconciler.compilation import Desired, Findings
from meshless_core.reconciler.world import World
from meshless_core.types import MeshletRef, PodRef, ServiceId

__all__ = ["Condition", "MeshletStatus", "ReconcilerStatus", "assess", "orphans"]

_MAX_NAMES: Final = 5
_MAX_MESSAGE: Final = 1024

_Verdict = tuple[bool, str, str]


@attrs.frozen
class Condition:
    """One observation.

    Attributes:
        type: `Accepted`, `Resolved`, `Available`, `SelectorConsistent`, `CanaryDegraded`, `Published`; `Ready` sums up.
        status: "True", "False" or "Unknown".
        reason: why, one CamelCase word of a fixed set.
        message: for people, naming the objects and what to do; empty when all is well.
        since: `lastTransitionTime`, seconds since the Unix epoch.
    """

    type: str
    status: str
    reason: str
    message: str
    since: float


@attrs.frozen
class MeshletStatus:
    """A Meshlet's conditions. `observed_generation` is None if the API gives objects no generation (files)."""

    ref: MeshletRef
    conditions: tuple[Condition, ...]
    observed_generation: int | None = None

    def condition(self, type_: str) -> Condition | None:
        """The condition of a type."""
        return next((condition for condition in self.conditions if condition.type == type_), None)


@attrs.frozen
class ReconcilerStatus:
    """The reconciler's state at one moment.

    Attributes:
        epoch: term of this reconciler; 0 before it read the bus.
        generation: of the newest document on the bus.
        updated: seconds since the Unix epoch of the last pass.
        meshlets: sorted by name; also those that were never valid.
        problems: everything wrong with any object, and what discovery could not read.
        bus_error: why the last pass did not reach the bus, None if it did.
        nodes: number of pods by node.
        orphans: pods by the meshlet that their label names and that does not exist: nothing they dial is allowed.
    """

    epoch: int = 0
    generation: int = 0
    updated: float = 0.0
    meshlets: tuple[MeshletStatus, ...] = ()
    problems: tuple[Problem, ...] = ()
    bus_error: str | None = None
    nodes: Mapping[str, int] = attrs.field(factory=dict)
    orphans: Mapping[MeshletRef, tuple[PodRef, ...]] = attrs.field(factory=dict)

    def of(self, ref: MeshletRef) -> MeshletStatus | None:
        """Status of one Meshlet."""
        return next((status for status in self.meshlets if status.ref == ref), None)

    def to_json(self) -> bytes:
        """As JSON; the field names are those of Kubernetes where it has one."""
        data = {
            "epoch": self.epoch,
            "generation": self.generation,
            "updated": _timestamp(self.updated),
            "busError": self.bus_error,
            "problems": [attrs.asdict(problem) for problem in self.problems],
            "nodes": dict(self.nodes),
            "orphans": [
                {"namespace": ref.namespace, "meshlet": ref.name, "pods": [pod.name for pod in pods]}
                for ref, pods in self.orphans.items()
            ],
            "meshlets": [_meshlet_data(meshlet) for meshlet in self.meshlets],
        }
        return json.dumps(data, indent=2, ensure_ascii=False).encode() + b"\n"


def assess(
    world: World,
    desired: Desired,
    *,
    failed: Mapping[str, str],
    bus_error: str | None,
    before: ReconcilerStatus,
    now: float,
) -> tuple[MeshletStatus, ...]:
    """Judge every Meshlet.

    Args:
        world: what is declared.
        desired: what was compiled of it.
        failed: topics that cannot be published, and why.
        bus_error: why the bus was not reached, None if it was.
        before: the status before, for transition times.
        now: seconds since the Unix epoch.
    """
    known = {status.ref: status for status in before.meshlets}
    statuses = []
    for ref in sorted(world.meshlets.keys() | world.rejected.keys()):
        problems = world.rejected.get(ref, ())
        found = desired.findings.get(ref)
        provides = ref in world.meshlets and bool(world.meshlets[ref].services)
        canary = ref in world.meshlets and world.meshlets[ref].canary is not None
        topics = [meshlet_topic(ref)]
        if ref in world.meshlets:
            topics += [service_topic(ServiceId(one.name, ref.name, ref.namespace)) for one in world.meshlets[ref].services]
        verdicts = {
            "Accepted": _accepted(problems, ref in world.meshlets),
            "Resolved": _resolved(found),
            "Available": _available(found, provides),
            "SelectorConsistent": _selector(found),
            "CanaryDegraded": _canary(found, canary),
            "Published": _published([failed[topic] for topic in topics if topic in failed], bus_error, found is not None),
        }
        wrong = [type_ for type_ in ("Accepted", "Published", "Available", "Resolved") if not verdicts[type_][0]]
        ready = not wrong
        verdicts["Ready"] = (
            (True, "AllGood", "") if ready else (False, verdicts[wrong[0]][1], f"see condition {', '.join(wrong)}")
        )
        statuses.append(MeshletStatus(ref, _conditions(verdicts, known.get(ref), now), world.observed.get(ref)))
    return tuple(statuses)


def orphans(world: World) -> Mapping[MeshletRef, tuple[PodRef, ...]]:
    """The pods whose label names a meshlet that nobody declares, not even wrongly, by that name."""
    found: dict[MeshletRef, list[PodRef]] = {}
    for pod in world.pods:
        if pod.meshlet is not None and pod.meshlet not in world.meshlets and pod.meshlet not in world.rejected:
            found.setdefault(pod.meshlet, []).append(pod.ref)
    return {ref: tuple(pods) for ref, pods in sorted(found.items())}


def _conditions(verdicts: Mapping[str, _Verdict], before: MeshletStatus | None, now: float) -> tuple[Condition, ...]:
    found = []
    for type_, (holds, reason, message) in verdicts.items():
        status = "True" if holds else "False"
        old = before.condition(type_) if before is not None else None
        since = old.since if old is not None and old.status == status else now
        found.append(Condition(type_, status, reason, message[:_MAX_MESSAGE], since))
    return tuple(found)


def _accepted(problems: Sequence[Problem], in_force: bool) -> _Verdict:
    if not problems:
        return True, "Valid", ""
    fate = "its last good version stays in force" if in_force else "it is not in force, there is no earlier version"
    return False, "Invalid", f"{fate}; " + "; ".join(map(str, problems))


def _resolved(found: Findings | None) -> _Verdict:
    if found is None:
        return False, "NotInForce", "the meshlet was never valid"
    if found.missing_targets:
        return (
            False,
            "ClientTargetMissing",
            f"spec.client names services that do not exist: {_names(found.missing_targets)}; declare or remove them",
        )
    return True, "AllTargetsExist", ""


def _available(found: Findings | None, provides: bool) -> _Verdict:
    if found is None:
        return False, "NotInForce", "the meshlet was never valid"
    unplaced = ", ".join(f"{pod} on {node or 'no node'}" for pod, node in found.unplaced[:_MAX_NAMES])
    hint = f"; not on a node of the mesh: {unplaced}" if unplaced else ""
    if not provides:
        return True, "NoServices", hint.lstrip("; ")
    if found.ready_pods:
        return True, "ReadyPods", hint.lstrip("; ")
    if not found.pods:
        return False, "NoPods", "no pod is labelled meshless/meshlet with its name in its namespace"
    if len(found.not_selected) == len(found.pods):
        return False, "SelectorMatchesNoPod", f"spec.server.selector matches none of its pods: {_names(found.pods)}"
    return False, "NoReadyPods", f"none of its {len(found.pods)} pods is ready: {_names(found.pods)}{hint}"


def _selector(found: Findings | None) -> _Verdict:
    if found is not None and found.strangers:
        message = (
            f"spec.server.selector matches pods of other meshlets, which get no connections: {_names(found.strangers)}; "
            "label them meshless/meshlet with this name or narrow the selector"
        )
        return False, "SelectorMatchesOtherPods", message
    return True, "OwnPodsOnly", ""


def _canary(found: Findings | None, declared: bool) -> _Verdict:
    if found is None or not declared:
        return False, "NoStrategy", ""
    if found.unavailable_versions:
        return (
            True,
            "CanaryVersionUnavailable",
            f"no ready pod of version {_names(found.unavailable_versions)}: its share goes to the other versions",
        )
    if found.unlisted_versions:
        versions = ", ".join(repr(version) if version else "none" for version in found.unlisted_versions[:_MAX_NAMES])
        return (
            True,
            "CanaryVersionNotListed",
            f"ready pods with version {versions} get no connections: list them under spec.server.canary",
        )
    return False, "AllVersionsAvailable", ""


def _published(failures: Sequence[str], bus_error: str | None, in_force: bool) -> _Verdict:
    if not in_force:
        return False, "NotInForce", "the meshlet was never valid"
    if bus_error is not None:
        return False, "BusUnavailable", f"{bus_error}; agents go on with what they have"
    if failures:
        return False, "DocumentRefused", "; ".join(failures)
    return True, "OnBus", ""


def _names(items: Sequence[object]) -> str:
    text = ", ".join(map(str, items[:_MAX_NAMES]))
    return text if len(items) <= _MAX_NAMES else f"{text} and {len(items) - _MAX_NAMES} more"


def _meshlet_data(meshlet: MeshletStatus) -> dict[str, Any]:
    data: dict[str, Any] = {"namespace": meshlet.ref.namespace, "name": meshlet.ref.name}
    if meshlet.observed_generation is not None:
        data["observedGeneration"] = meshlet.observed_generation
    data["conditions"] = [
        {
            "type": condition.type,
            "status": condition.status,
            "reason": condition.reason,
            "message": condition.message,
            "lastTransitionTime": _timestamp(condition.since),
        }
        for condition in meshlet.conditions
    ]
    return data


def _timestamp(seconds: float) -> str:
    return datetime.datetime.fromtimestamp(seconds, tz=datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
