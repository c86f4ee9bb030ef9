"""Processes that are born and die: who is told, and that nobody is left behind. Everything here is real processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

_PROGRAM = """
import asyncio, json, os, signal, socket, sys
from meshless_core.agent.workers.nursery import Birth, open_nursery

born = open_nursery()
if isinstance(born, Birth):
    order = born.control.recv(100).decode()
    ignored = [signal.getsignal(number) is signal.SIG_IGN for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)]
    born.control.send(json.dumps([born.index, ignored]).encode())
    order = born.control.recv(100).decode()
    sys.exit(int(order or 99))

async def main():
    loop = asyncio.get_running_loop()
    controls = {}
    def say(*news):
        print(json.dumps(news), flush=True)
    born.follow(lambda index, pid: say("started", index, pid), lambda *how: say("ended", *how), lambda: say("lost"))
    reader = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while line := await reader.readline():
        what, index, text = json.loads(line)
        if what == "order":
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            controls[index] = ours
            with theirs:
                born.order(index, theirs)
        elif what == "tell":
            controls[index].send(text.encode())
        elif what == "ask":
            controls[index].send(b"who")
            controls[index].setblocking(True)
            say("told", json.loads(controls[index].recv(100)))
        elif what == "close":
            born.close()
            say("closed")
        elif what == "nursery":
            say("nursery", born._pid)
asyncio.run(main())
"""


class Supervisor:
    """The program above, driven line by line."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", _PROGRAM], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
        )

    def do(self, what: str, index: int = 0, text: str = "") -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps([what, index, text]) + "\n")
        self.process.stdin.flush()

    def news(self) -> list[Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, "the supervisor is gone"
        found: list[Any] = json.loads(line)
        return found

    def start_worker(self, index: int) -> int:
        self.do("order", index)
        what, started, pid = self.news()
        assert (what, started) == ("started", index)
        return int(pid)


@pytest.fixture
def supervisor() -> Iterator[Supervisor]:
    running = Supervisor()
    yield running
    running.process.kill()
    running.process.wait()
    assert running.process.stdin is not None
    assert running.process.stdout is not None
    running.process.stdin.close()
    running.process.stdout.close()


def until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, f"not within 20 s: {what}"
        time.sleep(0.005)


def gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def test_a_worker_gets_its_index_and_its_control_and_ignores_the_groups_signals(supervisor: Supervisor) -> None:
    supervisor.start_worker(0)
    pid = supervisor.start_worker(1)
    supervisor.do("ask", 1)
    assert supervisor.news() == ["told", [1, [True, True, True]]]
    assert not gone(pid)


def test_how_a_worker_ended_is_told(supervisor: Supervisor) -> None:
    by_itself, killed = supervisor.start_worker(0), supervisor.start_worker(1)
    supervisor.do("ask", 0)
    supervisor.news()
    supervisor.do("tell", 0, "7")
    assert supervisor.news() == ["ended", 0, by_itself, 7]
    os.kill(killed, signal.SIGKILL)
    assert supervisor.news() == ["ended", 1, killed, -signal.SIGKILL]
    assert supervisor.start_worker(1) != killed, "and another one can be born"


def test_workers_and_nursery_die_with_a_supervisor_that_is_killed(supervisor: Supervisor) -> None:
    supervisor.do("nursery")
    pids = [supervisor.news()[1], supervisor.start_worker(0), supervisor.start_worker(1)]
    supervisor.process.kill()
    until(lambda: all(map(gone, pids)), "nobody is left")


def test_workers_die_with_the_nursery_and_the_supervisor_is_told(supervisor: Supervisor) -> None:
    supervisor.do("nursery")
    nursery = supervisor.news()[1]
    pids = [supervisor.start_worker(0), supervisor.start_worker(1)]
    os.kill(nursery, signal.SIGKILL)
    assert supervisor.news() == ["lost"]
    until(lambda: all(map(gone, pids)), "nobody is left")


def test_closing_ends_everybody(supervisor: Supervisor) -> None:
    supervisor.do("nursery")
    pids = [supervisor.news()[1], supervisor.start_worker(0)]
    supervisor.do("close")
    assert supervisor.news() == ["closed"]
    until(lambda: all(map(gone, pids)), "nobody is left")
