"""When to dial again after an error, and when to give up: data in, seconds out.

Shared by the blocking and the asyncio dialler. This module must not sleep, read a clock or do I/O.
"""

from __future__ import annotations

from collections.abc import Callable

from meshless_sdk.errors import ConnectError, Draining, InvalidArgument, MeshlessError
from meshless_sdk.patience import Patience, is_absent

__all__ = ["Retry", "Schedule"]


class Retry:
    """How often and after which pauses to dial again: full jitter, for retryable errors only.

    The pause before try n is random between 0 and `base * 2 ** (n - 1)`, at most `cap` (Brooker, "Exponential Backoff And
    Jitter", 2015: the least work for clients that compete). What the agent advises (`retry_after`) is the least pause then.
    """

    __slots__ = ("attempts", "base", "cap")

    def __init__(self, attempts: int = 4, *, base: float = 0.05, cap: float = 2.0) -> None:
        """Set up.

        Args:
            attempts: how often to dial at most; 1 means never again.
            base: seconds the first pause may last.
            cap: seconds any pause may last, unless the agent asks for more.

        Raises:
            InvalidArgument: fewer than one attempt, or a negative time.
        """
        if attempts < 1 or base < 0 or cap < 0:
            raise InvalidArgument(f"attempts has to be 1 or more, base and cap 0 or more: not {attempts}, {base}, {cap}")
        self.attempts = attempts
        self.base = base
        self.cap = cap

    def __repr__(self) -> str:
        return f"Retry({self.attempts}, base={self.base}, cap={self.cap})"


class Schedule:
    """The pauses of one dial.

    Attributes:
        deadline: when to give up, in the caller's clock, seconds; None for never.
    """

    __slots__ = ("_patience", "_random", "_retry", "_tried", "deadline")

    def __init__(
        self,
        now: float,
        *,
        retry: Retry,
        deadline: float | None,
        wait_for_agent: float,
        random: Callable[[], float],
    ) -> None:
        """Begin.

        Args:
            now: the time, seconds.
            retry: how often.
            deadline: seconds the whole dial may take, None for no limit.
            wait_for_agent: seconds to wait for the agent's socket to appear.
            random: uniform in [0, 1).
        """
        self._retry = retry
        self._random = random
        self._tried = 0
        self._patience = Patience(now, wait_for_agent)
        self.deadline = None if deadline is None else now + deadline

    def pause_after(self, error: MeshlessError, now: float) -> float | None:
        """Seconds to wait before dialling again, None to give up and raise `error`."""
        if is_absent(error):
            pause = self._patience.pause(now)
        elif not error.retryable:
            return None
        else:
            self._tried += 1
            if self._tried >= self._retry.attempts:
                return None
            pause = self._backoff(error)
        if pause is None or (self.deadline is not None and now + pause >= self.deadline):
            return None
        return pause

    def left(self, now: float, limit: float | None) -> float | None:
        """Seconds a step may take that has a limit of its own; never less than zero."""
        if self.deadline is None:
            return limit
        remaining = max(0.0, self.deadline - now)
        return remaining if limit is None else min(limit, remaining)

    def _backoff(self, error: MeshlessError) -> float:
        if isinstance(error, Draining) and self._tried == 1 and not error.retry_after:
            return 0.0  # another agent takes over the socket: its backlog is where to wait
        pause = self._random() * min(self._retry.cap, self._retry.base * 2.0 ** (self._tried - 1))
        advised = error.retry_after if isinstance(error, ConnectError) else None
        return pause if advised is None else advised + pause
