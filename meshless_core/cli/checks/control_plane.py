"""Judges the control plane of a dev mesh by what it leaves in the run directory: the reconciler's conditions, the roots.

Reads, never writes: a check must not disturb what it checks.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from meshless_core.cli.checks.finding import Finding
from meshless_core.errors import IdentityError
from meshless_core.identity.certificates import key_identifier, load_certificates, trust_domain_of
from meshless_core.meshlet.reading import nearest

__all__ = ["LEAST_ROOT_SECONDS", "check_reconciler", "check_roots"]

LEAST_ROOT_SECONDS: Final = 30 * 86400.0
"""A rotation needs two steps with the life of a leaf between them, and people on holiday."""

_MAX_STATUS_BYTES: Final = 64 * 1024 * 1024
_GOOD: Final = {"CanaryDegraded": "False"}  # the status a condition has if all is well, where it is not "True"
_FIXES: Final = {
    "ClientTargetMissing": "declare the services, or remove them from spec.client",
    "NoPods": "label the pods meshless/meshlet, or remove spec.server",
    "SelectorMatchesNoPod": "make spec.server.selector match the labels of its pods",
    "NoReadyPods": "look at the pods' output",
    "SelectorMatchesOtherPods": "narrow spec.server.selector, or label the pods",
    "CanaryVersionUnavailable": "start pods of that version, or give it weight 0",
    "CanaryVersionNotListed": "list the versions under spec.server.canary",
    "BusUnavailable": "check that the bus is reachable from the reconciler",
    "DocumentRefused": "make the Meshlet smaller, or look at the reconciler's log",
    "Invalid": "correct the Meshlet; 'meshless validate' shows every line",
}
_WARNINGS: Final = frozenset({"Resolved", "SelectorConsistent", "CanaryDegraded"})  # connections are still made
_SKIPPED: Final = frozenset({"Ready"})  # sums up the others


def check_reconciler(path: Path, *, now: float, resync: float) -> Iterator[Finding]:
    """The reconciler and each Meshlet.

    Args:
        path: the reconciler's `status.json`.
        now: seconds since the Unix epoch.
        resync: seconds between two passes at most, `reconciler.resync`.
    """
    try:
        with path.open("rb") as file:
            status = json.loads(file.read(_MAX_STATUS_BYTES))
    except FileNotFoundError:
        yield Finding.problem("reconciler", path.name, "has not told its state yet", "look at the output of meshless dev")
        return
    except (OSError, ValueError) as error:
        yield Finding.problem("reconciler", path.name, f"its state cannot be read: {error}", "start the mesh again")
        return
    yield from _itself(status, now, resync)
    invalid = set()
    for meshlet in status["meshlets"]:
        conditions = {condition["type"]: condition for condition in meshlet["conditions"]}
        if conditions.get("Accepted", {}).get("status") == "False":
            invalid.add(conditions["Accepted"]["message"])
        yield from _meshlet(f"{meshlet['namespace']}/{meshlet['name']}", conditions)
    for orphan in status.get("orphans", ()):
        yield _orphan(orphan, [one["name"] for one in status["meshlets"] if one["namespace"] == orphan["namespace"]])
    for problem in status["problems"]:
        if not any(problem["message"] in message for message in invalid):  # said above, with the Meshlet's name
            yield _input(problem)


def _itself(status: Mapping[str, Any], now: float, resync: float) -> Iterator[Finding]:
    age = now - datetime.datetime.fromisoformat(status["updated"]).timestamp()
    if status["busError"]:
        yield Finding.problem("reconciler", "bus", status["busError"], _FIXES["BusUnavailable"])
    elif age > 2 * resync:
        message = f"last looked {age:.0f} s ago, expected every {resync:.0f} s"
        yield Finding.warning("reconciler", "itself", message, "look at the output of meshless dev")
    else:
        nodes, pods = len(status["nodes"]), sum(status["nodes"].values())
        yield Finding.ok("reconciler", "itself", f"generation {status['generation']}, pods: {pods}, nodes: {nodes}")


def _meshlet(name: str, conditions: Mapping[str, Mapping[str, str]]) -> Iterator[Finding]:
    worst = False
    for type_, condition in conditions.items():
        if type_ in _SKIPPED or condition["reason"] == "NotInForce":  # never valid: `Accepted` says it
            continue
        message, fix = condition["message"], _FIXES.get(condition["reason"], "see the message")
        if condition["status"] != _GOOD.get(type_, "True"):
            worst = True
            make = Finding.warning if type_ in _WARNINGS else Finding.problem
            yield make("meshlet", name, f"{condition['reason']}: {message or type_}", fix)
        elif message:
            worst = True
            yield Finding.warning("meshlet", name, message, "place its pods on nodes of the mesh")
    if not worst:
        yield Finding.ok("meshlet", name, "accepted and published")


def _orphan(orphan: Mapping[str, Any], known: Collection[str]) -> Finding:
    namespace, name, pods = orphan["namespace"], orphan["meshlet"], orphan["pods"]
    more = f" and {len(pods) - 1} more" if len(pods) > 1 else ""
    message = f"its label meshless/meshlet names {name}, which is no Meshlet of {namespace}: what it dials is refused"
    fix = f"correct the label, or declare the Meshlet; {nearest(name, known)}"
    return Finding.problem("pod", f"{namespace}/{pods[0]}{more}", message, fix)


def _input(problem: Mapping[str, Any]) -> Finding:
    source, line = problem["source"], problem["line"]
    where = f"{source}:{line}" if line else source
    message = ": ".join(part for part in (problem["path"], problem["message"]) if part)
    return Finding.problem("input", where or "-", message, "correct it; until then its last good state stays in force")


def check_roots(bundle: Path, *, now: float) -> Iterator[Finding]:
    """The roots that agents trust.

    Args:
        bundle: PEM file with all of them.
        now: seconds since the Unix epoch.
    """
    try:
        roots = load_certificates(bundle.read_bytes(), str(bundle))
        names = [trust_domain_of(root) for root in roots]
    except (OSError, IdentityError) as error:
        yield Finding.problem(
            "roots", bundle.name, str(error), "restore the certificate authority's folder, or start the mesh again"
        )
        return
    for root, name in zip(roots, names, strict=True):
        subject = f"{name} {key_identifier(root)[:12]}"
        left = root.not_valid_after_utc.timestamp() - now
        days = f"{left / 86400:.0f} days"
        if left <= 0:
            yield Finding.problem("roots", subject, "has expired", "rotate it: 'meshless ca rotate'")
        elif left < LEAST_ROOT_SECONDS:
            yield Finding.warning("roots", subject, f"expires in {days}", "rotate it: 'meshless ca rotate', then --finish")
        else:
            yield Finding.ok("roots", subject, f"valid for {days}")
