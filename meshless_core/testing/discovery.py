"""What every discovery plugin promises, as one function: `await check_discovery(make_discovery, change)`.

The check cannot change a source that it does not know, so it is told how. It waits for what has to come, never for time to
pass.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import Final

from meshless_core.errors import Problem
from meshless_core.hookspecs import Discovery, DiscoverySnapshot
from meshless_core.testing.life import PATIENCE, NothingCameError, answered, check_life, living, told

__all__ = ["check_discovery"]

_KINDS: Final = ("Meshlet", "Pod")
_REPEATED: Final = 10  # times the same snapshot may come before a reader has to wait for another

Step = Callable[[], Awaitable[None]]


async def check_discovery(make_discovery: Callable[[], Discovery], change: Step, spoil: Step | None = None) -> None:
    """Check a discovery plugin against the contract in `meshless_core.hookspecs.Discovery`.

    Args:
        make_discovery: gives a fresh object that was not started, as `create` does, for a source that can be read and has an
            object at least; called several times.
        change: makes the source say something else than it does, and readable again if it was spoiled; awaited several times.
        spoil: makes the source unreadable; None for one that cannot be.

    Raises:
        AssertionError: a promise is broken; the message says which.
    """
    await check_life(make_discovery)
    async with _watched(make_discovery) as snapshots:
        first = await _first(snapshots)
        latest = await _a_change_is_told(snapshots, first, change)
        if spoil is not None:
            await _what_cannot_be_read_is_kept_out(snapshots, latest, spoil, change)
    discovery = make_discovery()
    async with living(discovery):
        for end in (_close, _cancel):
            snapshots = _watch(discovery)
            await _first(snapshots)
            await end(snapshots)
        again = _watch(discovery)  # whatever became of those before
        await _first(again)
        await _close(again)


async def _a_change_is_told(
    snapshots: AsyncIterator[DiscoverySnapshot], first: DiscoverySnapshot, change: Step
) -> DiscoverySnapshot:
    await change()  # while nobody waits
    second = await _next_other(snapshots, first, "another snapshot comes after a change")
    waiting = asyncio.ensure_future(_next_other(snapshots, second, "another snapshot comes to one who waits for a change"))
    await asyncio.sleep(0)  # it waits before there is anything
    try:
        await change()
        return await waiting
    finally:
        waiting.cancel()


async def _what_cannot_be_read_is_kept_out(
    snapshots: AsyncIterator[DiscoverySnapshot], good: DiscoverySnapshot, spoil: Step, change: Step
) -> None:
    await spoil()
    kept = good
    while not kept.problems:
        good, kept = kept, await _next(snapshots, "a snapshot with problems comes after the source became unreadable")
    assert (kept.objects, kept.origin) == (good.objects, good.origin), (
        "a source that cannot be read leaves the last good state as it was; the snapshot with problems has other objects"
    )
    await change()
    while kept.problems:
        kept = await _next(snapshots, "a snapshot without problems comes after the source is readable again")


@contextlib.asynccontextmanager
async def _watched(make_discovery: Callable[[], Discovery]) -> AsyncIterator[AsyncIterator[DiscoverySnapshot]]:
    discovery = make_discovery()
    async with living(discovery):
        snapshots = _watch(discovery)
        try:
            yield snapshots
        except BaseException:
            with contextlib.suppress(AssertionError):  # the first broken promise is the one to tell
                await _close(snapshots)
            raise
        await _close(snapshots)


def _watch(discovery: Discovery) -> AsyncIterator[DiscoverySnapshot]:
    snapshots: object = discovery.watch()
    if asyncio.iscoroutine(snapshots):
        snapshots.close()
    assert isinstance(snapshots, AsyncIterator), (
        f"watch gives an async iterator at once: yield in it, or make it a plain function; it gave {snapshots!r}"
    )
    return snapshots


async def _first(snapshots: AsyncIterator[DiscoverySnapshot]) -> DiscoverySnapshot:
    first = await _next(snapshots, "the first snapshot comes at once, before anything changes")
    assert not first.problems, (
        f"the first snapshot has no good state before it to fall back on: raise DiscoveryError instead of {first.problems}"
    )
    assert first.objects, "a snapshot is complete, and the source has an object, but the first snapshot has none"
    return first


async def _next_other(
    snapshots: AsyncIterator[DiscoverySnapshot], before: DiscoverySnapshot, promise: str
) -> DiscoverySnapshot:
    """The next snapshot that says something else; the same may be told twice."""
    snapshot = before
    while (snapshot.objects, snapshot.problems) == (before.objects, before.problems):
        snapshot = await _next(snapshots, promise)
    return snapshot


async def _next(snapshots: AsyncIterator[DiscoverySnapshot], promise: str) -> DiscoverySnapshot:
    try:
        snapshot: object = await answered(anext(snapshots), promise)
    except NothingCameError:
        raise
    except StopAsyncIteration:
        raise AssertionError(f"a watch does not end by itself; {promise}, but it ended") from None
    except (Exception, SystemExit) as error:
        raise AssertionError(f"{promise}, but the watch raised {told(error)}") from error
    return _checked(snapshot)


async def _close(snapshots: AsyncIterator[DiscoverySnapshot]) -> None:
    """Close a watch nobody waits for; an iterator need not have `aclose`."""
    close: Callable[[], Awaitable[None]] | None = getattr(snapshots, "aclose", None)
    if close is None:
        return
    try:
        await answered(close(), "a watch can be closed")
    except NothingCameError:
        raise
    except (Exception, SystemExit) as error:
        raise AssertionError(f"a watch can be closed, but aclose() raised {told(error)}") from error


async def _cancel(snapshots: AsyncIterator[DiscoverySnapshot]) -> None:
    """Cancel a reader that waits, then close."""
    for _ in range(_REPEATED):
        waiting = asyncio.ensure_future(anext(snapshots))
        await asyncio.sleep(0)
        if not waiting.done() or waiting.exception() is not None:
            break
    waiting.cancel()
    done, _ = await asyncio.wait({waiting}, timeout=PATIENCE)
    assert done, "a reader that waits for a snapshot can be cancelled, and this one went on"
    error = None if waiting.cancelled() else waiting.exception()
    assert error is None, f"a reader that waits for a snapshot can be cancelled, but the watch raised {told(error)}"
    await _close(snapshots)


def _checked(snapshot: object) -> DiscoverySnapshot:
    """The snapshot, whose form is right."""
    assert isinstance(snapshot, DiscoverySnapshot), f"watch yields DiscoverySnapshot, not {snapshot!r}"
    for field, values in (("objects", snapshot.objects), ("origin", snapshot.origin), ("problems", snapshot.problems)):
        sequence = isinstance(values, Sequence) and not isinstance(values, str | bytes)
        assert sequence, f"a snapshot's {field} is a sequence, not {type(values).__name__}"
    assert len(snapshot.objects) == len(snapshot.origin), (
        f"a snapshot has an origin for each object; it has {len(snapshot.objects)} objects and {len(snapshot.origin)} origins"
    )
    for raw, origin in zip(snapshot.objects, snapshot.origin, strict=True):
        assert isinstance(origin, str), f"an origin is text, such as file:line, not {origin!r}"
        _check_object(raw, origin)
    for problem in snapshot.problems:
        assert isinstance(problem, Problem), f"a snapshot's problems are Problem, not {problem!r}"
    return snapshot


def _check_object(raw: object, origin: str) -> None:
    assert isinstance(raw, Mapping), f"an object is a mapping, not {raw!r}, which is from {origin}"
    kind = raw.get("kind")
    assert kind in _KINDS, f"objects are of kind Meshlet and Pod only, not {kind!r}, which is from {origin}"
    assert isinstance(raw.get("apiVersion"), str), f"an object has an apiVersion, which that from {origin} has not"
    assert isinstance(raw.get("metadata"), Mapping), f"an object has metadata, which that from {origin} has not"
    wrong = _not_json(raw, "$")
    assert wrong is None, f"an object is made of plain JSON values, and that from {origin} is not: {wrong}"


def _not_json(value: object, path: str) -> str | None:
    """Where a value is no JSON, None if it is."""
    match value:
        case None | bool() | int() | str():
            return None
        case float():
            return None if math.isfinite(value) else f"{path} is {value}"
        case Mapping():
            for key, inner in value.items():
                if not isinstance(key, str):
                    return f"{path} has the key {key!r}"
                if wrong := _not_json(inner, f"{path}.{key}"):
                    return wrong
            return None
        case list() | tuple():
            return next((wrong for at, inner in enumerate(value) if (wrong := _not_json(inner, f"{path}[{at}]"))), None)
    return f"{path} is of type {type(value).__name__}"
