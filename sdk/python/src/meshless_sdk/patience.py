"""How long, and how often, to look for an agent that does not listen yet: data in, seconds out.

A pod may start before its node's agent, or while that one is started again: no socket, or one on which nobody listens, is not
the last word. Shared by everything that dials, blocking or with asyncio. This module must not sleep, read a clock or do I/O.
"""

from __future__ import annotations

import errno

from meshless_sdk.errors import AgentUnavailable, MeshlessError

TYPE_CHECKING = False  # importing typing costs as much as all the rest
if TYPE_CHECKING:
    from typing import Final

__all__ = ["Patience", "is_absent"]

_FIRST_PAUSE: Final = 0.01
_LONGEST_PAUSE: Final = 0.25
_ABSENT: Final = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ECONNREFUSED})


def is_absent(error: MeshlessError) -> bool:
    """Whether `error` means that no agent listens yet; a full backlog, for one, is that of an agent which is there."""
    return isinstance(error, AgentUnavailable) and error.errno in _ABSENT


class Patience:
    """The looks of one dial: at once, then after pauses that double from 10 to 250 ms, the last one when the time is over."""

    __slots__ = ("_pause", "_seconds", "_until")

    def __init__(self, now: float, seconds: float | None) -> None:
        """Begin.

        Args:
            now: the time, seconds.
            seconds: how long to look; 0 for one look, None for ever.
        """
        self._seconds = seconds
        self._until = None if seconds is None else now + seconds
        self._pause = _FIRST_PAUSE

    def left(self, now: float) -> float | None:
        """Seconds that are left; never less than zero, None for no limit."""
        return None if self._until is None else max(0.0, self._until - now)

    def pause(self, now: float) -> float | None:
        """Seconds until the next look, None if the time is over."""
        left = self.left(now)
        if left == 0:
            return None
        pause = self._pause if left is None else min(self._pause, left)
        self._pause = min(self._pause * 2, _LONGEST_PAUSE)
        return pause

    def pause_after(self, error: AgentUnavailable, now: float) -> float:
        """Seconds until the next look, after one that ended with `error`.

        Raises:
            AgentUnavailable: waiting does not help, or the time is over; then it says how long was waited.
        """
        if not is_absent(error):
            raise error
        pause = self.pause(now)
        if pause is not None:
            return pause
        if not self._seconds or self._seconds < 0:
            raise error  # one look was asked for: nothing was waited
        raise AgentUnavailable(f"{error} (waited {self._seconds:g} s)", error.errno or 0) from error.__cause__
