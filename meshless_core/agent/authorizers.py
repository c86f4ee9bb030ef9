"""Asks the authorizers and turns every mistake of theirs into a no.

Inline authorizers are asked where the connection is. All others run on a thread with an event loop of its own: one that blocks,
hangs or loops stops no data and no other decision than its own, which are denied after the timeout.

Of the inline calls a sample is measured, of the others each one, on that thread: one that only waits for its turn behind a slow
one is not blamed for it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Final, TypeVar, cast

import attrs

from meshless_core.agent.hook_times import Countdown, HookTimes
from meshless_core.errors import PluginError, Problem
from meshless_core.hookspecs import Authorizer, InlineAuthorizer
from meshless_core.plugins import START_TIMEOUT
from meshless_core.routing import combine
from meshless_core.types import AuthorizationRequest, Decision, Verdict

__all__ = ["AuthorizerPanel", "PanelDecision"]

logger = logging.getLogger(__name__)

_T = TypeVar("_T")

_ALLOW: Final = Verdict.ALLOW
_DENY: Final = Verdict.DENY
_RAISED: Final = (Exception, SystemExit, asyncio.CancelledError)
"""What counts as "the plugin raised", which means no: also an attempt to end the process, or the agent's task."""

_MAX_BEHIND: Final = 1024
"""Questions the authorizers' thread may have waiting; while there are more, the answer is no: one that blocks it for ever must
not cost memory with every connection."""


@attrs.frozen
class PanelDecision:
    """The combined decision and what each authorizer said, in order."""

    final: Decision
    answers: tuple[Decision, ...]


class AuthorizerPanel:
    """All active authorizers, in the order of the configuration.

    Args:
        authorizers: name and object of each.
        timeout: seconds an authorizer may take.
        times: is told how long calls took, and which failed.
        problem_of: by name, makes a problem of that plugin from a message: it knows its distribution and where it was enabled.
        start_timeout: seconds an authorizer may take to start.
    """

    def __init__(
        self,
        authorizers: Sequence[tuple[str, Authorizer | InlineAuthorizer]],
        *,
        timeout: float,
        times: HookTimes | None = None,
        problem_of: Mapping[str, Callable[[str], Problem]] | None = None,
        start_timeout: float = START_TIMEOUT,
    ) -> None:
        self._authorizers = list(authorizers)
        self._problem_of = dict(problem_of or {})
        self._inline = [(name, one.authorize_inline) for name, one in authorizers if isinstance(one, InlineAuthorizer)]
        self._times = times = times or HookTimes()
        self._measured = [(name, times.measured(name, "authorize_inline", ask)) for name, ask in self._inline]
        self._countdown = Countdown()
        self._waiting = [(name, one) for name, one in authorizers if not isinstance(one, InlineAuthorizer)]
        self._timeout = timeout
        self._start_timeout = start_timeout
        self._asked = 0
        self._looked_at = 0  # written by the authorizers' thread alone
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self.inline_only = not self._waiting
        """Whether `ask_inline` alone decides."""

    async def start(self) -> None:
        """Start the authorizers that have a `start`, those that wait on their own thread.

        Raises:
            PluginError: one failed to start, or took too long; the others are stopped by `stop`.
        """
        for name, one in self._authorizers:
            if isinstance(one, InlineAuthorizer):
                await self._start_one(name, one)
        if self.inline_only:
            return
        loop = self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=_run_until_stopped, args=(loop,), name="authorizers", daemon=True)
        self._thread.start()
        for name, waiting in self._waiting:
            await self._start_one(name, waiting, loop)

    async def _start_one(
        self, name: str, one: Authorizer | InlineAuthorizer, loop: asyncio.AbstractEventLoop | None = None
    ) -> None:
        start = cast("Callable[[], Awaitable[None] | None] | None", getattr(one, "start", None))
        if start is None:
            return
        try:
            async with asyncio.timeout(self._start_timeout) as limit:
                if loop is None:
                    await _call(start)
                else:
                    # one that blocks its thread is given up on too; it cannot be ended, but the process can
                    await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(_call(start), loop))
        except Exception as error:
            late = isinstance(error, TimeoutError) and limit.expired()
            why = f"took longer than {self._start_timeout:g} s" if late else f"{type(error).__name__}: {error}"
            problem_of = self._problem_of.get(name, partial(_problem_of_unknown, name))
            raise PluginError([problem_of(f"start failed: {why}; check its options, or report it to its authors")]) from error

    async def stop(self) -> None:
        """Stop the authorizers and the thread. One that hangs is left behind with its daemon thread after the timeout."""
        loop, thread = self._loop, self._thread
        for name, one in reversed(self._authorizers):
            stop = cast("Callable[[], Awaitable[None] | None] | None", getattr(one, "stop", None))
            if stop is None:
                continue
            try:
                if loop is None or isinstance(one, InlineAuthorizer):
                    await asyncio.wait_for(_call(stop), self._timeout)
                else:
                    future = asyncio.run_coroutine_threadsafe(_call(stop), loop)
                    await asyncio.wait_for(asyncio.wrap_future(future), self._timeout)
            except Exception:
                logger.warning("authorizer %s did not stop", name, exc_info=True)
        if loop is None or thread is None:
            return
        loop.call_soon_threadsafe(_wind_up, loop)
        await asyncio.to_thread(thread.join, self._timeout)
        if thread.is_alive():
            logger.error("an authorizer blocks its thread; leaving it behind")
        self._loop = self._thread = None

    def ask_inline(self, request: AuthorizationRequest) -> Decision:
        """The combined decision of the inline authorizers; final only if `inline_only`."""
        answers: list[Decision] = []
        countdown = self._countdown
        countdown.left -= 1
        for name, authorize in self._inline if countdown.left else self._next_measured():
            try:
                answer = _checked(name, authorize(request))
                verdict = answer.verdict
            except _RAISED as error:
                return self._failed(name, "authorize_inline", request, error)
            if verdict is _DENY or (verdict is _ALLOW and len(self._inline) == 1):
                return answer
            answers.append(answer)
        return combine(answers)

    async def ask(self, request: AuthorizationRequest) -> PanelDecision:
        """Everybody's answer; the slow ones are asked at the same time."""
        answers: list[Decision] = []
        for name, authorize in self._measured:
            try:
                answers.append(_checked(name, authorize(request)))
            except _RAISED as error:
                answers.append(self._failed(name, "authorize_inline", request, error))
        answers += await asyncio.gather(*(self._ask_one(name, one, request) for name, one in self._waiting))
        return PanelDecision(combine(answers), tuple(answers))

    def _next_measured(self) -> Sequence[tuple[str, Callable[[AuthorizationRequest], Decision]]]:
        self._countdown.restart()
        return self._measured

    def _failed(self, name: str, hook: str, request: AuthorizationRequest, error: BaseException) -> Decision:
        self._times.failed(name, hook, "raised")
        with contextlib.suppress(Exception):
            logger.error("authorizer %s failed for %s -> %s; denied", name, request.source, request.target, exc_info=error)
        return Decision(Verdict.DENY, name, f"authorizer {name} failed with {type(error).__name__}; see the agent's log")

    def _look_at_one(self) -> None:
        self._looked_at += 1

    async def _ask_one(self, name: str, one: Authorizer, request: AuthorizationRequest) -> Decision:
        if self._loop is None:
            return Decision(Verdict.DENY, name, f"authorizer {name} is not running")
        if self._asked - self._looked_at >= _MAX_BEHIND:
            self._times.failed(name, "authorize", "busy")
            return Decision(
                Verdict.DENY,
                name,
                "the authorizers' thread is blocked: one of them waits without giving way; see the agent's log",
            )
        self._asked += 1
        call = _MeasuredCall(self._times.clock)
        future = asyncio.run_coroutine_threadsafe(call.run(lambda: one.authorize(request)), self._loop)
        self._loop.call_soon_threadsafe(self._look_at_one)
        try:
            answer: Decision = await asyncio.wait_for(asyncio.wrap_future(future), self._timeout)
            return _checked(name, answer)
        except TimeoutError:
            future.cancel()
            self._times.failed(name, "authorize", "timeout")
            logger.error("authorizer %s did not answer within %s s for %s; denied", name, self._timeout, request.target)
            return Decision(Verdict.DENY, name, f"authorizer {name} did not answer within {self._timeout:g} s")
        except asyncio.CancelledError:
            future.cancel()
            raise
        except Exception as error:  # noqa: BLE001 - a plugin that raises means no
            return self._failed(name, "authorize", request, error)
        finally:
            seconds = call.seconds()
            if seconds is not None:
                self._times.observe(name, "authorize", seconds)


class _MeasuredCall:
    """One call on the authorizers' thread, measured there, read in the agent's loop."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._began: float | None = None
        self._ended: float | None = None

    async def run(self, function: Callable[[], Awaitable[_T]]) -> _T:
        """Call it."""
        self._began = self._clock()
        try:
            return await _call(function)
        finally:
            self._ended = self._clock()

    def seconds(self) -> float | None:
        """How long it took, or has taken so far; None if its turn never came."""
        if self._began is None:
            return None
        return (self._clock() if self._ended is None else self._ended) - self._began


async def _call(function: Callable[[], Awaitable[_T] | _T]) -> _T:
    """Call a plugin and await what it returns; a plain function will do, as it does in plugins of other kinds.

    What would end the thread's loop, or ours, becomes an error like any other.
    """
    try:
        waiting = function()
        return await waiting if isinstance(waiting, Awaitable) else waiting
    except SystemExit as error:
        raise RuntimeError(f"it tried to exit the process with {error.code!r}") from error
    except asyncio.CancelledError as error:
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise  # we gave up on it
        raise RuntimeError("it cancelled itself") from error


def _problem_of_unknown(name: str, message: str) -> Problem:
    return Problem(f"$.plugins.{name}", f"plugin {name} of an unknown distribution: {message}")


def _run_until_stopped(loop: asyncio.AbstractEventLoop) -> None:
    try:
        loop.run_forever()
    finally:
        loop.close()


def _wind_up(loop: asyncio.AbstractEventLoop) -> None:
    """Cancel what hangs, let the cancellations be delivered, stop."""
    for task in asyncio.all_tasks(loop):
        task.cancel()
    loop.call_soon(loop.call_soon, loop.stop)


def _checked(name: str, answer: object) -> Decision:
    if not isinstance(answer, Decision) or not isinstance(answer.verdict, Verdict):
        raise TypeError(f"authorizer {name} answered {type(answer).__name__}, not a Decision")
    return answer
