"""How long calls into plugins take, and which of them fail: which plugin makes connections slow.

A call that may wait (an authorizer that asks somebody, a tunnel's handshake, the bus) costs far more than a look at the clock:
each one is measured. What runs inside every connection is measured one time in `SAMPLE_EVERY` on average: the others pay for
one decrement. The distance to the next measured call is random, so no pattern in the calls can hide from it (ADR-0111).

All methods belong to the agent's loop. This module knows no plugin and no connection.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final, Literal, ParamSpec, TypeVar

import attrs

from meshless_core.agent.histogram import Histogram

__all__ = ["HOOKS", "SAMPLE_EVERY", "Countdown", "Failure", "HookInfo", "HookTimes"]

SAMPLE_EVERY: Final = 32


@attrs.frozen
class HookInfo:
    """What one value of the label `hook` means.

    Attributes:
        hook: the value: name of the method.
        kind: the kind of plugin.
        sampled: whether only a sample of the calls is measured.
        meaning: what the time is.
    """

    hook: str
    kind: str
    sampled: bool
    meaning: str


HOOKS: Final = (
    HookInfo(
        "authorize_inline",
        "authorizer",
        True,
        "One decision. All are measured while another authorizer is one that waits: the connection waits for it anyway.",
    ),
    HookInfo(
        "authorize", "authorizer", False, "One decision, from its turn on the authorizers' thread to its answer or the timeout."
    ),
    HookInfo("choose", "canary", True, "One choice of a version; not called where there is only one."),
    HookInfo("receive_data", "handshake", True, "What it makes of one piece of what a client sent."),
    HookInfo("connect", "transport", False, "A new secure session to another agent; a warm one costs no call."),
    HookInfo("accept", "transport", False, "A session of another agent, from its first byte; takes as long as that one takes."),
    HookInfo("subscribe", "bus", False, "From a subscription to its first update: until there are documents."),
)
"""Every value of the label `hook` that an agent exports."""

_BUCKETS: Final = (
    0.000001,
    0.000005,
    0.00001,
    0.000025,
    0.00005,
    0.0001,
    0.00025,
    0.0005,
    0.001,
    0.005,
    0.01,
    0.05,
    0.1,
    0.5,
    1.0,
    5.0,
    10.0,
)

_P = ParamSpec("_P")
_R = TypeVar("_R")

Failure = Literal["raised", "timeout", "busy"]
"""`raised`: it raised, or answered what is no answer. `timeout`: no answer in time. `busy`: not asked, too many wait."""


@attrs.define
class Countdown:
    """How many calls are left until one is measured; the first is.

    Whoever calls decrements `left` itself, since a method call would cost more than what it saves:
    ``countdown.left -= 1`` and, once that is 0, `restart` and a measured call.
    """

    left: int = 1
    _draw: Callable[[int, int], int] = random.randint

    def restart(self) -> None:
        """Draw the distance to the next one: `SAMPLE_EVERY` on average."""
        self.left = self._draw(1, 2 * SAMPLE_EVERY - 1)


class HookTimes:
    """Times and failures per plugin and hook.

    Args:
        clock: seconds, for differences only.

    Attributes:
        times: (plugin, hook) -> what was measured, in seconds.
        failures: (plugin, hook, reason) -> number of calls.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self.clock = clock
        self.times: dict[tuple[str, str], Histogram] = {}
        self.failures: dict[tuple[str, str, str], int] = {}

    def observe(self, plugin: str, hook: str, seconds: float) -> None:
        """A call took so long, whether it failed or not."""
        found = self.times.get((plugin, hook))
        if found is None:
            found = self.times[plugin, hook] = Histogram.make(_BUCKETS)
        found.observe(seconds)

    def failed(self, plugin: str, hook: str, reason: Failure) -> None:
        """A call did not do what it is there for."""
        key = (plugin, hook, reason)
        self.failures[key] = self.failures.get(key, 0) + 1

    @contextmanager
    def measuring(self, plugin: str, hook: str, *, expected: type[Exception]) -> Iterator[None]:
        """Measure a block, also one that awaits, fails or is cancelled; what it raises but `expected` is a failure."""
        began = self.clock()
        try:
            yield
        except expected:
            raise
        except Exception:
            self.failed(plugin, hook, "raised")
            raise
        finally:
            self.observe(plugin, hook, self.clock() - began)

    def measured(self, plugin: str, hook: str, function: Callable[_P, _R]) -> Callable[_P, _R]:
        """`function`, every call measured."""

        def calling(*args: _P.args, **kwargs: _P.kwargs) -> _R:
            began = self.clock()
            try:
                return function(*args, **kwargs)
            finally:
                self.observe(plugin, hook, self.clock() - began)

        return calling
