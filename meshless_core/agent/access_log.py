"""One JSON line per closed or refused connection, with the field names of the metrics' labels (see `access_log_fields`).

Lines are formatted and written in batches, a fraction of a second later, so that a burst of short connections does not pay for
its log one by one. At most `_BATCH` of them wait; what cannot be written is counted and logged.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Callable
from functools import lru_cache
from typing import Final

from meshless_core.agent.connections import Connection
from meshless_core.agent.flags import closed_flags, refused_labels
from meshless_core.relay import RelayResult
from meshless_core.types import MeshletRef, PodRef, ReplyCode, ServiceId

__all__ = ["AccessLog"]

logger = logging.getLogger(__name__)

_FLUSH_SECONDS: Final = 0.25
_MAX_TEXT: Final = 256
_EMPTY: Final = '""'
_BATCH: Final = 256

_Ended = tuple[Connection, RelayResult, float, float]
"""What becomes a line when it is written: a connection, how it ended, when in Unix seconds, and how many seconds it lasted."""


class AccessLog:
    """Collects entries and hands complete lines to `write`.

    Args:
        write: takes text that ends in a newline; may raise OSError, which is logged once and counted.
        node: this node's name, part of every line.
    """

    def __init__(self, write: Callable[[str], object] | None, *, node: str) -> None:
        self._write = write
        self._node = node
        self._entries: list[_Ended | str] = []
        self._timer: asyncio.TimerHandle | None = None
        self.lost = 0
        """Lines that could not be written."""

    def closed(self, connection: Connection, result: RelayResult) -> None:
        """A connection that was established has ended."""
        if self._write is not None:
            self._add((connection, result, time.time(), time.monotonic() - connection.opened))

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
        version: str | None = None,
    ) -> None:
        """A request was answered with another code than OK, or its client left before; `version` if one was chosen."""
        if self._write is not None:
            self._add(
                self._refused(time.time(), connection_id, reporter, source, source_pod, service, code, policy, reason, version)
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

    def _add(self, entry: _Ended | str) -> None:
        self._entries.append(entry)
        if len(self._entries) >= _BATCH:
            self.flush()
        elif self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(_FLUSH_SECONDS, self.flush)

    def _refused(
        self,
        at: float,
        connection_id: bytes,
        reporter: str,
        source: MeshletRef | None,
        source_pod: PodRef | None,
        service: ServiceId | None,
        code: ReplyCode,
        policy: str,
        detail: str,
        version: str | None,
    ) -> str:
        reason, flags = refused_labels(code, policy)
        return (
            f'{{"time":{at:.6f},"event":"refused","node":{_quoted(self._node)},"connection":"{connection_id.hex()}"'
            f',"reporter":"{reporter}",{_who(source, source_pod, service, version)}'
            f',"policy":{_quoted(policy)},"code":"{code.name}","reason":"{reason}","flags":"{flags}"'
            f',"detail":{json.dumps(detail[:_MAX_TEXT])}}}\n'
        )

    def _closed(self, connection: Connection, result: RelayResult, ended: float, seconds: float) -> str:
        """The line of a connection that ended; by hand, at a quarter of what `json.dumps` costs each connection."""
        endpoint = connection.endpoint
        flags = closed_flags(result.outcome, result.ended_by, connection.cut_for)
        return (
            f'{{"time":{ended:.6f},"event":"closed","node":{_quoted(self._node)},"connection":"{connection.id.hex()}"'
            f',"reporter":"{connection.reporter}","transport":"{connection.transport}"'
            f",{_who(connection.source, connection.source_pod, connection.service, endpoint.version)}"
            f',"destination_pod":{_quoted(endpoint.pod)}'
            f',"destination_node":{_quoted(endpoint.node)},"peer":{_quoted(connection.peer or None)}'
            f',"policy":{_quoted(connection.policy)},"reason":"{result.outcome}","flags":"{flags}","ended_by":"{result.ended_by}"'
            f',"detail":{json.dumps(result.reason[:_MAX_TEXT]) if result.reason else _EMPTY}'
            f',"connect_seconds":{connection.connect_seconds:.6f},"duration_seconds":{seconds:.6f}'
            f',"bytes_to_service":{result.bytes_to_service},"bytes_to_client":{result.bytes_to_client}}}\n'
        )


@lru_cache(maxsize=4096)
def _quoted(value: object) -> str:
    """`value` as a JSON string, or null. Names repeat, so the last few thousand are remembered."""
    return "null" if value is None else json.dumps(str(value)[:_MAX_TEXT])


@lru_cache(maxsize=4096)
def _who(source: MeshletRef | None, source_pod: PodRef | None, service: ServiceId | None, version: str | None) -> str:
    """The fields that say who talks to whom; the same for all connections of one kind, so remembered like names."""
    fields = {
        "source_namespace": source and source.namespace,
        "source_meshlet": source and source.name,
        "source_pod": source_pod,
        "destination_namespace": service and service.namespace,
        "destination_meshlet": service and service.meshlet,
        "destination_service": service and service.service,
        "destination_version": version,
        "service": service,
    }
    return ",".join(f'"{name}":{_quoted(value)}' for name, value in fields.items())
