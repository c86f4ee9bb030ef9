"""SIGKILL for clients at every stage, for the agent, and for the server: no slot and no descriptor is left within a second.

Every service has `maxConn: 1`, so a slot that leaked would be seen twice: in the agent's tables, and by the next client.
"""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from meshless_core.config import DEFAULT_PLUGINS
from tests.mesh import kill_client, kill_server
from tests.mesh.run_time import RunTime
from tests.mesh.running_mesh import AgentView, RunningMesh, raise_open_files, until
from tests.mesh.test_failing_plugins import install, plugins

WITHIN = 1.0
"""Seconds in which nothing may be left, not counting those in which an agent wanted to run and could not: see `RunTime`. By
itself it takes some ten milliseconds."""

SLOW = '''
"""An authorizer that has to think about the service `slow`."""
import asyncio
import attrs
from meshless_core import AuthorizerSpec, Decision, Verdict, hookimpl

@attrs.frozen
class Options:
    pass

class Thinking:
    def __init__(self, options):
        pass
    async def authorize(self, request):
        if request.target.service == "slow":
            await asyncio.sleep(60)
        return Decision(Verdict.ALLOW, "thinking", "why not")

@hookimpl
def meshless_register_authorizer():
    return AuthorizerSpec(api=1, options=Options, create=Thinking)
'''

OBJECTS = """
apiVersion: meshless.dev/v1
kind: Meshlet
metadata: {namespace: shop, name: web}
spec:
  client:
    - {namespace: shop, meshlet: near, service: http}
    - {namespace: shop, meshlet: near, service: slow}
    - {namespace: shop, meshlet: near, service: full}
    - {namespace: shop, meshlet: far, service: http}
---
apiVersion: meshless.dev/v1
kind: Meshlet
metadata: {namespace: shop, name: near}
spec:
  server:
    selector: {app: near}
    services: [{name: http, maxConn: 1}, {name: slow, maxConn: 1}, {name: full, maxConn: 1}]
---
apiVersion: meshless.dev/v1
kind: Meshlet
metadata: {namespace: shop, name: far}
spec: {server: {selector: {app: far}, services: [{name: http, maxConn: 1}]}}
---
apiVersion: v1
kind: Pod
metadata: {namespace: shop, name: web-0, labels: {meshless/meshlet: web}}
spec: {nodeName: node-a}
---
apiVersion: v1
kind: Pod
metadata: {namespace: shop, name: near-0, labels: {meshless/meshlet: near, app: near}}
spec: {nodeName: node-a}
---
apiVersion: v1
kind: Pod
metadata: {namespace: shop, name: far-0, labels: {meshless/meshlet: far, app: far}}
spec: {nodeName: node-b}
"""


def plain(service: str) -> bytes:
    """A request of version 1."""
    return bytes((1, len(service))) + service.encode()


def offering(service: str) -> bytes:
    """A request of version 2 that offers to receive a descriptor."""
    body = bytes((len(service),)) + service.encode() + b"\x05\x00\x00"
    return b"\x02" + len(body).to_bytes(2, "big") + body


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningMesh]:
    raise_open_files()
    folder = tmp_path_factory.mktemp("kill")
    site = folder / "site"
    site.mkdir()
    install(site, "acme_thinking", SLOW, "thinking")
    config = "agent: {authorize_timeout: 1m, connect_timeout: 1m, endpoint_timeout: 1m}\n" + plugins(
        *DEFAULT_PLUGINS, "thinking"
    )
    with RunningMesh(folder, OBJECTS, config=config, environment={"PYTHONPATH": str(site)}) as running:
        yield running


@contextlib.contextmanager
def process(module: object, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """A client or server that has got where it was told to go."""
    program = Path(str(module.__file__))  # type: ignore[attr-defined] # a module
    running = subprocess.Popen([sys.executable, "-I", str(program), *arguments], stdout=subprocess.PIPE, text=True)
    assert running.stdout is not None
    try:
        assert running.stdout.readline() == "there\n"
        yield running
    finally:
        running.kill()
        running.wait()
        running.stdout.close()


@pytest.fixture(autouse=True)
def servers(mesh: RunningMesh) -> Iterator[dict[str, subprocess.Popen[str]]]:
    """An echo in both pods."""
    with contextlib.ExitStack() as stack:
        yield {
            pod: stack.enter_context(process(kill_server, str(mesh.pod(f"{pod}-0") / "server" / "http")))
            for pod in ("near", "far")
        }


class Held:
    """What both agents hold for connections; idle tunnel sessions are kept on purpose and not counted."""

    def __init__(self, mesh: RunningMesh) -> None:
        self._agents = list(mesh.agents.values())
        for agent in self._agents:
            until(partial(self._is_idle, agent), f"{agent.name} is idle")
        self._before = [self._descriptors(agent) for agent in self._agents]

    @classmethod
    def _is_idle(cls, agent: AgentView) -> bool:
        return not cls._busy(agent)

    @staticmethod
    def _busy(agent: AgentView) -> float:
        active = agent.metric("meshless_tunnel_sessions", state="active")
        return len(agent.connections()) + active + agent.metric("meshless_handshakes_pending")

    @staticmethod
    def _descriptors(agent: AgentView) -> int:
        return len(agent.descriptors()) - int(agent.metric("meshless_tunnel_sessions", state="idle"))

    def any(self) -> float:
        """How much more than before."""
        more = [self._descriptors(agent) - before for agent, before in zip(self._agents, self._before, strict=True)]
        return max(*more, *map(self._busy, self._agents))

    def is_given_back(self, but: int = 0) -> None:
        """Nothing is held in time, except for as many descriptors."""
        clock = RunTime(agent.pid for agent in self._agents)
        until(lambda: self.any() <= but, lambda: f"everything is given back: {self.any()} more", WITHIN, clock)


def dial_once(mesh: RunningMesh, service: str) -> None:
    """A slot is free: a connection can be made, and carries a byte."""
    with process(kill_client, mesh.client_path("web-0"), plain(service).hex(), "established"):
        pass


STAGES = {
    "before-the-request": (b"", "sent"),
    "in-the-request": (offering("http.near.shop")[:9], "sent"),
    "while-deciding": (offering("slow.near.shop"), "sent"),
    "while-connecting": (offering("full.near.shop"), "sent"),
    "before-the-reply-is-read": (offering("http.near.shop"), "unread"),
    "before-the-descriptor-is-read": (offering("http.near.shop"), "replied"),
    "handed-over": (offering("http.near.shop"), "handed-over"),
    "relayed": (plain("http.near.shop"), "established"),
    "through-a-tunnel": (plain("http.far.shop"), "established"),
}


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES)
def test_a_client_that_is_killed_leaves_nothing(mesh: RunningMesh, stage: str) -> None:
    request, how_far = STAGES[stage]
    for service in ("http.near.shop", "http.far.shop"):
        dial_once(mesh, service)  # what is made once, tunnel session and kept socket file, is made now
    with contextlib.ExitStack() as stack:
        if stage == "while-connecting":
            listener = stack.enter_context(socket.socket(socket.AF_UNIX))
            path = mesh.pod("near-0") / "server" / "full"
            path.unlink(missing_ok=True)
            listener.bind(str(path))
            path.chmod(0o666)
            listener.listen(0)
            stack.enter_context(socket.socket(socket.AF_UNIX)).connect(str(path))  # and the backlog is full
        held = Held(mesh)
        with process(kill_client, mesh.client_path("web-0"), request.hex(), how_far) as client:
            until(lambda: held.any() > 0, "the agents hold something for the client")
            client.kill()
            client.wait()
            if stage == "while-connecting":
                # the application's socket file is opened once and kept for the next connect
                held.is_given_back(but=1)
            else:
                held.is_given_back()
    dial_once(mesh, "http.near.shop")
    dial_once(mesh, "http.far.shop")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("pod", "request_bytes", "how_far"),
    [
        pytest.param("near", offering("http.near.shop"), "handed-over", id="handed-over-and-the-client-keeps-everything"),
        pytest.param("near", plain("http.near.shop"), "established", id="relayed-and-the-client-keeps-everything"),
        pytest.param("far", plain("http.far.shop"), "established", id="through-a-tunnel-and-the-client-keeps-everything"),
        pytest.param("far", plain("http.far.shop"), "reading", id="through-a-tunnel-and-the-client-reads"),
    ],
)
def test_a_server_that_is_killed_leaves_nothing(
    mesh: RunningMesh, servers: dict[str, subprocess.Popen[str]], pod: str, request_bytes: bytes, how_far: str
) -> None:
    dial_once(mesh, f"http.{pod}.shop")
    held = Held(mesh)
    with process(kill_client, mesh.client_path("web-0"), request_bytes.hex(), how_far):
        until(lambda: held.any() > 0, "the agents hold something for the client")
        servers[pod].kill()
        servers[pod].wait()
        held.is_given_back()
        with process(kill_server, str(mesh.pod(f"{pod}-0") / "server" / "http")):
            dial_once(mesh, f"http.{pod}.shop")


@pytest.mark.slow
@pytest.mark.parametrize("pod", ["near", "far"])
def test_a_client_that_is_killed_leaves_nothing_to_a_server_that_does_not_look(
    mesh: RunningMesh, servers: dict[str, subprocess.Popen[str]], pod: str
) -> None:
    dial_once(mesh, f"http.{pod}.shop")
    servers[pod].kill()
    servers[pod].wait()
    path = str(mesh.pod(f"{pod}-0") / "server" / "http")
    with process(kill_server, path, "deaf"):
        with process(kill_client, mesh.client_path("web-0"), plain(f"http.{pod}.shop").hex(), "accepted"):
            pass  # the server's new socket file is found now
        held = Held(mesh)
        with process(kill_client, mesh.client_path("web-0"), plain(f"http.{pod}.shop").hex(), "accepted") as client:
            until(lambda: held.any() > 0, "the agents hold something for the client")
            client.kill()
            client.wait()
            held.is_given_back()


@pytest.mark.slow
def test_handed_over_connections_go_on_when_the_agent_is_killed_and_the_next_one_serves(mesh: RunningMesh) -> None:
    agent = mesh.agent("node-a")
    lease = socket.socket(socket.AF_UNIX)
    with lease:
        lease.settimeout(30)
        lease.connect(mesh.client_path("web-0"))
        lease.sendall(offering("http.near.shop"))
        header = lease.recv(4, socket.MSG_WAITALL)
        assert header[:2] == b"\2\0"
        lease.recv(int.from_bytes(header[2:], "big"), socket.MSG_WAITALL)
        _, (descriptor,), _, _ = socket.recv_fds(lease, 1, 1)
        with socket.socket(fileno=descriptor) as connection:
            connection.settimeout(30)
            (row,) = agent.connections()
            assert (row["transport"], row["bytes_to_service"]) == ("handoff", 0)

            killed = agent.kill()
            assert lease.recv(1) == b"", "the client learns that its lease is over"
            for _ in range(100):
                connection.sendall(b"x" * 1000)
                assert len(connection.recv(1000, socket.MSG_WAITALL)) == 1000

            until(lambda: agent.ready and agent.pid != killed, "the next agent serves")
            dial_once(mesh, "http.near.shop")  # it counts from zero: nobody told it of the connection
            held = Held(mesh)
            connection.sendall(b"still")
            assert connection.recv(5, socket.MSG_WAITALL) == b"still"
    held.is_given_back()


@pytest.mark.slow
def test_killing_many_clients_at_once_gives_everything_back(mesh: RunningMesh) -> None:
    generation = mesh.agent("node-a").metric("meshless_config_generation")
    mesh.edit(OBJECTS.replace("{name: http, maxConn: 1}", "{name: http, maxConn: 20}"))
    until(lambda: mesh.agent("node-a").metric("meshless_config_generation") > generation, "the agent knows of the new limit")
    dial_once(mesh, "http.near.shop")
    held = Held(mesh)
    with contextlib.ExitStack() as stack:
        clients = []
        for number in range(20):
            request, how_far = STAGES[("handed-over", "relayed")[number % 2]]
            arguments = (mesh.client_path("web-0"), request.hex(), how_far)
            clients.append(stack.enter_context(process(kill_client, *arguments)))
        assert len(mesh.agent("node-a").connections()) == 20
        for client in clients:
            client.kill()
        for client in clients:
            client.wait()
        held.is_given_back()
