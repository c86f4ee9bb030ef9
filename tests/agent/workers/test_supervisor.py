"""`meshless agent` with workers, when things go wrong at its start or end. Good days: `tests/mesh/test_workers.py`."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from meshless_core.agent.admin_request import admin_get
from meshless_core.documents import PodPlacement
from meshless_core.identity import CertificateAuthority, IssuerServer, bind_issuer_socket
from meshless_core.socketd import PodDirectories, SocketdServer
from meshless_core.types import MeshletRef, PodRef, ReplyCode

POD = PodPlacement(PodRef("shop", "web-0"), "uid-0", MeshletRef("shop", "web"), None)


class Node:
    """A socketd, and a place for an agent that has neither issuer nor documents."""

    def __init__(self, folder: Path) -> None:
        self.state = folder / "state"
        self.socketd_folders = PodDirectories(folder / "pods")
        self.socketd = SocketdServer("node-a", self.socketd_folders, folder / "socketd.sock")
        self.folder = folder
        self._agents: list[asyncio.subprocess.Process] = []
        (folder / "bus").mkdir()
        (folder / "meshless.yaml").write_text(
            "agent: {workers: 2, drain_timeout: 1s}\n"
            "plugins: {handshake_v1: {}, policy_declared: {}, canary_weighted: {}, transport_tls: {}, "
            f"bus_directory: {{path: {folder / 'bus'}}}}}\n"
        )

    async def agent(self) -> asyncio.subprocess.Process:
        """Start `meshless agent`."""
        arguments = [f"--{name}={self.folder / path}" for name, path in (("socketd", "socketd.sock"), ("issuer", "none.sock"))]
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "meshless_core.cli", "agent", "--node=node-a", "--access-log=off", *arguments),
            *(f"--config={self.folder / 'meshless.yaml'}", f"--state-dir={self.state}"),
            stderr=asyncio.subprocess.PIPE,
            start_new_session=True,
        )
        self._agents.append(process)
        return process

    async def ask(self, path: str) -> tuple[int, bytes]:
        """The agent's answer, as soon as it answers."""
        async with asyncio.timeout(20):
            while True:
                with contextlib.suppress(OSError, ValueError):
                    return await admin_get(f"unix:{self.state / 'admin.sock'}", path)
                await asyncio.sleep(0.01)

    async def pids(self) -> list[int]:
        """Process ids of the workers, once all have started."""
        async with asyncio.timeout(20):
            while True:
                rows = json.loads((await self.ask("/status"))[1])["workers"]
                reasons = (await self.ask("/readyz"))[1].decode()
                if all(row["pid"] for row in rows) and "starting" not in reasons and "not started" not in reasons:
                    return [row["pid"] for row in rows]
                await asyncio.sleep(0.01)

    async def leaf(self, worker: int) -> list[str]:
        """The name of the one leaf a worker holds, which is its serial, as soon as there is one."""
        async with asyncio.timeout(20):
            while True:
                found = sorted((self.state / f"worker-{worker}" / "leaves").rglob("*.crt"))
                if found:
                    return [path.name for path in found]
                await asyncio.sleep(0.01)

    async def stop(self) -> None:
        """End what runs."""
        for process in self._agents:
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
            await process.communicate()
        await self.socketd.stop()


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[Node]:
    one = Node(tmp_path)
    yield one
    await one.stop()


async def _all_gone(pids: list[int]) -> None:
    async with asyncio.timeout(20):
        for pid in pids:
            while True:
                try:
                    if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                        break
                except (FileNotFoundError, ProcessLookupError):
                    break
                await asyncio.sleep(0.01)


async def test_without_socketd_nothing_is_started_and_readyz_says_why(node: Node) -> None:
    await node.agent()
    status, body = await node.ask("/readyz")
    assert status == 503
    assert body.decode().splitlines()[0] == "socketd: no snapshot of the pods yet; is socketd running"
    told = json.loads((await node.ask("/status"))[1])
    assert not told["ready"]
    assert [row["pid"] for row in told["workers"]] == [None, None]
    assert told["pods"] == []


async def test_a_mistake_that_keeps_every_worker_from_starting_ends_the_agent_with_its_message(node: Node) -> None:
    for index in range(2):
        (node.state / f"worker-{index}").mkdir(parents=True)
        (node.state / f"worker-{index}" / "leaves").write_text("in the way")
    await node.socketd.start()
    node.socketd.set_pods([])
    process = await node.agent()
    assert process.stderr is not None
    errors = (await asyncio.wait_for(process.stderr.read(), 30)).decode()
    assert await process.wait() not in (0, 70)
    assert "error: cannot make the private directory" in errors


async def test_every_worker_says_why_it_is_not_ready(node: Node) -> None:
    await node.socketd.start()
    node.socketd.set_pods([POD])
    await node.agent()
    await asyncio.wait_for(node.socketd.wait_served(), 20)
    await node.pids()
    body = (await node.ask("/readyz"))[1].decode()
    for index in range(2):
        assert f"worker {index}: documents: none yet; is the reconciler running and the bus reachable" in body
    status, body_of_explain = await node.ask("/explain?client=shop/web-0&service=http.cart.shop")
    assert (status, body_of_explain) == (503, b"this agent has no documents yet\n")


async def test_a_pod_that_goes_leaves_all_workers(node: Node) -> None:
    await node.socketd.start()
    node.socketd.set_pods([POD])
    await node.agent()
    await asyncio.wait_for(node.socketd.wait_served(), 20)
    await node.pids()
    node.socketd.set_pods([])
    async with asyncio.timeout(20):
        while json.loads((await node.ask("/status"))[1])["pods"]:
            await asyncio.sleep(0.01)


async def test_workers_take_over_the_sockets_of_a_socketd_that_was_started_again(node: Node) -> None:
    authority = CertificateAuthority.create(node.folder / "ca", "mesh.local")
    issuer = IssuerServer(authority, lambda _node: node.socketd.meshlets)
    issuer.add_node("node-a", bind_issuer_socket(node.folder / "none.sock"))
    await issuer.start()
    await node.socketd.start()
    node.socketd.set_pods([POD])
    await node.agent()
    await asyncio.wait_for(node.socketd.wait_served(), 20)
    await node.pids()
    leaves = [await node.leaf(index) for index in range(2)]
    await issuer.stop()  # no new leaves: those there are have to stay
    await node.socketd.stop(remove=False)
    node.socketd = SocketdServer("node-a", node.socketd_folders, node.folder / "socketd.sock")
    await node.socketd.start()
    node.socketd.set_pods([POD])
    reader, writer = await asyncio.open_unix_connection(node.folder / "pods" / "shop" / "web-0" / "client" / "meshless")
    writer.write(b"\x01\x0ehttp.cart.shop")
    assert await asyncio.wait_for(reader.readexactly(2), 20) == bytes((1, ReplyCode.NOT_READY))
    writer.close()
    async with asyncio.timeout(20):
        await node.socketd.wait_served()
        while "has not taken over" in (await node.ask("/readyz"))[1].decode():
            await asyncio.sleep(0.01)
    assert leaves == [await node.leaf(index) for index in range(2)]


async def test_a_nursery_that_dies_ends_the_agent(node: Node) -> None:
    await node.socketd.start()
    node.socketd.set_pods([])
    process = await node.agent()
    pids = await node.pids()
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    assert len(children) == 1, "the supervisor has the nursery and nobody else"
    os.kill(int(children[0]), signal.SIGKILL)
    assert await asyncio.wait_for(process.wait(), 20) == 1
    await _all_gone(pids)


async def test_sigterm_of_the_whole_group_drains_and_leaves_nothing(node: Node) -> None:
    await node.socketd.start()
    node.socketd.set_pods([])
    process = await node.agent()
    pids = await node.pids()
    os.killpg(process.pid, signal.SIGTERM)
    assert await asyncio.wait_for(process.wait(), 20) == 0
    await _all_gone(pids)
    assert not (node.state / "admin.sock").exists()
    assert not (node.state / "worker-0" / "admin.sock").exists(), "a worker left in order"


async def test_a_second_sigterm_ends_at_once_and_takes_a_stuck_worker_along(node: Node) -> None:
    await node.socketd.start()
    node.socketd.set_pods([])
    process = await node.agent()
    pids = await node.pids()
    os.kill(pids[0], signal.SIGSTOP)
    process.send_signal(signal.SIGTERM)
    async with asyncio.timeout(20):
        while not json.loads((await node.ask("/status"))[1])["draining"]:
            await asyncio.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    assert await asyncio.wait_for(process.wait(), 20) == 128 + signal.SIGTERM
    await _all_gone(pids)


async def test_a_stuck_worker_is_killed_when_its_time_is_over(node: Node) -> None:
    await node.socketd.start()
    node.socketd.set_pods([])
    process = await node.agent()
    pids = await node.pids()
    os.kill(pids[1], signal.SIGSTOP)
    process.send_signal(signal.SIGTERM)
    assert await asyncio.wait_for(process.wait(), 30) == 0
    await _all_gone(pids)
