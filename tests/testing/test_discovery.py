"""The check of discovery plugins: what keeps the contract passes, and each way to break it is told."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from meshless_core import DiscoveryError, DiscoverySnapshot, Problem
from meshless_core.testing.discovery import check_discovery
from tests.testing.idle_clock import run

POD: dict[str, Any] = {"apiVersion": "v1", "kind": "Pod", "metadata": {"namespace": "shop", "name": "a", "labels": {}}}


class Source:
    """What there is to discover."""

    def __init__(self) -> None:
        self.pods: int | None = 1  # None: it cannot be read
        self.count = 1
        self.changed = asyncio.Event()

    async def change(self) -> None:
        self.count += 1
        self.pods = self.count
        self.tell()

    async def spoil(self) -> None:
        self.pods = None
        self.tell()

    def tell(self) -> None:
        self.changed.set()
        self.changed = asyncio.Event()

    @property
    def objects(self) -> list[Any]:
        return [{**POD, "spec": {"containers": [{"port": number}]}} for number in range(self.pods or 0)]


class Sound:
    """Keeps the contract."""

    def __init__(self, source: Source) -> None:
        self.source = source

    def snapshot(self, objects: list[Any]) -> Any:
        return DiscoverySnapshot(objects, [f"source:{number}" for number, _ in enumerate(objects)])

    def spoiled(self, good: Any) -> Any:
        return DiscoverySnapshot(good.objects, good.origin, [Problem("", "cannot be read")])

    async def wait(self, known: int | None) -> None:
        while self.source.pods == known:
            await self.source.changed.wait()

    async def watch(self) -> AsyncIterator[DiscoverySnapshot]:
        good = None
        while True:
            known = self.source.pods
            if known is None and good is None:
                raise DiscoveryError([Problem("", "cannot be read")])
            if known is None:
                yield self.spoiled(good)
            else:
                good = self.snapshot(self.source.objects)
                yield good
            await self.wait(known)


class Twice:
    """Keeps the contract: an iterator that is no generator, has no `aclose`, and tells everything twice."""

    def __init__(self, source: Source) -> None:
        self.snapshots, self.again = Sound(source).watch(), False

    def __aiter__(self) -> Twice:
        return self

    async def __anext__(self) -> DiscoverySnapshot:
        if not self.again:
            self.latest = await anext(self.snapshots)
        self.again = not self.again
        return self.latest


class Plain(Sound):
    """Keeps the contract without a generator."""

    def watch(self) -> Any:
        return Twice(self.source)


class WaitsForAChange(Sound):
    async def watch(self) -> AsyncIterator[DiscoverySnapshot]:
        await self.source.changed.wait()
        async for snapshot in super().watch():
            yield snapshot


class LosesWhatNobodyWaitedFor(Sound):
    async def wait(self, known: int | None) -> None:
        await self.source.changed.wait()


class MissesWhatComesWhileItWaits(Sound):
    async def wait(self, known: int | None) -> None:
        if self.source.pods == known:
            await asyncio.Event().wait()


class LooksOnce(Sound):
    async def wait(self, known: int | None) -> None:
        if known == 2:
            await asyncio.Event().wait()
        await super().wait(known)


class Ends(Sound):
    async def watch(self) -> AsyncIterator[DiscoverySnapshot]:
        yield await anext(super().watch())


class Fails(Sound):
    async def watch(self) -> AsyncIterator[DiscoverySnapshot]:
        yield await anext(super().watch())
        raise OSError("connection reset")


class IsAsync(Sound):
    async def watch(self) -> Any:  # type: ignore[override]  # this is what is wrong
        return super().watch()


class GivesAList(Sound):
    def watch(self) -> Any:
        return [self.snapshot([POD])]


class WatchesOnce(Sound):
    watched = 0

    async def watch(self) -> AsyncIterator[DiscoverySnapshot]:
        self.watched += 1
        if self.watched > 1:
            await asyncio.Event().wait()
        async for snapshot in super().watch():
            yield snapshot


class WatchesTwice(WatchesOnce):
    watched = -1


class StopsOnlyWhatStarted(Sound):
    async def start(self) -> None:
        self.file = "open"

    async def stop(self) -> None:
        del self.file


class CannotCloseWhatWasCancelled(Sound):
    def watch(self) -> Any:
        return ClosesOnce(self.source)


class ClosesOnce(Twice):
    """As `Twice`, but not to be closed once it was cancelled."""

    cancelled = False

    async def __anext__(self) -> DiscoverySnapshot:
        try:
            return await super().__anext__()
        except asyncio.CancelledError:
            self.cancelled = True
            raise

    async def aclose(self) -> None:
        if self.cancelled:
            raise OSError("bad descriptor")


class FailsToClose(Sound):
    async def watch(self) -> AsyncIterator[DiscoverySnapshot]:
        try:
            async for snapshot in super().watch():
                yield snapshot
        except GeneratorExit:
            raise OSError("bad descriptor") from None


class FailsWhenCancelled(Sound):
    async def wait(self, known: int | None) -> None:
        try:
            await super().wait(known)
        except asyncio.CancelledError:
            raise OSError("bad descriptor") from None


class GoesOnWhenCancelled(Sound):
    async def wait(self, known: int | None) -> None:
        try:
            await super().wait(known)
        except asyncio.CancelledError:
            await asyncio.Event().wait()


class StopsWhenSpoiled(Sound):
    def spoiled(self, good: Any) -> Any:
        raise OSError("cannot be read")


class HidesWhatIsWrong(Sound):
    def spoiled(self, good: Any) -> Any:
        return good


class DropsEverythingWhenSpoiled(Sound):
    def spoiled(self, good: Any) -> Any:
        return DiscoverySnapshot([], [], [Problem("", "cannot be read")])


class NeverForgivesASpoiledSource(Sound):
    wrong: tuple[Problem, ...] = ()

    def spoiled(self, good: Any) -> Any:
        self.wrong = (Problem("", "cannot be read"),)
        return DiscoverySnapshot(good.objects, good.origin, self.wrong)

    def snapshot(self, objects: list[Any]) -> Any:
        made = super().snapshot(objects)
        return DiscoverySnapshot(made.objects, made.origin, self.wrong)


def yielding(snapshot: object) -> type[Sound]:
    """A discovery that yields this."""

    class Yielding(Sound):
        def snapshot(self, objects: list[Any]) -> Any:
            return snapshot

    return Yielding


def of(*objects: object) -> type[Sound]:
    """A discovery that finds these."""
    found: Any = objects
    return yielding(DiscoverySnapshot(found, ["here"] * len(objects)))


def pod(value: object) -> dict[str, Any]:
    return {**POD, "spec": value}


@pytest.mark.parametrize("make", [Sound, Plain])
@pytest.mark.parametrize("spoils", [True, False])
async def test_a_discovery_that_keeps_the_contract_passes(make: Any, spoils: bool) -> None:
    source = Source()
    await check_discovery(lambda: make(source), source.change, source.spoil if spoils else None)


@pytest.mark.parametrize(
    ("make", "promise"),
    [
        (WaitsForAChange, "the first snapshot comes at once, before anything changes: nothing came"),
        (LosesWhatNobodyWaitedFor, "another snapshot comes after a change: nothing came"),
        (LooksOnce, "another snapshot comes to one who waits for a change: nothing came"),
        (MissesWhatComesWhileItWaits, "another snapshot comes to one who waits for a change: nothing came"),
        (WatchesTwice, "the first snapshot comes at once, before anything changes: nothing came"),
        (StopsOnlyWhatStarted, "stop has to cope with a start that failed at once"),
        (CannotCloseWhatWasCancelled, r"a watch can be closed, but aclose\(\) raised OSError"),
        (Ends, "a watch does not end by itself; another snapshot comes after a change, but it ended"),
        (Fails, "another snapshot comes after a change, but the watch raised OSError: connection reset"),
        (IsAsync, "watch gives an async iterator at once"),
        (GivesAList, "watch gives an async iterator at once"),
        (WatchesOnce, "the first snapshot comes at once, before anything changes: nothing came"),
        (FailsToClose, r"a watch can be closed, but aclose\(\) raised OSError: bad descriptor"),
        (FailsWhenCancelled, "can be cancelled, but the watch raised OSError: bad descriptor"),
        (GoesOnWhenCancelled, "can be cancelled, and this one went on"),
        (StopsWhenSpoiled, "a snapshot with problems comes after the source became unreadable, but the watch raised OSError"),
        (HidesWhatIsWrong, "a snapshot with problems comes after the source became unreadable: nothing came"),
        (DropsEverythingWhenSpoiled, "leaves the last good state as it was"),
        (NeverForgivesASpoiledSource, "a snapshot without problems comes after the source is readable again: nothing came"),
        (yielding([POD]), "watch yields DiscoverySnapshot, not"),
        (of(), "the source has an object, but the first snapshot has none"),
        (yielding(DiscoverySnapshot([POD], [])), "it has 1 objects and 0 origins"),
        (yielding(DiscoverySnapshot({}, [])), "objects is a sequence, not dict"),  # type: ignore[arg-type]  # what is wrong
        (yielding(DiscoverySnapshot([POD], "x")), "origin is a sequence, not str"),
        (yielding(DiscoverySnapshot([POD], [1])), "an origin is text"),  # type: ignore[list-item]  # what is wrong
        (yielding(DiscoverySnapshot([POD], ["x"], ["y"])), "problems are Problem, not 'y'"),  # type: ignore[list-item]  # so
        (yielding(DiscoverySnapshot([POD], ["x"], [Problem("", "y")])), "the first snapshot has no good state before it"),
        (of("kind: Pod"), "an object is a mapping"),
        (of({**POD, "kind": "Deployment"}), "of kind Meshlet and Pod only, not 'Deployment', which is from here"),
        (of({"kind": "Pod", "metadata": {}}), "has an apiVersion"),
        (of({"kind": "Pod", "apiVersion": "v1"}), "has metadata"),
        (of(pod({1: 2})), r"\$\.spec has the key 1"),
        (of(pod([{"a": {1}}])), r"\$\.spec\[0\]\.a is of type set"),
        (of(pod(float("nan"))), r"\$\.spec is nan"),
        (of(pod(b"x")), r"\$\.spec is of type bytes"),
    ],
)
def test_a_broken_promise_is_told(make: Any, promise: str) -> None:
    source = Source()
    with pytest.raises(AssertionError, match=promise):
        run(check_discovery(lambda: make(source), source.change, source.spoil))


async def test_a_change_that_fails_leaves_nobody_waiting() -> None:
    source, changes = Source(), []

    async def change() -> None:
        changes.append(1)
        if len(changes) == 2:
            raise OSError("the test's own")
        await source.change()

    with pytest.raises(OSError, match="the test's own"):
        await check_discovery(lambda: Sound(source), change)
    await asyncio.sleep(0)
    assert asyncio.all_tasks() == {asyncio.current_task()}
