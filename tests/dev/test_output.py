from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator

import pytest

from meshless_core.dev.output import OutputLines


class Pipe:
    """A pipe whose lines are read, and whose write end the test holds."""

    def __init__(self) -> None:
        self.read_end, self.write_end = os.pipe()
        self.lines: list[str] = []
        self.came = asyncio.Event()

    def read(self) -> OutputLines:
        return OutputLines(self.read_end, self._take)

    def _take(self, line: str) -> None:
        self.lines.append(line)
        self.came.set()

    async def until(self, count: int) -> None:
        async with asyncio.timeout(20):
            while len(self.lines) < count:
                self.came.clear()
                await self.came.wait()

    def close(self) -> None:
        os.close(self.read_end)
        os.close(self.write_end)


@pytest.fixture
async def pipe() -> AsyncIterator[Pipe]:
    pipe = Pipe()
    yield pipe
    pipe.close()


async def test_lines_come_while_it_is_written(pipe: Pipe) -> None:
    output = pipe.read()
    os.write(pipe.write_end, b"one\ntw")
    await pipe.until(1)
    os.write(pipe.write_end, b"o\nthree")
    await pipe.until(2)
    output.finish()
    assert pipe.lines == ["one", "two", "three"]


async def test_nothing_that_was_written_before_the_end_is_lost_although_the_loop_had_no_turn(pipe: Pipe) -> None:
    os.set_blocking(pipe.write_end, False)
    output = pipe.read()
    written = os.write(pipe.write_end, b"x" * 60 + b"\n" + b"y" * 200_000)  # to the brim, and held open
    output.finish()
    assert "".join(pipe.lines) == "x" * 60 + "y" * (written - 61)


async def test_after_the_end_nothing_is_read_any_more(pipe: Pipe) -> None:
    output = pipe.read()
    output.finish()
    os.write(pipe.write_end, b"late\n")
    os.set_blocking(pipe.read_end, True)
    assert not asyncio.get_running_loop().remove_reader(pipe.read_end)
    assert os.read(pipe.read_end, 100) == b"late\n"


async def test_a_pipe_at_its_end_does_not_keep_the_loop_busy(pipe: Pipe) -> None:
    output = pipe.read()
    os.write(pipe.write_end, b"one\nlast words")
    closed, pipe.write_end = pipe.write_end, os.dup(pipe.read_end)
    os.close(closed)
    await pipe.until(1)
    async with asyncio.timeout(20):
        while asyncio.get_running_loop()._selector.get_map().get(pipe.read_end) is not None:  # type: ignore[attr-defined]
            await asyncio.sleep(0)
    output.finish()
    assert pipe.lines == ["one", "last words"]
