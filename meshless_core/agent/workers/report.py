"""What an agent with several workers tells at its admin endpoint: the workers' answers, put together.

Only workers know anything about connections, documents and identities; the supervisor adds which of them there are.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final
from urllib.parse import urlencode

import attrs
import h11

from meshless_core.agent.admin import Answer, Handler
from meshless_core.agent.workers.metric_sums import MetricSums
from meshless_core.agent.workers.worker import Worker

__all__ = ["WorkersReport"]

logger = logging.getLogger(__name__)

_SECONDS: Final = 2.0
"""How long a worker may take to answer; less than who asks the agent waits."""

_NO_DOCUMENTS: Final[Mapping[str, object]] = {
    "source": "none",
    "connected": False,
    "age_seconds": None,
    "topics": 0,
    "behind": [],
    "rejected": {},
}


@attrs.frozen
class _Reply:
    worker: Worker
    status: int
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


class WorkersReport:
    """Answers the admin endpoint's questions about all workers.

    Args:
        workers: every worker.
        known: what the supervisor itself knows: the fields `node`, `trust_domain`, `tunnel_address`, `socketd_connected`,
            `draining` and `plugins` of `/status`.
        not_ready: reasons of the supervisor's own why connections cannot be made.
    """

    def __init__(
        self, workers: Sequence[Worker], known: Callable[[], Mapping[str, object]], not_ready: Callable[[], list[str]]
    ) -> None:
        self._workers = workers
        self._known = known
        self._own_reasons = not_ready
        self._sums = MetricSums()
        self._scraping = asyncio.Lock()

    def handlers(self) -> dict[str, Handler]:
        """Path -> handler: the same as those of one process."""
        return {
            "/healthz": self._healthz,
            "/readyz": self._readyz,
            "/metrics": self._metrics,
            "/connections": self._connections,
            "/status": self._status,
            "/explain": self._explain,
        }

    async def _healthz(self, _query: Mapping[str, str]) -> Answer:
        return Answer.text("ok")

    async def _readyz(self, _query: Mapping[str, str]) -> Answer:
        reasons = self._not_ready(await self._ask("/readyz"))
        return Answer.text("\n".join(reasons), 503) if reasons else Answer.text("ok")

    async def _metrics(self, _query: Mapping[str, str]) -> Answer:
        async with self._scraping:  # what was counted last has to come from the scrape before this one
            replies = {reply.worker.index: reply for reply in await self._ask("/metrics") if reply.status == 200}
            texts: dict[object, str | None] = {
                worker.pid: replies[worker.index].body.decode() if worker.index in replies else None
                for worker in self._workers
                if worker.pid is not None
            }
            return Answer(200, self._sums.merge(texts), "text/plain; version=0.0.4; charset=utf-8")

    async def _connections(self, _query: Mapping[str, str]) -> Answer:
        rows = [
            {**row, "worker": reply.worker.index}
            for reply in await self._ask("/connections")
            if reply.status == 200
            for row in reply.json()
        ]
        return Answer.json(rows)

    async def _status(self, _query: Mapping[str, str]) -> Answer:
        replies = [reply for reply in await self._ask("/status") if reply.status == 200]
        told = {reply.worker.index: reply.json() for reply in replies}
        statuses = list(told.values())
        reasons = self._own_reasons() + [
            reason
            for worker in self._workers
            for reason in self._reasons_of(worker, told[worker.index]["not_ready"] if worker.index in told else None)
        ]
        known = dict(self._known())
        return Answer.json(
            {
                **known,
                "ready": not reasons,
                "not_ready": reasons,
                "draining": known["draining"] or any(status["draining"] for status in statuses),
                "socketd_connected": known["socketd_connected"] and all(status["socketd_connected"] for status in statuses),
                "connections": sum(status["connections"] for status in statuses),
                "tasks": sum(status["tasks"] for status in statuses) + len(asyncio.all_tasks()),
                "documents": min((status["documents"] for status in statuses), key=_trust, default=_NO_DOCUMENTS),
                "pods": max((status["pods"] for status in statuses), key=len, default=[]),
                "identities": _worst_identities(statuses),
                "limits": {
                    name: sum(status["limits"][name] for status in statuses) for name in ("max_connections", "open_files")
                },
                "workers": [_row(worker, told.get(worker.index)) for worker in self._workers],
            }
        )

    async def _explain(self, query: Mapping[str, str]) -> Answer:
        """Every worker decides alike; the first that can answer does."""
        replies = await self._ask(f"/explain?{urlencode(query)}")
        if not replies:
            return Answer.text("no worker of this agent answers; see its log", 503)
        best = min(replies, key=lambda reply: (reply.status != 200, reply.worker.index))
        kind = "application/json" if best.status == 200 else "text/plain; charset=utf-8"
        return Answer(best.status, best.body, kind)

    # --- asking ------------------------------------------------------------------------------------------------------

    async def _ask(self, target: str) -> list[_Reply]:
        """What those answer that do, in order."""

        async def ask(worker: Worker) -> _Reply | None:
            try:
                async with asyncio.timeout(_SECONDS):
                    return _Reply(worker, *await worker.get(target))
            except (OSError, TimeoutError, h11.ProtocolError, ValueError) as error:
                if worker.started:
                    logger.warning("worker %d does not answer %s: %s", worker.index, target, error or type(error).__name__)
                return None

        replies = await asyncio.gather(*(ask(worker) for worker in self._workers if worker.alive))
        return [reply for reply in replies if reply is not None]

    def _not_ready(self, replies: Sequence[_Reply]) -> list[str]:
        told = {
            reply.worker.index: [] if reply.status == 200 else reply.body.decode(errors="replace").splitlines()
            for reply in replies
        }
        return self._own_reasons() + [
            reason for worker in self._workers for reason in self._reasons_of(worker, told.get(worker.index))
        ]

    def _reasons_of(self, worker: Worker, told: Sequence[str] | None) -> list[str]:
        if reason := worker.not_ready():
            return [reason]
        if told is None:
            return [f"worker {worker.index}: does not answer; see the agent's log"]
        return [f"worker {worker.index}: {reason}" for reason in told]


def _trust(documents: Mapping[str, Any]) -> tuple[bool, bool, float]:
    """Orders what workers have: the one that is worst off speaks for the node."""
    age = documents["age_seconds"]
    return documents["source"] != "none", documents["connected"], -(age if age is not None else float("inf"))


def _worst_identities(statuses: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Per identity the leaf that is worst off: not held, or the first to expire."""
    worst: dict[str, Mapping[str, Any]] = {}
    for row in (row for status in statuses for row in status["identities"]):
        there = worst.get(row["identity"])
        if there is None or _validity(row) < _validity(there):
            worst[row["identity"]] = row
    return list(worst.values())


def _validity(row: Mapping[str, Any]) -> tuple[bool, float]:
    return row["held"], row["expires_at"] or 0.0


def _row(worker: Worker, status: Mapping[str, Any] | None) -> dict[str, object]:
    return {
        "worker": worker.index,
        "pid": worker.pid,
        "restarts": worker.restarts,
        "ready": bool(status and status["ready"]),
        "connections": status["connections"] if status else 0,
    }
