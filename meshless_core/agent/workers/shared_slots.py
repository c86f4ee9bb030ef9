"""`maxConn` for all workers of an agent: the same three calls as `Slots`, counted in memory that the workers share.

    keys     ROWS * 16 bytes      hash of (pod uid, service), zeros while a row was never used
    counts   ROWS * WORKERS * 4   one column per worker, written by that worker only

A key lives in one of the `WINDOW` rows that begin where its hash points. A row whose counts are all zero is free. Reading the
sum, deciding and counting is one step under a record lock (`fcntl.lockf`), which the kernel releases when its holder dies;
what a dead worker had counted is in its column, and the supervisor clears that. A worker that counts already in a row may
change its own number without the lock: nobody else writes it, and the row is not free.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import logging
import mmap
import os
from collections.abc import Iterator
from typing import Final

__all__ = ["ROWS", "WINDOW", "SharedSlots"]

logger = logging.getLogger(__name__)

ROWS: Final = 16_384
"""Pairs of pod and service with connections at one time: a node has some hundred pods, so one row in a hundred is in use."""

WINDOW: Final = 64
"""Rows in which a key may be. Bounds what a look-up costs; all being in use does not happen while the table is nearly empty."""

_KEY: Final = 16
_FREE: Final = bytes(_KEY)


class SharedSlots:
    """Counters of connections per (pod uid, service name), shared by the processes that inherit or attach to it.

    Args:
        descriptor: the memory, from `create`.
        workers: how many columns there are.
        worker: which column is ours; None for the supervisor, which only clears.
        rows: as given to `create`, at least `WINDOW`.
    """

    def __init__(self, descriptor: int, *, workers: int, worker: int | None = None, rows: int = ROWS) -> None:
        self._descriptor = descriptor
        self._workers = workers
        self._worker = worker
        self._rows = rows
        self._memory = mmap.mmap(descriptor, _size(rows, workers))
        self._counts = memoryview(self._memory)[rows * _KEY :].cast("I")
        self._row_of: dict[tuple[str, str], int] = {}  # rows we count in now
        self._uncounted: dict[tuple[str, str], int] = {}

    @classmethod
    def create(cls, workers: int, *, rows: int = ROWS) -> SharedSlots:
        """Fresh memory for so many workers; each takes its column with `of_worker` after the fork."""
        descriptor = os.memfd_create("meshless-slots", os.MFD_CLOEXEC)
        os.ftruncate(descriptor, _size(rows, workers))
        return cls(descriptor, workers=workers, rows=rows)

    def of_worker(self, worker: int) -> SharedSlots:
        """The same memory, seen by one worker."""
        return SharedSlots(os.dup(self._descriptor), workers=self._workers, worker=worker, rows=self._rows)

    def take(self, pod_uid: str, service: str, limit: int | None) -> bool:
        """See `Slots.take`; `limit` is compared with the connections of all workers together."""
        key = (pod_uid, service)
        row = self._row_of.get(key)
        if row is not None and limit is None:
            self._counts[row * self._workers + self._column] += 1
            return True
        with self._locked():
            if row is None:
                row = self._find(key)
            if row is None:
                return self._take_uncounted(key, limit)
            first = row * self._workers
            if limit is not None and sum(self._counts[first : first + self._workers]) >= limit:
                return False
            self._counts[first + self._column] += 1
            self._row_of[key] = row
            return True

    def give_back(self, pod_uid: str, service: str) -> None:
        """One connection less."""
        key = (pod_uid, service)
        if key in self._uncounted:
            self._uncounted[key] -= 1
            if not self._uncounted[key]:
                del self._uncounted[key]
            return
        cell = self._row_of[key] * self._workers + self._column
        self._counts[cell] -= 1
        if not self._counts[cell]:
            del self._row_of[key]  # from now on somebody else may use the row

    def taken(self, pod_uid: str, service: str) -> int:
        """Connections counted now, of all workers."""
        key = (pod_uid, service)
        with self._locked():
            row = self._row_of.get(key)
            if row is None:
                row = self._search(_digest(key))
            first = 0 if row is None else row * self._workers
            return self._uncounted.get(key, 0) + (0 if row is None else sum(self._counts[first : first + self._workers]))

    def clear(self, worker: int) -> None:
        """Forget what a worker counted: it is dead, and its connections with it."""
        with self._locked():
            for row in range(self._rows):
                self._counts[row * self._workers + worker] = 0

    def close(self) -> None:
        """Let go of the memory; it is gone when every process has."""
        self._counts.release()
        self._memory.close()
        os.close(self._descriptor)

    def __len__(self) -> int:
        """Pairs of pod and service that this worker has connections to."""
        return len(self._row_of) + len(self._uncounted)

    @property
    def _column(self) -> int:
        assert self._worker is not None, "the supervisor counts nothing"
        return self._worker

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        fcntl.lockf(self._descriptor, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.lockf(self._descriptor, fcntl.LOCK_UN)

    def _take_uncounted(self, key: tuple[str, str], limit: int | None) -> bool:
        """Without a row nobody can say whether a limit holds: then it does not. What has no limit is counted here alone."""
        if limit is not None:
            logger.error(
                "service %s of pod %s is refused: all %d places for counting its maxConn are taken", *reversed(key), WINDOW
            )
            return False
        self._uncounted[key] = self._uncounted.get(key, 0) + 1
        return True

    def _find(self, key: tuple[str, str]) -> int | None:
        """The key's row, a free one made its own if it has none, or None if all are taken. Under the lock."""
        digest = _digest(key)
        row = self._search(digest)
        if row is not None:
            return row
        start = self._start(digest)
        for row in range(start, start + WINDOW):
            first = row * self._workers
            if not any(self._counts[first : first + self._workers]):
                self._memory[row * _KEY : (row + 1) * _KEY] = digest
                return row
        return None

    def _search(self, digest: bytes) -> int | None:
        """The row with this key, counting or not. A key is in one row at most, since it is looked for before it is written."""
        start = self._start(digest)
        window = self._memory[start * _KEY : (start + WINDOW) * _KEY]
        at = window.find(digest)
        while at >= 0 and at % _KEY:
            at = window.find(digest, at + 1)
        return None if at < 0 else start + at // _KEY

    def _start(self, digest: bytes) -> int:
        return int.from_bytes(digest[:4], "big") % (self._rows - WINDOW + 1)


def _digest(key: tuple[str, str]) -> bytes:
    digest = hashlib.blake2b("\0".join(key).encode(), digest_size=_KEY).digest()
    return digest if digest != _FREE else b"\1" * _KEY


def _size(rows: int, workers: int) -> int:
    return rows * (_KEY + 4 * workers)
