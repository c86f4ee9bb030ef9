"""A worker's side of its control connection."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator

import pytest

from meshless_core.agent.workers import SharedSlots
from meshless_core.agent.workers.place import DRAIN, READY, REOPEN, WorkerPlace


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, WorkerPlace]]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    slots = SharedSlots.create(1)
    with ours, theirs, socket.socket() as listener:
        yield ours, WorkerPlace(0, 1, slots, listener, theirs)
    slots.close()


async def test_a_worker_says_when_it_serves_and_then_does_what_it_is_told(pair: tuple[socket.socket, WorkerPlace]) -> None:
    supervisor, place = pair
    told: asyncio.Queue[str] = asyncio.Queue()
    supervisor.send(DRAIN)  # said before the worker could listen: not lost
    place.report_started(on_drain=lambda: told.put_nowait("drain"), on_reopen=lambda: told.put_nowait("reopen"))
    assert supervisor.recv(100) == READY
    assert await asyncio.wait_for(told.get(), 20) == "drain"
    supervisor.send(REOPEN)
    assert await asyncio.wait_for(told.get(), 20) == "reopen"
    asyncio.get_running_loop().remove_reader(place.control)
