"""A clock that stands still while programs want to run and may not: what "within a second" means on a busy machine.

The kernel counts for each thread how long it waited for a processor (`/proc/<pid>/task/<tid>/schedstat`, second number, in
nanoseconds), and for the machine what its host took away (`steal` in `/proc/stat`). Both are taken off. What is left is what a
machine with nothing else to do would have needed, and waiting of the programs' own making: a timer, a sleep, an event that was
missed.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterable
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")
_STEAL = 8  # the field of the line `cpu` in /proc/stat, behind its name


class RunTime:
    """Seconds since it was made in which each of some processes could run; call it.

    What is taken off is the longest wait of any of them, not the sum: the clock shall be slow only for a machine that is busy.

    Args:
        pids: the processes. One of them that ends has waited for nothing.
    """

    def __init__(self, pids: Iterable[int]) -> None:
        self._before = {pid: _waited(pid) for pid in pids}
        self._stolen = _stolen()
        self._began = time.monotonic()

    def __call__(self) -> float:
        waited = max((_waited(pid) - before for pid, before in self._before.items()), default=0.0)
        return time.monotonic() - self._began - max(waited, 0.0) - (_stolen() - self._stolen)


def _waited(pid: int) -> float:
    waited = 0.0
    for thread in Path(f"/proc/{pid}/task").glob("*"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it ended meanwhile
            waited += int((thread / "schedstat").read_text().split()[1]) / 1e9
    return waited


def _stolen() -> float:
    with open("/proc/stat", encoding="ascii") as file:
        return int(file.readline().split()[_STEAL]) / _TICKS
