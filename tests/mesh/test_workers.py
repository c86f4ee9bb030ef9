"""Two nodes whose agents have two workers each: what one process promises has to hold for both together."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
from collections.abc import Iterator
from functools import partial
from typing import Any

import meshless_sdk
import pytest

from tests.mesh.conftest import TWO_NODES
from tests.mesh.running_mesh import AgentView, RunningMesh, gone, until

LIMITED = TWO_NODES.replace("services: [{name: http}]", "services: [{name: http}, {name: few, maxConn: 6}]").replace(
    "service: http}", "service: http}\n    - {namespace: shop, meshlet: NAME, service: few}"
)
for _name in ("near", "far"):
    LIMITED = LIMITED.replace("meshlet: NAME", f"meshlet: {_name}", 1)

CONFIG = "agent: {workers: 2, drain_timeout: 20s}\n"
NODES = ("node-a", "node-b")


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningMesh]:
    with RunningMesh(tmp_path_factory.mktemp("workers"), LIMITED, config=CONFIG) as running:
        yield running


@pytest.fixture(autouse=True)
def left_alone(mesh: RunningMesh) -> Iterator[None]:
    """Each test begins and ends with two ready workers per agent and no connection."""
    for node in NODES:
        until(partial(_is_ready, mesh.agent(node)), f"{node} is ready")
    yield
    for node in NODES:
        until(partial(_is_idle, mesh.agent(node)), f"{node} has no connection left")


def _is_ready(agent: AgentView) -> bool:
    return agent.ready


def _is_idle(agent: AgentView) -> bool:
    return not agent.connections()


def workers(agent: AgentView) -> list[dict[str, Any]]:
    """Its rows of the workers."""
    rows: list[dict[str, Any]] = agent.json("/status")["workers"]
    return rows


class Held:
    """Connections to one service, each echoed once, with its far end."""

    def __init__(self, mesh: RunningMesh, stack: contextlib.ExitStack, name: str, service: str = "http") -> None:
        self._mesh = mesh
        self._stack = stack
        self._target = f"{service}.{name}.shop"
        self._listener = stack.enter_context(mesh.listen(f"{name}-0", service))
        self.pairs: list[tuple[socket.socket, socket.socket]] = []

    def add(self) -> None:
        """One more; all there were have to be alive."""
        self.dial()
        assert self.alive() == len(self.pairs)

    def dial(self) -> None:
        """One more, whatever has become of the others."""
        client = self._stack.enter_context(self._mesh.dial(self._target, "web-0"))
        far = self._stack.enter_context(self._listener.accept()[0])
        far.settimeout(30)
        self.pairs.append((client, far))

    def alive(self) -> int:
        """How many still carry a byte each way; the others have ended, at both ends."""
        count = 0
        for client, far in self.pairs:
            try:
                client.sendall(b"?")
                there = far.recv(1) == b"?"
            except (ConnectionError, BrokenPipeError):
                there = False
            if there:
                far.sendall(b"!")
                assert client.recv(1) == b"!"
                count += 1
            else:
                with contextlib.suppress(ConnectionError):
                    assert client.recv(1) == b"", "over at one end, so over at the other"
        return count


def spread(mesh: RunningMesh, held: Held, node: str) -> dict[int, int]:
    """Add connections until every worker of `node` has one; how many each has."""

    def both() -> dict[int, int] | None:
        held.add()
        rows = {row["worker"]: row["connections"] for row in workers(mesh.agent(node))}
        return rows if len(rows) == 2 and all(rows.values()) else None

    return until(both, f"both workers of {node} serve")


@pytest.mark.parametrize(("name", "node"), [("near", "node-a"), ("far", "node-a"), ("far", "node-b")])
def test_every_worker_serves_and_the_answers_are_of_all(mesh: RunningMesh, name: str, node: str) -> None:
    agent = mesh.agent(node)
    flow = {"destination_meshlet": name}
    before = agent.metric("meshless_connections_opened_total", **flow)
    with contextlib.ExitStack() as stack:
        held = Held(mesh, stack, name)
        spread(mesh, held, node)
        count = len(held.pairs)
        rows = agent.connections()
        assert len(rows) == count == agent.json("/status")["connections"]
        assert {row["worker"] for row in rows} == {0, 1}
        assert len({row["id"] for row in rows}) == count
        assert agent.metric("meshless_connections_active", **flow) == count
        assert agent.metric("meshless_connections_opened_total", **flow) - before == count
        assert agent.metric("meshless_pods") == len(agent.json("/status")["pods"]), "two workers have the same pods, not more"
        listeners = agent.metric("meshless_sockets", role="client", state="accepting")
        assert listeners == agent.metric("meshless_pods"), "nor more sockets"
        assert agent.metric("meshless_bus_messages_total", direction="received", result="applied") > 0
        measured = agent.metric("meshless_plugin_hook_seconds_count", plugin="policy_declared", hook="authorize_inline")
        assert measured >= 2, "each worker measures its first call, at the least"
    status = agent.json("/status")
    assert status["ready"]
    assert status["limits"]["max_connections"] == 20_000, "the bound of the agent, divided and added up again"
    assert agent.metric("meshless_build_info") == 1


@pytest.mark.parametrize(("name", "node"), [("near", "node-a"), ("far", "node-b")])
def test_max_conn_holds_over_all_workers(mesh: RunningMesh, name: str, node: str) -> None:
    with contextlib.ExitStack() as stack:
        held = Held(mesh, stack, name, "few")
        for _ in range(6):
            held.add()
        for _ in range(20):
            with pytest.raises(meshless_sdk.ConnectionLimit):
                mesh.dial(f"few.{name}.shop", "web-0")
        client, far = held.pairs.pop()
        client.close()
        far.close()
        until(lambda: len(mesh.agent(node).connections()) == 5, "the place is free")
        held.add()
        with pytest.raises(meshless_sdk.ConnectionLimit):
            mesh.dial(f"few.{name}.shop", "web-0")


def test_a_worker_that_is_killed_loses_its_connections_and_no_others(mesh: RunningMesh) -> None:
    agent = mesh.agent("node-a")
    flow = {"destination_meshlet": "near"}
    with contextlib.ExitStack() as stack:
        held = Held(mesh, stack, "near", "few")
        for _ in range(6):
            held.add()
        opened = agent.metric("meshless_connections_opened_total", **flow)
        victim = max(workers(agent), key=lambda row: row["connections"])
        assert victim["connections"] > 0
        os.kill(victim["pid"], signal.SIGKILL)
        until(lambda: gone(victim["pid"]), "the worker is dead")
        assert held.alive() == 6 - victim["connections"], "the others go on"
        until(lambda: agent.json("/status")["workers"][victim["worker"]]["restarts"] == 1, "its death was noticed")
        held.pairs.clear()
        for _ in range(victim["connections"]):
            held.add()  # at once, and the dead worker's slots are free
        with pytest.raises(meshless_sdk.ConnectionLimit):
            mesh.dial("few.near.shop", "web-0")
        until(lambda: agent.ready, "the replacement serves")
        assert workers(agent)[victim["worker"]]["pid"] != victim["pid"]
        total = agent.metric("meshless_connections_opened_total", **flow)
        assert total == opened + victim["connections"], "what the dead worker had counted stays in the sum"
        lines = mesh.log.read_text()
        assert f"worker {victim['worker']} (process {victim['pid']}) ended with SIGKILL" in lines


def test_no_connect_fails_while_a_worker_dies(mesh: RunningMesh) -> None:
    agent = mesh.agent("node-a")
    with contextlib.ExitStack() as stack:
        held = Held(mesh, stack, "near")
        for row in workers(agent):
            os.kill(row["pid"], signal.SIGKILL)
            for _ in range(20):
                held.dial()
            until(lambda: agent.ready, "the replacement serves")


def test_a_drain_lets_connections_of_all_workers_finish(mesh: RunningMesh) -> None:
    agent = mesh.agent("node-a")
    old = agent.pid
    pids = [row["pid"] for row in workers(agent)]
    with contextlib.ExitStack() as stack:
        held = Held(mesh, stack, "near")
        spread(mesh, held, "node-a")
        os.kill(old, signal.SIGTERM)
        until(lambda: agent.json("/status")["draining"] and all(not row["ready"] for row in workers(agent)), "all drain")
        assert held.alive() == len(held.pairs), "nothing is cut while there is time"
    until(lambda: all(map(gone, [old, *pids])), "everybody has left")
    until(lambda: agent.ready, "the next agent serves")
    lines = agent.access_log()
    assert sum(line["reason"] == "closed" for line in lines if line["event"] == "closed") >= len(held.pairs)


def test_a_killed_agent_takes_its_workers_along(mesh: RunningMesh) -> None:
    agent = mesh.agent("node-b")
    pids = [row["pid"] for row in workers(agent)]
    agent.kill()
    until(lambda: all(map(gone, pids)), "its workers are gone")
    until(lambda: agent.ready, "the next agent serves")


def test_a_moved_access_log_is_opened_again_by_all_workers(mesh: RunningMesh) -> None:
    agent = mesh.agent("node-a")
    path = agent.folder / "access.log"
    path.rename(agent.folder / "access.log.1")
    os.kill(agent.pid, signal.SIGHUP)
    until(path.exists, "there is a new one")
    with contextlib.ExitStack() as stack:
        held = Held(mesh, stack, "near")
        spread(mesh, held, "node-a")
        count = len(held.pairs)
    until(lambda: len(agent.access_log()) >= count, "each connection has its line in it")
