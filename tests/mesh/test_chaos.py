"""A storm over a whole mesh, and what must be true of every connection in it, and of the mesh when it is over.

The seed is printed; `MESHLESS_CHAOS_SEED` repeats what we decide (not how the system schedules it), `MESHLESS_CHAOS_SECONDS=60`
makes it longer. What counts as right is written down in `chaos_verdict`.
"""

from __future__ import annotations

import json
import os
import random
import socket
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import meshless_sdk
import pytest

from tests.mesh.chaos import CONFIG, MAX_CONN, Storm, World
from tests.mesh.chaos_verdict import summary, verdict
from tests.mesh.exchange import Order
from tests.mesh.running_mesh import AgentView, RunningMesh, descendants, gone, raise_open_files, until

SECONDS = float(os.environ.get("MESHLESS_CHAOS_SECONDS", "8"))
SEED = int(os.environ.get("MESHLESS_CHAOS_SEED", random.SystemRandom().randrange(1 << 32)))
CLIENTS = 12
NODES = ("node-a", "node-b", "node-c")
GROWTH = 24 << 20
"""Bytes an agent's memory may be larger after the storm: what the allocator keeps of its busiest moment."""


@pytest.fixture
def mesh(tmp_path: Path) -> Iterator[RunningMesh]:
    raise_open_files()
    servers = tmp_path / "servers"
    servers.mkdir()
    environment = {"CHAOS_LOG": str(servers), "PYTHONPATH": str(Path(__file__).parents[2])}
    running = RunningMesh(tmp_path, World().text(), config=CONFIG, environment=environment)
    with running:
        yield running
    assert not strays(tmp_path), "processes left behind"


@attrs.frozen
class Held:
    """What an agent holds when nothing goes on."""

    pid: int
    sockets: int
    pipes: int
    tasks: int
    resident: int

    @classmethod
    def by(cls, agent: AgentView) -> Held:
        kinds = agent.descriptors()
        return cls(
            agent.pid, kinds.count("socket"), kinds.count("pipe"), agent.json("/status")["tasks"], agent.resident_bytes()
        )


def quiet(agent: AgentView) -> bool:
    """Whether an agent is ready and has nothing to do."""
    try:
        return (
            agent.ready
            and not agent.connections()
            and agent.metric("meshless_tunnel_sessions") == 0
            and agent.metric("meshless_handshakes_pending") == 0
        )
    except OSError:
        return False


def _restless(agent: AgentView, when: str) -> str:
    """What an agent that is never quiet still has to do."""
    metrics = {name: agent.metric(name) for name in ("meshless_tunnel_sessions", "meshless_handshakes_pending")}
    return f"{agent.name} is quiet {when} the storm: ready {agent.ready}, {metrics}, {agent.connections()}"


def settle(storm: Storm, chance: random.Random) -> None:
    """Wait until every service is served again, for every client pod."""
    for pod in ("web-0", "web-1"):
        for service in ("http.cart.shop", "http.bank.shop"):
            until(partial(_served, storm, chance, service, pod), f"{pod} is served by {service}")


def _served(storm: Storm, chance: random.Random, service: str, pod: str) -> bool:
    return storm.talk(chance, order=Order.ACKNOWLEDGED, service=service, pod=pod).result == "complete"


def all_servers_run(mesh: RunningMesh, storm: Storm) -> bool:
    """Whether each pod of the file has a server, and no other has one."""
    running = sorted(row["pod"] for row in storm.log("start") if not gone(row["pid"]))
    return running == sorted(f"{name}-{i}" for name, replicas in World().replicas.items() for i in range(replicas))


def strays(folder: Path) -> list[int]:
    """Processes of this mesh that still run, whoever's children they are."""
    mark = f"MESHLESS_DIR={folder}".encode()
    found = []
    for environ in Path("/proc").glob("[0-9]*/environ"):
        try:
            if any(part.startswith(mark) for part in environ.read_bytes().split(b"\0")):
                found.append(int(environ.parent.name))
        except OSError:  # ended meanwhile, or not ours
            continue
    return found


@pytest.mark.slow
@pytest.mark.timeout(SECONDS + 240)
def test_a_storm_leaves_every_connection_right_and_nothing_behind(
    mesh: RunningMesh, capsys: pytest.CaptureFixture[str]
) -> None:
    chance = random.Random(SEED)
    storm = Storm(mesh, SEED, survivor=chance.choice(NODES))
    with capsys.disabled():
        print(f"\nMESHLESS_CHAOS_SEED={SEED}, the agent of {storm.survivor} is not killed")
    with storm.clients(CLIENTS):  # what is made once, and the memory of a busy time, are there before the storm
        until(lambda: len(storm.attempts) > 300, "300 connections")
    settle(storm, chance)
    for agent in mesh.agents.values():
        until(partial(quiet, agent), partial(_restless, agent, "before"))
    before = {name: Held.by(agent) for name, agent in mesh.agents.items()}
    children = len(list(descendants(mesh.pid)))
    supervisor = len(os.listdir(f"/proc/{mesh.pid}/fd"))

    with storm.clients(CLIENTS):
        storm.rage(SECONDS)
        storm.calm()
    over = time.monotonic()
    until(partial(all_servers_run, mesh, storm), "every pod has its server again")
    settle(storm, chance)
    recovered = time.monotonic() - over
    for agent in mesh.agents.values():
        until(partial(quiet, agent), partial(_restless, agent, "after"))
    until(lambda: len(list(descendants(mesh.pid))) == children, "as many processes as before")

    figures: dict[str, Any] = {**summary(storm), "served_again_after_seconds": round(recovered, 1)}
    violations = verdict(storm)
    for name, agent in mesh.agents.items():
        was = before[name]
        now = until(partial(_as_before, agent, was), partial(_compared, agent, was))
        figures[name] = {"killed": now.pid != was.pid, "grown_bytes": now.resident - was.resident}
        if name == storm.survivor:
            assert now.pid == was.pid, "an agent nobody killed died"
            assert now.resident - was.resident < GROWTH
    until(lambda: len(os.listdir(f"/proc/{mesh.pid}/fd")) == supervisor, "the supervisor's descriptors")
    with capsys.disabled():
        print(json.dumps(figures))
    violations += [line for line in mesh.log.read_text().splitlines() if "Traceback" in line]  # bugs that were caught
    assert not violations, "\n".join([f"{len(violations)} violations", *violations[:20]])
    assert figures["faults"].keys() == {"agent", "pod", "edit"}
    assert figures["results"]["complete"] > 100
    every_slot_is_free(mesh)


def _as_before(agent: AgentView, was: Held) -> Held | None:
    """What the agent holds, once it is no more than it held before; pipes are kept for reuse and bounded by the pool.

    Fewer sockets than before are right: a session that was thrown away may have been telling its peer why when we looked.
    """
    now = Held.by(agent)
    return now if now.sockets <= was.sockets and now.tasks == was.tasks and now.pipes <= 128 + was.pipes else None


def _compared(agent: AgentView, was: Held) -> str:
    return f"{agent.name} holds no more than before: it was {was}, now {Held.by(agent)}"


def every_slot_is_free(mesh: RunningMesh) -> None:
    """`maxConn` connections per pod fit, and not one more: nothing of the storm is still counted."""
    pods = sum(replicas for name, replicas in World().replicas.items() if name.startswith("cart"))
    held: list[socket.socket] = []
    try:
        while len(held) <= pods * MAX_CONN:
            try:
                held.append(mesh.dial("http.cart.shop", "web-0"))
            except meshless_sdk.ConnectionLimit:
                break
        v1, v2 = 2 * MAX_CONN, MAX_CONN
        assert len(held) in range(v2, v1 + v2 + 1)
        for _ in range(400):  # one version is full, the other one is not: each connection is dealt a version
            if len(held) == v1 + v2:
                break
            try:
                held.append(mesh.dial("http.cart.shop", "web-0"))
            except meshless_sdk.ConnectionLimit:
                continue
        assert len(held) == v1 + v2
        for _ in range(10):
            with pytest.raises(meshless_sdk.ConnectionLimit):
                mesh.dial("http.cart.shop", "web-0")
    finally:
        for connection in held:
            connection.close()
