"""A worker's place at the supervisor: what it says of itself while processes come and go."""

from __future__ import annotations

import asyncio
from pathlib import Path

from meshless_core.agent.workers.place import READY
from meshless_core.agent.workers.shared_pods import SharedPods
from meshless_core.agent.workers.worker import Worker
from meshless_core.socketd import SocketdServer


def place(folder: Path) -> Worker:
    return Worker(3, folder, SocketdServer("node-a", SharedPods({}), folder / "socketd.sock"))


async def test_it_says_at_each_stage_why_it_is_not_ready(tmp_path: Path) -> None:
    worker = place(tmp_path)
    assert worker.not_ready() == "worker 3: is not started yet"
    with worker.begin() as theirs:
        assert worker.alive
        assert worker.not_ready() == "worker 3: is starting"
        theirs.send(READY)
        async with asyncio.timeout(20):
            while worker.not_ready():
                await asyncio.sleep(0)
        worker.ended()
    worker.restarts += 1
    assert worker.not_ready() == "worker 3: has ended and is being replaced; see the agent's log"
    worker.tell(b"drain")  # nobody is there: nothing happens


async def test_workers_that_die_young_are_replaced_ever_more_slowly_within_a_bound(tmp_path: Path) -> None:
    worker = place(tmp_path)
    worker.born = asyncio.get_running_loop().time()
    delays = [worker.next_delay() for _ in range(12)]
    assert delays[:4] == [0.05, 0.1, 0.2, 0.4]
    assert delays[-1] == 10.0
    worker.born -= 10.0
    assert worker.next_delay() == 0.05, "one that lived for a while begins anew"
