"""A mesh of real parts in one event loop: real sockets, real TLS, real documents; only the processes are missing."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
import pytest
import yaml

from meshless_core.agent.agent import Agent, AgentParts
from meshless_core.bus import InProcessBus
from meshless_core.config import AgentSettings, Config, PluginSetting, Seconds
from meshless_core.dev.ports import ReservedPort
from meshless_core.documents_codec import decode_document
from meshless_core.hookspecs import DiscoverySnapshot
from meshless_core.identity import CertificateAuthority, IssuerClient, IssuerServer, bind_issuer_socket
from meshless_core.plugins import load_plugins
from meshless_core.reconciler import Reconciler
from meshless_core.relay import DataPathLoop
from meshless_core.socketd import PodDirectories, SocketdServer, follow_manifest
from meshless_core.types import ReplyCode


def pytest_asyncio_loop_factories() -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """The loop an agent runs in."""
    return {"data path": DataPathLoop}


PLUGINS = (
    "handshake_v1",
    "handshake_v2",
    "handshake_socks5",
    "handshake_http",
    "policy_declared",
    "canary_weighted",
    "transport_tls",
)

SHOP = """
apiVersion: meshless.dev/v1
kind: Meshlet
metadata: {namespace: shop, name: web}
spec: {client: [{namespace: shop, meshlet: cart, service: http}]}
---
apiVersion: meshless.dev/v1
kind: Meshlet
metadata: {namespace: shop, name: cart}
spec:
  server:
    selector: {app: cart}
    services: [{name: http}]
---
apiVersion: v1
kind: Pod
metadata: {namespace: shop, name: web-0, uid: web-0-uid, labels: {meshless/meshlet: web}}
spec: {nodeName: node-a}
---
apiVersion: v1
kind: Pod
metadata: {namespace: shop, name: cart-0, uid: cart-0-uid, labels: {meshless/meshlet: cart, app: cart, version: v1}}
spec: {nodeName: CART_NODE}
"""


class Objects:
    """A discovery whose objects a test sets."""

    def __init__(self, text: str) -> None:
        self._snapshot = self._read(text)
        self._changed = asyncio.Event()

    @staticmethod
    def _read(text: str) -> DiscoverySnapshot:
        objects = [one for one in yaml.safe_load_all(text) if one]
        return DiscoverySnapshot(objects, [""] * len(objects))

    def set(self, text: str) -> None:
        self._snapshot = self._read(text)
        self._changed.set()

    async def watch(self) -> AsyncIterator[DiscoverySnapshot]:
        while True:
            yield self._snapshot
            await self._changed.wait()
            self._changed.clear()


class Mesh:
    """A running mesh."""

    def __init__(self, folder: Path, text: str, nodes: Sequence[str], settings: Mapping[str, Any], authorizers: Any) -> None:
        self.folder = folder
        self.text = text
        self._nodes = nodes
        self._settings = settings
        self._authorizers = authorizers
        self.objects = Objects(text)
        self.bus = InProcessBus()
        self.agents: dict[str, Agent] = {}
        self.socketds: dict[str, SocketdServer] = {}
        self.lines: list[str] = []
        self._stack = contextlib.AsyncExitStack()
        self._servers: list[asyncio.Server] = []

    async def start(self) -> None:
        self.authority = CertificateAuthority.create(self.folder / "ca", "mesh.local")
        self.issuer = IssuerServer(self.authority, lambda node: self.socketds[node].meshlets)
        await self.issuer.start()
        self._stack.push_async_callback(self.issuer.stop)
        ports = {node: ReservedPort() for node in self._nodes}
        for port in ports.values():
            self._stack.callback(port.release)
        self.addresses = {node: port.address for node, port in ports.items()}
        self.reconciler = Reconciler(self.objects, self.bus, self.addresses, state_dir=self.folder / "reconciler")
        await self.reconciler.start()
        self._stack.push_async_callback(self.reconciler.stop)
        for node in self._nodes:
            await self.start_socketd(node)
            await self.start_agent(node)
        await self.ready()

    async def start_socketd(self, node: str) -> None:
        socketd = SocketdServer(node, PodDirectories(self.folder / "pods"), self.folder / node / "socketd.sock")
        self.socketds[node] = socketd
        await socketd.start()
        self._stack.push_async_callback(socketd.stop)
        following = asyncio.create_task(follow_manifest(node, self.bus, socketd))
        self._stack.push_async_callback(_cancel, following)
        if node not in self.agents:
            self.issuer.add_node(node, bind_issuer_socket(self.folder / node / "issuer.sock"))

    async def start_agent(self, node: str) -> None:
        plugins = load_plugins(Config(plugins=tuple(map(PluginSetting, PLUGINS))))
        parts = AgentParts(
            authorizers=self._authorizers if self._authorizers is not None else plugins.authorizers(),
            canary=plugins.canary(),
            handshakes=plugins.handshakes(),
            handshake_names=plugins.handshake_names(),
            transport=plugins.transport,
            bus=self.bus,
            plugins=[{"kind": one.kind, "name": one.name} for one in plugins.registrations],
        )
        settings = attrs.evolve(
            AgentSettings(
                state_dir=str(self.folder / node / "state"),
                tunnel_address=self.addresses[node],
                admin=f"unix:{self.folder / node / 'admin.sock'}",
                drain_timeout=Seconds(0.2),
            ),
            **self._settings,
        )
        agent = Agent(
            node,
            trust_domain="mesh.local",
            settings=settings,
            parts=parts,
            socketd=self.folder / node / "socketd.sock",
            issuer=IssuerClient(self.folder / node / "issuer.sock"),
            write_access_log=self.lines.append,
        )
        self.agents[node] = agent
        await agent.start()

    async def ready(self) -> None:
        async with asyncio.timeout(20):
            await self.reconciler.settled()
            for node, agent in self.agents.items():
                while agent.runtime.table is None or not agent.serving:
                    await asyncio.sleep(0.005)
                await self.socketds[node].wait_served()
                await agent.leaves.ready()

    async def apply(self, text: str) -> None:
        """Change the objects and wait until every agent has compiled the result."""
        before = {node: agent.runtime.table for node, agent in self.agents.items()}
        self.objects.set(text)
        async with asyncio.timeout(20):
            while all(agent.runtime.table is before[node] for node, agent in self.agents.items()):
                await asyncio.sleep(0.005)
            await self.reconciler.settled()
            while not all(map(self._is_up_to_date, self.agents.values())):
                await asyncio.sleep(0.005)
        await self.ready()

    def _is_up_to_date(self, agent: Agent) -> bool:
        """Whether what is on the bus is in force."""
        for topic, document in agent.documents.documents.items():
            payload = self.bus._values.get(topic)
            if payload is None or decode_document(topic, payload) != document:
                return False
        return not agent.documents.behind

    def server_path(self, pod: str = "cart-0", service: str = "http") -> Path:
        return self.folder / "pods" / "shop" / pod / "server" / service

    async def serve(self, handler: Callable[..., Awaitable[None]], pod: str = "cart-0", service: str = "http") -> None:
        server = await asyncio.start_unix_server(handler, self.server_path(pod, service))
        self._servers.append(server)

    async def open(self, pod: str = "web-0", request: bytes = b"\x01\x0ehttp.cart.shop") -> socket.socket:
        """A connected client socket that has sent its request."""
        client = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        client.connect(str(self.folder / "pods" / "shop" / pod / "client" / "meshless"))
        if request:
            await asyncio.get_running_loop().sock_sendall(client, request)
        return client

    async def verdict(self, client: socket.socket) -> ReplyCode:
        """Read the reply."""
        async with asyncio.timeout(15):
            reply = b""
            while len(reply) < 2:
                data = await asyncio.get_running_loop().sock_recv(client, 2 - len(reply))
                assert data, f"closed after {reply!r}: the agent always replies"
                reply += data
        assert reply[0] == 1
        return ReplyCode(reply[1])

    async def dial(self, pod: str = "web-0") -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """An established connection."""
        client = await self.open(pod)
        assert await self.verdict(client) is ReplyCode.OK
        return await asyncio.open_unix_connection(sock=client)

    async def refusal(self, pod: str = "web-0", request: bytes = b"\x01\x0ehttp.cart.shop") -> ReplyCode:
        """The code of a connection that is refused; checks that it is closed after it."""
        client = await self.open(pod, request)
        try:
            code = await self.verdict(client)
            assert await asyncio.get_running_loop().sock_recv(client, 1) == b"" or code is ReplyCode.OK
            return code
        finally:
            client.close()

    async def stop(self) -> None:
        for server in self._servers:
            server.close()
        for agent in self.agents.values():
            await agent.stop()
        await self._stack.aclose()


async def _cancel(task: asyncio.Task[None]) -> None:
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


@pytest.fixture
def shop() -> Callable[[str], str]:
    """The objects of the example with the cart's pod on the given node."""
    return lambda node: SHOP.replace("CART_NODE", node)


@pytest.fixture
async def make_mesh(tmp_path: Path) -> AsyncIterator[Callable[..., Awaitable[Mesh]]]:
    """Start meshes; they are stopped after the test."""
    meshes: list[Mesh] = []

    async def make(
        text: str = "", *, cart_on: str = "node-a", settings: Mapping[str, Any] | None = None, authorizers: Any = None
    ) -> Mesh:
        mesh = Mesh(tmp_path, text or SHOP.replace("CART_NODE", cart_on), ("node-a", "node-b"), settings or {}, authorizers)
        meshes.append(mesh)
        await mesh.start()
        return mesh

    yield make
    for mesh in meshes:
        await mesh.stop()
