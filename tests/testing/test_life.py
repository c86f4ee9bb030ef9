"""The life of a plugin's object: what keeps the contract passes, and each way to break it is told."""

from __future__ import annotations

import asyncio

import pytest

from meshless_core.testing.life import check_life, living
from tests.testing.idle_clock import run


class Sound:
    """Has a start that waits, and a stop that copes."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    async def start(self) -> None:
        self.calls.append("start")
        await asyncio.sleep(0)

    async def stop(self) -> None:
        self.calls.append("stop")


class Plain:
    """Does without async, as the core lets it."""

    def start(self) -> None: ...
    def stop(self) -> None: ...


class FailsToStart(Sound):
    async def start(self) -> None:
        raise OSError("no such file")


class NeverStarts(Sound):
    async def start(self) -> None:
        await asyncio.Event().wait()


class StopsOnlyWhatStarted(Sound):
    async def stop(self) -> None:
        assert "start" in self.calls, "was not started"


class StopsOnlyWhatStartedToTheEnd(Sound):
    def __init__(self) -> None:
        self.ready: bool | None = None

    async def start(self) -> None:
        self.ready = False
        await asyncio.sleep(0)
        self.ready = True

    async def stop(self) -> None:
        if self.ready is False:
            raise RuntimeError("is half started")


class CannotBeCancelled(Sound):
    async def start(self) -> None:
        while True:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                if self.calls:
                    raise
                self.calls.append("cancelled")


class FailsToStop(Sound):
    async def stop(self) -> None:
        if self.calls == ["start"]:
            self.calls.append("stop")
            await asyncio.sleep(0)
            raise OSError("no such file")


@pytest.mark.parametrize("make", [Sound, Plain, object])
async def test_what_can_be_stopped_at_any_time_passes(make: type) -> None:
    await check_life(make)


@pytest.mark.parametrize(
    ("make", "promise"),
    [
        (FailsToStart, r"start has to work, but start\(\) raised OSError: no such file"),
        (NeverStarts, r"start has to work: start\(\) ends: nothing came in 30 s"),
        (
            StopsOnlyWhatStarted,
            r"stop has to cope with a start that failed at once, but stop\(\) raised AssertionError: was not started",
        ),
        (StopsOnlyWhatStartedToTheEnd, "cope with a start that was cut short, but stop.. raised RuntimeError: is half started"),
        (CannotBeCancelled, "a start that is cancelled has to end"),
        (FailsToStop, r"raised OSError: no such file"),
    ],
)
def test_what_breaks_a_promise_is_told(make: type, promise: str) -> None:
    with pytest.raises(AssertionError, match=promise):
        run(check_life(make))


async def test_an_object_is_started_before_it_is_used_and_stopped_behind() -> None:
    sound = Sound()
    async with living(sound):
        assert sound.calls == ["start"]
    assert sound.calls == ["start", "stop"]


async def test_an_object_is_stopped_also_when_a_check_fails_and_that_failure_is_the_one_told() -> None:
    failing = FailsToStop()
    with pytest.raises(AssertionError, match="the real one"):
        async with living(failing):
            raise AssertionError("the real one")
    assert failing.calls == ["start", "stop"]
