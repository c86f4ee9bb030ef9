"""An event loop whose clock moves only while nothing else can: what never comes is missed at once, on a busy machine too.

For tests without I/O of their own. A timer runs when the loop has nothing left to do, and then without waiting.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any, TypeVar

__all__ = ["run"]

_T = TypeVar("_T")


class _Selector(selectors.DefaultSelector):
    """Waits for nothing, and counts the seconds it would have waited."""

    now = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        assert timeout is not None, "nothing is left to do, and nothing is waited for with a limit"
        self.now += max(0.0, timeout)
        return super().select(0)


class _Loop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self._clock = _Selector()
        super().__init__(self._clock)

    def time(self) -> float:
        return self._clock.now


def run(work: Coroutine[Any, Any, _T]) -> _T:
    """Run a test's work in such a loop; what it leaves behind is cancelled."""
    with asyncio.Runner(loop_factory=_Loop) as runner:
        return runner.run(work)
