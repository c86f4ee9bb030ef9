"""From the complete request to the relay: what may change meanwhile, and what may fail."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from meshless_core.config import Seconds
from meshless_core.hookspecs import HandshakeRequest, ReplyDetails
from meshless_core.types import AuthorizationRequest, Decision, ReplyCode, ServiceId, Verdict

MakeMesh = Callable[..., Awaitable[Any]]

BOTH = pytest.mark.parametrize("node", ["node-a", "node-b"], ids=["same-node", "cross-node"])
DECLARED = "spec: {client: [{namespace: shop, meshlet: cart, service: http}]}"


@contextlib.contextmanager
def _full(path: Path) -> Any:
    """A service whose backlog is full; gives the listener."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK))
        listener.bind(str(path))
        listener.listen(0)
        with contextlib.suppress(BlockingIOError):
            while True:
                one = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK))
                one.connect(str(path))
        yield listener


@BOTH
async def test_what_is_taken_back_while_the_service_is_busy_is_denied(
    make_mesh: MakeMesh, shop: Callable[[str], str], node: str
) -> None:
    mesh = await make_mesh(cart_on=node)
    with _full(mesh.server_path()) as listener:
        client = await mesh.open()
        agent = mesh.agents[node]
        async with asyncio.timeout(20):
            while not (agent.runtime.establishing or agent.inbound.active):
                await asyncio.sleep(0.005)
        await mesh.apply(shop(node).replace(DECLARED, "spec: {}"))
        with contextlib.suppress(BlockingIOError):
            while True:
                listener.accept()[0].close()
        assert await mesh.verdict(client) is ReplyCode.ACCESS_DENIED
        client.close()


class Gate:
    """Answers by what is declared, once it is open."""

    def __init__(self) -> None:
        self.asked = threading.Event()
        self.open = threading.Event()

    async def authorize(self, request: AuthorizationRequest) -> Decision:
        self.asked.set()
        await asyncio.to_thread(self.open.wait, 5)
        return Decision(Verdict.ALLOW if request.declared else Verdict.DENY, "gate", "by declaration")


async def test_an_answer_about_older_documents_opens_nothing(make_mesh: MakeMesh, shop: Callable[[str], str]) -> None:
    gate = Gate()
    mesh = await make_mesh(authorizers=[("gate", gate)], settings={"authorize_timeout": Seconds(10.0)})
    with _full(mesh.server_path()) as listener:
        with contextlib.suppress(BlockingIOError):
            while True:
                listener.accept()[0].close()
        client = await mesh.open()
        assert await asyncio.to_thread(gate.asked.wait, 5)
        await mesh.apply(shop("node-a").replace(DECLARED, "spec: {}"))
        gate.open.set()
        assert await mesh.verdict(client) is ReplyCode.ACCESS_DENIED
        client.close()


async def test_the_deadline_counts_while_authorizers_think(make_mesh: MakeMesh) -> None:
    gate = Gate()
    mesh = await make_mesh(
        authorizers=[("gate", gate)], settings={"authorize_timeout": Seconds(60.0), "connect_timeout": Seconds(0.1)}
    )
    async with asyncio.timeout(20):
        assert await mesh.refusal() is ReplyCode.TIMEOUT
    assert mesh.agents["node-a"].runtime.establishing == 0
    gate.open.set()


class Handshake:
    """One byte asks for the cart; its properties may fail."""

    failing = ""

    @property
    def trailing_data(self) -> bytes:
        answer: bytes = self._answer("trailing_data", b"")
        return answer

    @property
    def filtering(self) -> bool:
        answer: bool = self._answer("filtering", True)
        return answer

    def _answer(self, name: str, value: Any) -> Any:
        if name == self.failing:
            raise RuntimeError(f"{name} is broken")
        return value

    def receive_data(self, data: bytes) -> HandshakeRequest:
        return HandshakeRequest(ServiceId("http", "cart", "shop"), accepts_descriptor=self.failing == "trailing_data")

    def reply(self, code: ReplyCode, text: str = "", details: ReplyDetails | None = None) -> bytes:
        return bytes((1, code))

    def notice(self, kind: str, text: str = "") -> bytes:
        return b""

    def filter_data(self, data: bytes) -> bytes:
        return data


@BOTH
@pytest.mark.parametrize("failing", ["trailing_data", "filtering"])
async def test_a_handshake_that_fails_at_the_end_leaves_no_slot_and_no_connection(
    make_mesh: MakeMesh, node: str, failing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Handshake, "failing", failing)
    mesh = await make_mesh(cart_on=node)
    for agent in mesh.agents.values():
        agent.runtime.handshakes[0x7F] = Handshake
    with _full(mesh.server_path()) as listener:
        with contextlib.suppress(BlockingIOError):
            while True:
                listener.accept()[0].close()
        client = await mesh.open(request=b"\x7f")
        await mesh.verdict(client)
        async with asyncio.timeout(20):
            assert await asyncio.get_running_loop().sock_recv(client, 1) == b""
            runtimes = [agent.runtime for agent in mesh.agents.values()]
            while any(len(runtime.slots) + len(runtime.connections) for runtime in runtimes):
                await asyncio.sleep(0.005)
        client.close()


async def test_a_refused_client_that_has_sent_much_already_reads_its_reply_and_then_the_end(make_mesh: MakeMesh) -> None:
    mesh = await make_mesh()
    client = await mesh.open(request=b"")
    sent = client.send(b"\x01\x0ehttp.cart.shop" + bytes(1 << 20))
    assert sent > 100_000, "as much as the socket takes"
    assert await mesh.verdict(client) is ReplyCode.SERVICE_REFUSED
    assert await asyncio.get_running_loop().sock_recv(client, 1) == b"", "not a reset"
    client.close()
