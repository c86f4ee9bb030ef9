"""One JSON line per closed or refused connection, with the field names of the metrics' labels.

Lines are formatted and written in batches, a fraction of a second later, so that a burst of short connections does not pay for
its log one by one. At most `_MAX_LINES` wait; more are counted and the loss is logged, so memory stays bounded.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Callable
from functools import lru_cache
from typing import Any, Final

from meshless_core.agent.connections import Connection, Reporter, TransportName
from meshless_core.relay import RelayResult
from meshless_core.types import Endpoint, MeshletRef, PodRef, ReplyCode, ServiceId

__all__ = ["AccessLog"]

logger = logging.getLogger(__name__)

_FLUSH_SECONDS: Final = 0.25
_MAX_LINES: Final = 20_000
_MAX_TEXT: Final = 256
_EMPTY: Final = '""'
_BATCH: Final = 256

_Closed = tuple[Connection, RelayResult, float]
"""An entry that is not a line yet: a connection, how it ended, and when, in Unix seconds."""


class AccessLog:
    """Collects entries and hands complete lines to `write`.

    Args:
        write: takes text that ends in a newline; may raise OSError, which is logged once and counted.
        node: this node's name, part of every line.
    """

    def __init__(self, write: Callable[[str], object] | None, *, node: str) -> None:
        self._write = write
        self._node = node
        self._entries: list[_Closed | str] = []
        self._timer: asyncio.TimerHandle | None = None
        self.lost = 0
        """Lines that could not be kept or written."""

    def closed(self, connection: Connection, result: RelayResult) -> None:
        """A connection that was established has ended."""
        if self._write is not None:
            self._add((connection, result, time.time()))

    def refused(
        self,
        connection_id: bytes,
        reporter: str,
        source: MeshletRef | None,
        source_pod: PodRef | None,
        service: ServiceId | None,
        code: ReplyCode,
        policy: str,
        reason: str,
    ) -> None:
        """A request was answered with another code than OK."""
        if self._write is not None:
            self._add(
                _line(
                    {
                        "time": time.time(),
                        "event": "refused",
                        "node": self._node,
                        "connection": connection_id.hex(),
                        "reporter": reporter,
                        "source": str(source) if source else None,
                        "source_pod": str(source_pod) if source_pod else None,
                        "service": str(service) if service else None,
                        "code": code.name,
                        "policy": policy,
                        "reason": reason[:_MAX_TEXT],
                    }
                )
            )

    def flush(self) -> None:
        """Write what waits."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        entries, self._entries = self._entries, []
        if not entries or self._write is None:
            return
        text = "".join([entry if isinstance(entry, str) else self._closed(*entry) for entry in entries])
        try:
            self._write(text)
        except OSError as error:
            self.lost += len(entries)
            logger.error("access log: %d lines lost: %s", len(entries), error.strerror)

    def _add(self, entry: _Closed | str) -> None:
        if len(self._entries) >= _MAX_LINES:
            self.lost += 1
            return
        self._entries.append(entry)
        if len(self._entries) >= _BATCH:
            self.flush()
        elif self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(_FLUSH_SECONDS, self.flush)

    def _closed(self, connection: Connection, result: RelayResult, ended: float) -> str:
        """The line of a connection that ended; by hand, at a quarter of what `json.dumps` costs each connection."""
        c, duration = connection, ended - connection.opened_at
        who = _parties(self._node, c.reporter, c.transport, c.source, c.source_pod, c.service, c.endpoint, c.peer, c.policy)
        return (
            f'{{"time":{ended:.6f},"event":"closed","connection":"{c.id.hex()}",{who}'
            f',"outcome":"{result.outcome}","ended_by":"{result.ended_by}"'
            f',"reason":{json.dumps(result.reason) if result.reason else _EMPTY}'
            f',"connect_seconds":{c.connect_seconds:.6f},"duration_seconds":{duration:.6f}'
            f',"bytes_to_service":{result.bytes_to_service},"bytes_to_client":{result.bytes_to_client}}}\n'
        )


def _line(fields: dict[str, Any]) -> str:
    return json.dumps(fields, separators=(",", ":")) + "\n"


@lru_cache(maxsize=1024)
def _parties(
    node: str,
    reporter: Reporter,
    transport: TransportName,
    source: MeshletRef,
    source_pod: PodRef | None,
    service: ServiceId,
    endpoint: Endpoint,
    peer: str,
    policy: str,
) -> str:
    """The fields that the connections of one client to one endpoint have in common; those of the last are remembered."""
    fields: dict[str, object] = {
        "node": node,
        "reporter": reporter,
        "transport": transport,
        "source": str(source),
        "source_pod": str(source_pod) if source_pod else None,
        "service": str(service),
        "version": endpoint.version,
        "pod": str(endpoint.pod),
        "destination_node": endpoint.node,
        "peer": peer or None,
        "policy": policy,
    }
    return _line(fields)[1:-2]
