"""Judges agents by what each tells about itself at `/status`. Pure functions; no I/O, and the time is an argument."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

from meshless_core.cli.checks.finding import Finding

__all__ = ["LEAST_LEAF_SECONDS", "check_agent", "check_agreement"]

LEAST_LEAF_SECONDS: Final = 6 * 3600.0
"""A leaf lives 24 h and is renewed at half-life: with less than a quarter left several renewals have failed."""

_DESCRIPTORS_PER_CONNECTION: Final = 3
_Status = Mapping[str, Any]


def check_agent(status: _Status, *, now: float, resync: float) -> Iterator[Finding]:
    """Everything about one agent.

    Args:
        status: its answer to `/status`.
        now: seconds since the Unix epoch.
        resync: seconds between two confirmations by the reconciler, `reconciler.resync`.
    """
    yield from _ready(status)
    yield from _socketd(status)
    yield from _documents(status, resync)
    for row in status["identities"]:
        yield _identity(status["node"], row, now)
    yield from _limits(status)


def _ready(status: _Status) -> Iterator[Finding]:
    node = status["node"]
    if status["draining"]:
        fix = "nothing if it is being replaced; otherwise start an agent for this node"
        yield Finding.warning("agent", node, "is shutting down and accepts no new connections", fix)
        return
    for reason in status["not_ready"]:
        what, _, hint = reason.partition("; ")
        yield Finding.problem("agent", node, f"not ready: {what}", hint or "look at the agent's log")
    if status["ready"]:
        pods, connections = len(status["pods"]), status["connections"]
        message = f"ready, tunnels on {status['tunnel_address']}, pods: {pods}, connections: {connections}"
        yield Finding.ok("agent", node, message)


def _socketd(status: _Status) -> Iterator[Finding]:
    if status["socketd_connected"]:
        yield Finding.ok("socketd", status["node"], "the agent is connected")
    else:
        message = "the agent has lost socketd: pods it serves go on, new and removed pods are not noticed"
        yield Finding.problem("socketd", status["node"], message, "start socketd of this node, or look at its log")


def _documents(status: _Status, resync: float) -> Iterator[Finding]:
    node, documents = status["node"], status["documents"]
    age = documents["age_seconds"]
    old = "of unknown age" if age is None else f"confirmed {_span(age)} ago"
    if documents["source"] == "none":
        yield Finding.problem(
            "documents", node, "the agent has none", "start the reconciler, and check that the bus is reachable"
        )
    elif not documents["connected"]:
        message = f"the bus is not there; serving from the last known good state, {old}"
        yield Finding.warning("documents", node, message, "check that the bus is reachable from this node")
    elif documents["source"] == "disk":
        message = f"what is in force came from the disk, {old}; the bus has not confirmed it yet"
        yield Finding.warning("documents", node, message, "start the reconciler, or look at its log")
    elif age is not None and age > 2 * resync:
        message = f"{old}, expected at least every {_span(resync)}"
        yield Finding.warning("documents", node, message, "start the reconciler, or look at its log")
    else:
        yield Finding.ok("documents", node, f"{documents['topics']} from the {documents['source']}, {old}")
    for topic, why in sorted(documents["rejected"].items()):
        message = f"{topic} was rejected, the last good one stays in force: {why}"
        yield Finding.problem("documents", node, message, "look for a second writer on the bus; run agents of the same version")
    if behind := [topic for topic in documents["behind"] if topic not in documents["rejected"]]:
        message = f"newer ones are announced than are in force: {', '.join(behind)}"
        yield Finding.warning("documents", node, message, "look again in some seconds; if it stays, look at the bus")


def _identity(node: str, row: Mapping[str, Any], now: float) -> Finding:
    subject = f"{row['identity']} on {node}"
    why = f": {row['problem']}" if row["problem"] else ""
    if not row["held"] or row["expires_at"] is None:
        return Finding.problem(
            "identity", subject, f"no valid leaf{why}", "start the issuer, and check this node's issuer socket"
        )
    left = row["expires_at"] - now
    if left <= 0:
        return Finding.problem(
            "identity", subject, f"the leaf has expired{why}", "start the issuer; check this machine's clock"
        )
    if left < LEAST_LEAF_SECONDS or why:
        return Finding.warning(
            "identity", subject, f"the leaf expires in {_span(left)}, renewal fails{why}", "start the issuer"
        )
    return Finding.ok("identity", subject, f"the leaf is valid for {_span(left)}")


def _limits(status: _Status) -> Iterator[Finding]:
    connections, files = status["limits"]["max_connections"], status["limits"]["open_files"]
    needed = connections * _DESCRIPTORS_PER_CONNECTION
    if files < 0 or files >= needed:
        shown = "unlimited" if files < 0 else files
        yield Finding.ok("limits", status["node"], f"open files: {shown}, agent.max_connections: {connections}")
        return
    message = f"{files} open files are allowed, agent.max_connections of {connections} may need {needed}"
    fits = files // _DESCRIPTORS_PER_CONNECTION
    fix = f"raise the hard limit (ulimit -Hn) to {needed}, or set agent.max_connections to {fits}"
    yield Finding.warning("limits", status["node"], message, fix)


def check_agreement(statuses: Sequence[_Status]) -> Iterator[Finding]:
    """What has to be the same on all agents: plugins with their order, and the trust domain."""
    if not statuses:
        return
    first = statuses[0]
    agreed = True
    for other in statuses[1:]:
        if difference := _difference(first, other):
            agreed = False
            message = f"differ from those of {first['node']}: {difference}"
            yield Finding.problem("plugins", other["node"], message, "give all agents the same configuration and packages")
        if other["trust_domain"] != first["trust_domain"]:
            message = f"is {other['trust_domain']!r}, but {first['trust_domain']!r} on {first['node']}: they never talk"
            yield Finding.problem("trust domain", other["node"], message, "set mesh.trust_domain to the same name everywhere")
    if agreed:
        names = ", ".join(dict.fromkeys(row["name"] for row in first["plugins"]))
        where = "all agents" if len(statuses) > 1 else first["node"]
        yield Finding.ok("plugins", where, names or "none")


def _difference(first: _Status, other: _Status) -> str:
    ours, theirs = _plugin_names(first["plugins"]), _plugin_names(other["plugins"])
    missing = [name for name in ours if name not in theirs]
    added = [name for name in theirs if name not in ours]
    if missing or added:
        parts = [f"without {', '.join(missing)}"] * bool(missing) + [f"with {', '.join(added)}"] * bool(added)
        return "; ".join(parts)
    return "" if ours == theirs else f"in another order: {', '.join(theirs)}"


def _plugin_names(rows: Iterable[Mapping[str, Any]]) -> list[str]:
    return [f"{row['kind']} {row['name']} {row['version']}" for row in rows]


def _span(seconds: float) -> str:
    """Coarse, for people: two units at most."""
    whole = int(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min"
    if whole < 48 * 3600:
        return f"{whole // 3600} h {whole % 3600 // 60} min"
    return f"{whole // 86400} days"
