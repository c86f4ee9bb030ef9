"""Counts `maxConn`: concurrent connections per pod and service, at the agent beside the pod, for all clients of all nodes."""

from __future__ import annotations

from typing import Protocol

__all__ = ["SlotCounter", "Slots"]


class SlotCounter(Protocol):
    """What counts: `Slots` in one process, `workers.SharedSlots` over several."""

    def take(self, pod_uid: str, service: str, limit: int | None) -> bool:
        """See `Slots.take`."""

    def give_back(self, pod_uid: str, service: str) -> None:
        """See `Slots.give_back`."""

    def taken(self, pod_uid: str, service: str) -> int:
        """See `Slots.taken`."""

    def __len__(self) -> int:
        """Pairs of pod and service with connections of this process."""


class Slots:
    """A counter per (pod uid, service name). Entries exist only while something is counted."""

    def __init__(self) -> None:
        self._taken: dict[tuple[str, str], int] = {}

    def take(self, pod_uid: str, service: str, limit: int | None) -> bool:
        """Count one more connection, unless `limit` is reached; the caller gives it back exactly once.

        Args:
            pod_uid: the pod's uid.
            service: the service's name within its meshlet.
            limit: `maxConn`, None for no limit. It is counted all the same, since a limit may come later.
        """
        key = (pod_uid, service)
        taken = self._taken.get(key, 0)
        if limit is not None and taken >= limit:
            return False
        self._taken[key] = taken + 1
        return True

    def give_back(self, pod_uid: str, service: str) -> None:
        """One connection less."""
        key = (pod_uid, service)
        taken = self._taken[key] - 1
        if taken:
            self._taken[key] = taken
        else:
            del self._taken[key]

    def taken(self, pod_uid: str, service: str) -> int:
        """Connections counted now."""
        return self._taken.get((pod_uid, service), 0)

    def __len__(self) -> int:
        return len(self._taken)
