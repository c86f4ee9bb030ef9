from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from meshless_core.dev.pods import PodProcesses, PodRun
from meshless_core.types import PodRef

CART = PodRef("shop", "cart-0")
NAMES = "'MESHLESS_DIR', 'POD_NAME', 'POD_NAMESPACE', 'WHO'"
PRINT = f"import os; print(*(os.environ.get(name) for name in ({NAMES})), os.getcwd(), flush=True)"
STAY = ("sleep", "1000")


def pod(*containers: dict[str, Any], **spec: Any) -> dict[str, Any]:
    return {
        "metadata": {"namespace": "shop", "name": "cart-0", "uid": "u1"},
        "spec": {"containers": list(containers), **spec},
    }


def run(*commands: tuple[str, ...], uid: str = "u1", **env: str) -> PodRun:
    containers = tuple((f"c{index}", command, tuple(env.items())) for index, command in enumerate(commands))
    return PodRun(CART, uid, containers, "Always")


class Pods:
    def __init__(self, folder: Path) -> None:
        self.lines: list[str] = []
        self.ready: list[tuple[PodRef, bool]] = []
        self._changed = asyncio.Event()
        self.processes = PodProcesses(folder / "pods", folder, self._write, self._on_ready)

    def _write(self, line: str) -> None:
        self.lines.append(line)
        self._changed.set()

    def _on_ready(self, ref: PodRef, ready: bool) -> None:
        self.ready.append((ref, ready))
        self._changed.set()

    async def until(self, holds: Any) -> None:
        async with asyncio.timeout(20):
            while not holds():
                self._changed.clear()
                await self._changed.wait()


@pytest.fixture
async def pods(tmp_path: Path) -> AsyncIterator[Pods]:
    found = Pods(tmp_path)
    yield found
    await found.processes.stop()


def test_a_pod_object_is_read_with_commands_arguments_and_environment() -> None:
    read = PodRun.of(
        pod(
            {"name": "main", "command": ["python"], "args": ["-c", 5], "env": [{"name": "A", "value": "1"}, {"name": "B"}]},
            {"name": "idle", "args": ["ignored without a command"]},
            restartPolicy="OnFailure",
        )
    )
    assert read == PodRun(CART, "u1", (("main", ("python", "-c", "5"), (("A", "1"), ("B", ""))),), "OnFailure")


@pytest.mark.parametrize("spec", [{}, {"spec": None}])
def test_a_pod_without_containers_has_nothing_to_run(spec: dict[str, Any]) -> None:
    read = PodRun.of({"metadata": {"name": "cart-0"}, **spec})
    assert (read.pod, read.containers, read.restart) == (PodRef("default", "cart-0"), (), "Always")


async def test_a_container_gets_its_environment_and_the_meshs_cannot_be_overwritten(pods: Pods, tmp_path: Path) -> None:
    await pods.processes.apply({CART: run((sys.executable, "-S", "-c", PRINT), WHO="me", POD_NAME="forged")})
    await pods.until(lambda: pods.lines)
    assert pods.lines[0] == f"[shop/cart-0] {tmp_path}/pods/shop/cart-0 cart-0 shop me {tmp_path}\n"


async def test_a_pod_is_ready_while_all_its_containers_run_and_their_output_is_told_apart(pods: Pods) -> None:
    await pods.processes.apply(
        {CART: run(("sh", "-c", "echo first; exec sleep 1000"), ("sh", "-c", "echo second; exec sleep 1000"))}
    )
    await pods.until(lambda: len(pods.lines) == 2 and len(pods.ready) == 2)  # they come by two pipes: in any order
    assert sorted(pods.lines) == ["[shop/cart-0/c0] first\n", "[shop/cart-0/c1] second\n"]
    assert pods.ready == [(CART, False), (CART, True)]
    first, _ = pods.processes.processes
    assert first.pid is not None
    os.kill(first.pid, 9)
    await pods.until(lambda: [ready for _, ready in pods.ready] == [False, True, False, True])


async def test_an_unchanged_pod_is_left_alone_a_changed_one_replaced_a_missing_one_stopped(pods: Pods) -> None:
    await pods.processes.apply({CART: run(STAY)})
    await pods.until(lambda: pods.ready)
    (before,) = pods.processes.processes
    pid = before.pid
    await pods.processes.apply({CART: run(STAY)})
    assert [process.pid for process in pods.processes.processes] == [pid]
    await pods.processes.apply({CART: run(STAY, uid="u2")})
    await pods.until(lambda: pods.processes.processes[0].pid is not None)
    assert pods.processes.processes[0].pid != pid
    await pods.processes.apply({})
    assert pods.processes.pods == []
    assert before.pid is None


async def test_the_end_of_a_replaced_pod_does_not_make_its_successor_unready(pods: Pods) -> None:
    await pods.processes.apply({CART: run(STAY)})
    await pods.until(lambda: pods.ready)
    await pods.processes.apply({CART: run(STAY, uid="u2")})
    await pods.until(lambda: len(pods.ready) == 2)
    assert pods.ready == [(CART, True), (CART, True)]


async def test_a_pod_without_a_command_has_no_process(pods: Pods) -> None:
    await pods.processes.apply({CART: run()})
    assert pods.processes.pods == []
    assert pods.ready == []


async def test_python_in_a_command_is_the_one_with_the_sdk(pods: Pods, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    await pods.processes.apply({CART: run(("python", "-c", "import sys, meshless_sdk; print(sys.executable)"))})
    await pods.until(lambda: pods.lines)
    assert Path(pods.lines[0].removeprefix("[shop/cart-0] ").strip()).parent == Path(sys.executable).parent
