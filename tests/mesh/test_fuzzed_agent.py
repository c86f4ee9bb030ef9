"""The fuzzer's inputs at a real agent: whatever a client sends, it is answered, and no service gets a byte before a yes.

`MESHLESS_FUZZ_INPUTS` says how many; `tests/protocol/fuzz_handshakes.py` feeds millions to the handshakes alone.
"""

from __future__ import annotations

import contextlib
import os
import random
import socket
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from meshless_core import HandshakeRequest
from tests.mesh.running_mesh import AgentView, RunningMesh, until
from tests.protocol.fuzz_handshakes import installed, judge, pieces, says_yes
from tests.protocol.fuzz_inputs import draw, seeds
from tests.protocol.second_readers import misread

INPUTS = int(os.environ.get("MESHLESS_FUZZ_INPUTS", "2500"))
CART = "http.cart.shop"

OBJECTS = """
apiVersion: meshless.dev/v1
kind: Meshlet
metadata: {namespace: shop, name: web}
spec: {client: [{namespace: shop, meshlet: cart, service: http}]}
---
apiVersion: meshless.dev/v1
kind: Meshlet
metadata: {namespace: shop, name: cart}
spec: {server: {selector: {app: cart}, services: [{name: http}]}}
---
apiVersion: meshless.dev/v1
kind: Meshlet
metadata: {namespace: shop, name: bank}
spec: {server: {selector: {app: bank}, services: [{name: tls}]}}
---
apiVersion: v1
kind: Pod
metadata: {namespace: shop, name: web-0, labels: {meshless/meshlet: web}}
spec: {nodeName: node-a}
---
apiVersion: v1
kind: Pod
metadata: {namespace: shop, name: cart-0, labels: {meshless/meshlet: cart, app: cart}}
spec: {nodeName: NODE}
---
apiVersion: v1
kind: Pod
metadata: {namespace: shop, name: bank-0, labels: {meshless/meshlet: bank, app: bank}}
spec: {nodeName: NODE}
"""


class Recorder:
    """A service that says nothing, reads to the end, and remembers what each connection brought; one after the other."""

    def __init__(self, path: Path) -> None:
        self._brought: list[bytes] = []
        self._settled = threading.Semaphore(0)
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        path.chmod(0o666)
        self._listener.listen(64)
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            connection, _ = self._listener.accept()
            with connection:
                data = bytearray()
                with contextlib.suppress(ConnectionResetError):
                    while part := connection.recv(65536):
                        data += part
            if data == b"the end":
                return
            if data == b"so far":
                self._settled.release()
            else:
                self._brought.append(bytes(data))

    def _say(self, what: bytes) -> None:
        with socket.socket(socket.AF_UNIX) as ours:
            ours.connect(self._listener.getsockname())
            ours.sendall(what)

    def brought(self) -> list[bytes]:
        """What came since the last call: a backlog is served in order, so behind our own connection nothing is missing."""
        self._say(b"so far")
        assert self._settled.acquire(timeout=30)
        brought, self._brought = self._brought, []
        return brought

    def close(self) -> None:
        self._say(b"the end")
        self._thread.join()
        self._listener.close()


def ask(path: str, dice: random.Random, data: bytes) -> bytes:
    """Send `data` in pieces and the end of file; everything that is answered until the end."""
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(30)
        client.connect(path)
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # refused already: the answer is there to read
            for piece in [data] if dice.random() < 0.5 or len(data) > 2000 else pieces(dice, data):
                client.sendall(piece)
            client.shutdown(socket.SHUT_WR)
        answer = bytearray()
        with contextlib.suppress(ConnectionResetError):
            while part := client.recv(65536):
                answer += part
        return bytes(answer)


@pytest.fixture(params=["node-a", "node-b"], ids=["same-node", "cross-node"])
def mesh(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[RunningMesh]:
    with RunningMesh(tmp_path, OBJECTS.replace("NODE", request.param)) as running:
        yield running


@pytest.mark.slow
@pytest.mark.timeout(max(120, INPUTS / 10))
def test_every_client_is_answered_and_no_service_gets_a_byte_before_a_yes(mesh: RunningMesh) -> None:
    factories, starts = installed(), seeds()
    cart = Recorder(mesh.pod("cart-0") / "server" / "http")
    bank = Recorder(mesh.pod("bank-0") / "server" / "tls")
    path = mesh.client_path("web-0")
    connected = 0
    late = 0  # refused for their short deadline: behind a tunnel the connection to the service may still come, without a byte
    try:
        for number in range(INPUTS):
            dice = random.Random(number)  # its own: how many pieces a client gets rid of before a refusal depends on time
            data = draw(dice, starts) or b"\0"
            answer = ask(path, dice, data)
            came = cart.brought()
            at = f"number {number}, input {data[:500]!r}, answer {answer[:300]!r}, the service got {came}"
            assert answer or came, f"a silent close: {at}"
            outcome, what, behind = "error", None, b""
            if data[0] in factories:
                outcome, what, behind = judge(factories[data[0]](), iter((data,)), end=True)
            request = what if isinstance(what, HandshakeRequest) else None
            asked = request is not None and str(request.service_id) == CART
            hurried = request is not None and request.timeout is not None and request.timeout < 1
            if late and len(came) > asked and not came[0]:
                late -= 1
                del came[0]
            if asked and hurried and not came:
                late += 1
            assert len(came) <= (data[0] in factories), at
            assert came or hurried or not asked, at
            connected += len(came)
            for brought in came:
                if data[0] < ord("A") or data.startswith(b"CONNECT "):
                    assert request is not None, at
                    assert asked, at
                    assert behind.startswith(brought), at
                    assert says_yes(answer) or not brought, at
                    assert brought == behind or hurried or request.accepts_descriptor, at
                else:  # cut at a request that must not pass, or when it was read in pieces before that one came
                    assert outcome in ("request", "error"), at
                    assert data.startswith(brought), at
                    assert misread(brought, CART) is None, at
        assert not bank.brought()
        assert connected > INPUTS / 50, f"only {connected} of {INPUTS} inputs got through to the service"
        for agent in mesh.agents.values():
            until(partial(_is_empty, agent), "no connection is left")
            assert agent.metric("meshless_handshakes_pending") == 0
    finally:
        cart.close()
        bank.close()


def _is_empty(agent: AgentView) -> bool:
    return not agent.connections()
