"""Judges a storm: every connection has to have an end that is right, or explained by something that was done to it.

The oracle, in one place:

1. No end ever gets a byte that was not sent, or sees an end-of-file at the wrong place and takes it for a good one.
2. Nobody waits for ever: neither end of any connection is stuck.
3. An exchange that did not complete met a fault: its server's process died, an agent on its path was killed, or its permission
   was taken back, *while it was under way*.
4. A connection that was refused got a reply code. Closed without one (`silent`) is right only if the agent of the client's node
   was killed with SIGKILL while it held that connection.
5. What the client knows to be complete, the server has received completely, and the other way round.
6. A client that may not is never served, and one that may is never denied.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

from tests.mesh.chaos import NODE_OF, Attempt, Fault, Storm
from tests.mesh.running_mesh import gone

GRACE = 1.0
"""Seconds between a fault and the moment its victims must have felt it; a busy machine's scheduling."""

CLIENT_NODE = {"web-0": "node-a", "web-1": "node-b", "odd": "node-a"}
RETRYABLE = {
    "NO_ENDPOINT",
    "CONNECTION_LIMIT",
    "TUNNEL_FAILED",
    "SERVICE_REFUSED",
    "TIMEOUT",
    "DRAINING",
    "OVERLOADED",
    "NOT_READY",
}
EXPECTED_CODES = {
    "stall": {"TIMEOUT"},
    "knock": {"UNSUPPORTED_VERSION", "MALFORMED_REQUEST"},
    "intrude": {"ACCESS_DENIED", "NOT_READY"},
}
BOTH_KNOW = ("acknowledged", "client_first")


def verdict(storm: Storm) -> list[str]:
    """Everything that is not right; empty if the mesh kept its promises."""
    return [*storm.bugs, *_Judge(storm).violations()]


def summary(storm: Storm) -> dict[str, Any]:
    """What happened, in numbers."""
    results = Counter(attempt.result.partition(":")[0] for attempt in storm.attempts)
    return {
        "connections": len(storm.attempts),
        "results": dict(results.most_common()),
        "faults": dict(Counter(fault.kind for fault in storm.faults)),
    }


class _Judge:
    def __init__(self, storm: Storm) -> None:
        self._storm = storm
        self._agents = [fault for fault in storm.faults if fault.kind == "agent"]
        self._deaths = {fault.pid: fault.began for fault in storm.faults if fault.kind == "pod"}
        for row in storm.log("crash", "terminated"):
            self._deaths.setdefault(row["pid"], row["at"])
        self._revoked = [fault for fault in storm.faults if fault.kind == "edit"]
        self._ends = {row["number"]: row for row in storm.log("end") if row["number"] is not None}
        self._attempts = {attempt.number: attempt for attempt in storm.attempts}

    def violations(self) -> Iterator[str]:
        for attempt in self._storm.attempts:
            problem = self._of_client(attempt)
            if problem:
                yield f"{problem}: {attempt}, server said {self._ends.get(attempt.number)}"
        for row in self._storm.log("end"):
            problem = self._of_server(row)
            if problem:
                yield f"{problem}: {row}, client said {self._attempts.get(row['number'] or 0)}"
        ended = {(row["pid"], row["key"]) for row in self._storm.log("end")}
        for row in self._storm.log("begin"):
            if (row["pid"], row["key"]) not in ended and not gone(row["pid"]) and row["pid"] not in self._deaths:
                yield f"the server's end of a connection has not ended: {row}"

    def _of_client(self, attempt: Attempt) -> str:
        kind = attempt.result.partition(":")[0]
        if kind in ("wrong", "stuck", ""):
            return f"{kind or 'no end'} at the client"
        if attempt.result == "silent":
            return "" if self._held_by_killed_agent(attempt) else "closed without a reply code"
        if kind in EXPECTED_CODES.get(attempt.doing, ()):
            return ""
        if attempt.doing in EXPECTED_CODES:
            return "a connection that must be refused was not, or with another code"
        if kind.isupper():
            return self._of_refusal(attempt)
        if kind in ("short", "error"):
            return "" if self._explained(attempt) else "an error nobody caused"
        if attempt.result == "complete" and attempt.doing in BOTH_KNOW:
            end = self._ends.get(attempt.number)
            if end is not None and not end["received"]:
                return "complete at the client, but the server did not get everything"
            if end is None and attempt.server_pid not in self._deaths:
                return "complete at the client, but the server knows nothing of it"
        return ""

    def _of_refusal(self, attempt: Attempt) -> str:
        if attempt.result == "ACCESS_DENIED" and attempt.service == "http.bank.shop" and self._storm.faults:
            return ""  # its allow list was edited
        if attempt.result not in RETRYABLE:
            return "a code that this client must never get"
        return ""

    def _of_server(self, row: dict[str, Any]) -> str:
        kind = row["ended"].partition(":")[0]
        if kind in ("wrong", "stuck"):
            return f"{kind} at the server"
        attempt = self._attempts.get(row["number"] or 0)
        if kind == "ok" or attempt is None or attempt.result in ("left", "cut"):
            return ""  # a client without a number left before it said one
        if attempt.result == "complete" and attempt.doing in BOTH_KNOW and not row["received"]:
            return "complete at the client, not at the server"
        return "" if self._explained(attempt) or self._explained(attempt, row) else "an error nobody caused, at the server"

    def _held_by_killed_agent(self, attempt: Attempt) -> bool:
        node = CLIENT_NODE[attempt.pod]
        return any(fault.what == node and _overlaps(fault, attempt.began, attempt.ended) for fault in self._agents)

    def _explained(self, attempt: Attempt, row: dict[str, Any] | None = None) -> bool:
        """Whether something was done to this connection while it was under way, as its client or (`row`) its server saw it."""
        began, ended = (attempt.began, attempt.ended) if row is None else (row["began"], row["at"])
        server = attempt.server or (row["pod"] if row else "")
        pid = attempt.server_pid or (row["pid"] if row else 0)
        nodes = {CLIENT_NODE[attempt.pod]}
        nodes |= {node for name, node in NODE_OF.items() if not server or server.startswith(f"{name}-")}
        if any(fault.what in nodes and _overlaps(fault, began, ended) for fault in self._agents):
            return True
        deaths = [self._deaths[pid]] if pid in self._deaths else [] if pid else list(self._deaths.values())
        if any(began - GRACE <= at <= ended + GRACE for at in deaths):
            return True
        return attempt.service == "http.bank.shop" and any(fault.began <= ended + GRACE for fault in self._revoked)


def _overlaps(fault: Fault, began: float, ended: float) -> bool:
    return fault.began <= ended + GRACE and fault.ended >= began - GRACE
