"""The life of a plugin's object in a check: made, started, used, stopped, as `meshless_core.hookspecs` describes it.

The checks of each kind use an object through `living`, so that it is started before it is asked; `check_life` holds it to what
the contract says of `stop`. This module must not know what a kind does in between.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Final, TypeVar

__all__ = ["PATIENCE", "NothingCameError", "answered", "check_life", "living", "told"]

PATIENCE: Final = 30.0
"""Seconds until a check gives up on something that has to come; what works needs milliseconds."""

_T = TypeVar("_T")


class NothingCameError(AssertionError):
    """A check gave up waiting."""


async def check_life(make: Callable[[], object]) -> None:
    """Check that an object can be stopped whatever became of its `start`.

    Args:
        make: gives a fresh object that was not started.

    Raises:
        AssertionError: `start` or `stop` fails, or never ends.
    """
    await _call(make(), "stop", "stop has to cope with a start that failed at once")
    await _stop_after_a_start_cut_short(make())
    async with living(make()):
        pass


@contextlib.asynccontextmanager
async def living(instance: object) -> AsyncIterator[None]:
    """Start an object, if it has a `start`, and stop it in the end, if it has a `stop`."""
    try:
        await _call(instance, "start", "start has to work")
        yield
    except BaseException:
        with contextlib.suppress(AssertionError):  # the first broken promise is the one to tell
            await _call(instance, "stop", "stop has to cope")
        raise
    await _call(instance, "stop", "stop has to work")


async def answered(waiting: Awaitable[_T], promise: str) -> _T:
    """What an awaitable gives; one that gives nothing breaks the promise.

    Raises:
        NothingCameError: that was it.
    """
    try:
        async with asyncio.timeout(PATIENCE) as limit:
            return await waiting
    except TimeoutError:
        if limit.expired():
            raise NothingCameError(f"{promise}: nothing came in {PATIENCE:g} s") from None
        raise


def told(error: BaseException) -> str:
    """An error as a message names it."""
    return f"{type(error).__name__}: {error}"


async def _stop_after_a_start_cut_short(instance: object) -> None:
    start: Callable[[], Awaitable[None] | None] | None = getattr(instance, "start", None)
    if start is None or not inspect.iscoroutinefunction(start):
        return
    starting = asyncio.ensure_future(start())
    await asyncio.sleep(0)  # it is under way
    starting.cancel()
    done, _ = await asyncio.wait({starting}, timeout=PATIENCE)
    assert done, "a start that is cancelled has to end"
    await _call(instance, "stop", "stop has to cope with a start that was cut short")


async def _call(instance: object, name: str, promise: str) -> None:
    """Call an optional method as the core does; a plain function that returns nothing will do."""
    method: Callable[[], Awaitable[None] | None] | None = getattr(instance, name, None)
    if method is None:
        return
    try:
        waiting = method()
        if waiting is not None:
            await answered(waiting, f"{promise}: {name}() ends")
    except NothingCameError:
        raise
    except (Exception, SystemExit) as error:
        raise AssertionError(f"{promise}, but {name}() raised {told(error)}") from error
