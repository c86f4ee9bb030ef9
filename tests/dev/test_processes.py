from __future__ import annotations

import asyncio
import os
import select
import signal
import sys
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from meshless_core.dev import first_process
from meshless_core.dev.processes import ChildProcess


class Watched:
    """Lines and state changes of a child, to wait for."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.states: list[bool] = []
        self._changed = asyncio.Event()

    def write(self, line: str) -> None:
        self.lines.append(line)
        self._changed.set()

    def running(self, running: bool) -> None:
        self.states.append(running)
        self._changed.set()

    async def until(self, holds: Callable[[], bool]) -> None:
        async with asyncio.timeout(20):
            while not holds():
                self._changed.clear()
                await self._changed.wait()


class Children:
    def __init__(self) -> None:
        self._started: list[ChildProcess] = []

    def start(self, code: str, **options: Any) -> tuple[ChildProcess, Watched]:
        watched = Watched()
        options = {"env": dict(os.environ), **options}
        child = ChildProcess("shop/cart", ["/bin/sh", "-c", code], write=watched.write, on_running=watched.running, **options)
        self._started.append(child)
        child.start()
        return child, watched

    async def stop(self) -> None:
        await asyncio.gather(*(child.stop() for child in self._started))


@pytest.fixture
async def children() -> AsyncIterator[Children]:
    found = Children()
    yield found
    await found.stop()


def has_ended(pid: int, *, within: float = 10.0) -> bool:
    """Whether a process ends in time: a killed one takes a moment to do so."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([descriptor], [], [], within)[0])
    finally:
        os.close(descriptor)


async def test_output_comes_line_by_line_with_the_name_errors_included(children: Children) -> None:
    _, watched = children.start("echo one; echo two >&2; printf three", restart="Never")
    await watched.until(lambda: watched.states == [True, False] and len(watched.lines) == 3)
    assert watched.lines == ["[shop/cart] one\n", "[shop/cart] two\n", "[shop/cart] three\n"]


async def test_a_line_longer_than_the_limit_comes_in_pieces_and_nothing_is_lost(children: Children) -> None:
    _, watched = children.start(f"{sys.executable} -S -c \"print('x' * 300_000); print('end')\"", restart="Never")
    await watched.until(lambda: "[shop/cart] end\n" in watched.lines)
    assert sum(line.count("x") for line in watched.lines) == 300_000
    assert watched.lines[-1] == "[shop/cart] end\n"
    assert max(map(len, watched.lines)) < 200_000


async def test_bytes_that_are_no_text_are_shown_all_the_same(children: Children) -> None:
    _, watched = children.start(r"printf '\377\n'", restart="Never")
    await watched.until(lambda: bool(watched.lines))
    assert watched.lines == ["[shop/cart] \ufffd\n"]


async def test_environment_and_folder_are_the_given_ones(children: Children, tmp_path: Any) -> None:
    _, watched = children.start('echo "$WHO $PWD ${HOME-none}"', env={"WHO": "me"}, cwd=str(tmp_path), restart="Never")
    await watched.until(lambda: bool(watched.lines))
    assert watched.lines == [f"[shop/cart] me {tmp_path} none\n"]


async def test_what_ends_is_started_again_and_each_change_is_told(children: Children, caplog: pytest.LogCaptureFixture) -> None:
    child, watched = children.start("exec sleep 1000")
    await watched.until(lambda: watched.states == [True])
    first = child.pid
    assert first is not None
    os.kill(first, signal.SIGKILL)
    await watched.until(lambda: watched.states == [True, False, True])
    assert child.pid not in (None, first)
    assert child.restarts == 1
    assert "shop/cart ended with SIGKILL; restarting in 0.2 s" in caplog.messages


@pytest.mark.parametrize(("policy", "code", "restarts"), [("Never", 1, False), ("OnFailure", 0, False), ("OnFailure", 3, True)])
async def test_the_restart_policy_is_kubernetes_own(children: Children, policy: Any, code: int, restarts: bool) -> None:
    child, watched = children.start(f"exit {code}", restart=policy)
    if restarts:
        await watched.until(lambda: watched.states[:3] == [True, False, True])
        return
    await watched.until(lambda: watched.states == [True, False])
    assert child._task is not None
    await child._task  # nothing more is going to happen
    assert watched.states == [True, False]


async def test_stop_asks_first_and_kills_who_does_not_listen(children: Children) -> None:
    polite, watched = children.start("trap 'echo bye; exit 0' TERM; echo up; while :; do sleep 0.01; done")
    await watched.until(lambda: bool(watched.lines))
    await polite.stop()
    assert watched.lines[-1] == "[shop/cart] bye\n"
    stubborn, watched = children.start("trap '' TERM; echo up; while :; do sleep 0.01; done", grace=0.1)
    await watched.until(lambda: bool(watched.lines))
    pid = stubborn.pid
    assert pid is not None
    await stubborn.stop()
    assert has_ended(pid)
    assert watched.states == [True, False]


async def test_grandchildren_go_with_their_parent(children: Children) -> None:
    child, watched = children.start("sleep 1000 & echo $!; wait")
    await watched.until(lambda: bool(watched.lines))
    grandchild = int(watched.lines[0].split()[-1])
    assert not has_ended(grandchild, within=0)
    await child.stop()
    assert has_ended(grandchild)


async def test_a_process_has_ended_although_what_it_started_holds_its_output(children: Children) -> None:
    _, watched = children.start("trap '' TERM; sleep 1000 & echo $!; exit 0", restart="Never")
    await watched.until(lambda: watched.states == [True, False] and bool(watched.lines))
    assert has_ended(int(watched.lines[0].split()[-1]))


# The process goes on, or ends, only when the daemon has left the session: what is still in it then is killed with it anyway.
DAEMON = (
    "import os, sys, time; left, say = os.pipe(); child = os.fork(); "
    "child and (os.close(say), os.read(left, 1), {then}, os._exit(0)); "
    "os.setsid(); os.fork() and os._exit(0); "
    "print(os.getpid(), flush=True); os.close(say); time.sleep(1000)"
)


@pytest.mark.parametrize("then", ["os._exit(0)", "os.kill(os.getpid(), 9)", "os.execvp('false', ['false'])"])
async def test_a_daemon_that_left_the_session_ends_with_the_process_it_came_of(children: Children, then: str) -> None:
    child, watched = children.start(f'exec {sys.executable} -S -c "{DAEMON.format(then=then)}"', restart="Never")
    await watched.until(lambda: watched.states == [True, False])
    assert child._task is not None
    async with asyncio.timeout(20):
        await child._task
    assert has_ended(int(watched.lines[0].split()[-1]), within=0)


async def test_a_daemon_ends_when_its_process_is_stopped_and_only_then(children: Children) -> None:
    code = f'exec {sys.executable} -S -c "{DAEMON.format(then="time.sleep(1000)")}"'
    (one, of_one), (two, of_two) = children.start(code), children.start(code)
    await of_one.until(lambda: bool(of_one.lines))
    await of_two.until(lambda: bool(of_two.lines))
    daemons = [int(watched.lines[0].split()[-1]) for watched in (of_one, of_two)]
    assert one.pid is not None
    os.kill(one.pid, first_process.END)  # it ends and is started again, with a daemon of its own
    await of_one.until(lambda: len(of_one.lines) == 2)
    assert has_ended(daemons[0], within=0)
    assert not has_ended(daemons[1], within=0)
    await one.stop()
    assert has_ended(int(of_one.lines[1].split()[-1]), within=0)
    assert not has_ended(daemons[1], within=0)
    await two.stop()
    assert has_ended(daemons[1], within=0)


async def test_nothing_survives_a_supervisor_that_is_killed(children: Children) -> None:
    supervisor = (
        "import asyncio, os, sys\n"
        "from meshless_core.dev.processes import ChildProcess\n"
        "async def main():\n"
        "    def write(line):\n"
        "        print(line.split()[-1], flush=True)\n"
        "    ChildProcess('x', sys.argv[1:], env=dict(os.environ), write=write).start()\n"
        "    await asyncio.sleep(1000)\n"
        "asyncio.run(main())\n"
    )
    daemon = DAEMON.format(then="time.sleep(1000)")
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", supervisor, sys.executable, "-S", "-c", daemon), stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    pid = int(await process.stdout.readline())
    process.kill()
    await process.wait()
    assert has_ended(pid)


async def test_what_nobody_waits_for_is_reaped(children: Children) -> None:
    # a grandchild whose parent is gone, and which ends while the process goes on
    child, watched = children.start("(read line </dev/null & echo $!) ; exec sleep 1000")
    await watched.until(lambda: bool(watched.lines))
    orphan = int(watched.lines[0].split()[-1])
    async with asyncio.timeout(20):
        while os.path.exists(f"/proc/{orphan}"):
            await asyncio.sleep(0.01)
    assert child.pid is not None


async def test_a_signal_that_python_ignores_is_not_ignored_in_the_program(children: Children) -> None:
    _, watched = children.start("kill -s PIPE $$; echo alive", restart="Never")
    await watched.until(lambda: watched.states == [True, False])
    assert watched.lines == []


async def test_what_was_said_right_before_the_end_is_shown_before_the_end_is_told(children: Children) -> None:
    _, watched = children.start("seq 1 5000; exit 3", restart="Never")
    await watched.until(lambda: watched.states == [True, False])
    assert watched.lines == [f"[shop/cart] {number}\n" for number in range(1, 5001)]


async def test_a_program_that_is_not_there_is_logged_with_its_name_and_tried_again(caplog: pytest.LogCaptureFixture) -> None:
    watched = Watched()
    child = ChildProcess("shop/cart", ["/no/such/program"], env={}, write=watched.write, on_running=watched.running)
    child.start()
    async with asyncio.timeout(10):
        await child.started.wait()
    await child.stop()
    assert "shop/cart cannot be started: /no/such/program: No such file or directory" in caplog.messages
    assert watched.states == []


async def test_stop_without_start_and_twice_is_fine() -> None:
    child = ChildProcess("x", ["true"], env={}, write=lambda _line: None)
    await child.stop()
    await child.stop()
    assert child.pid is None
