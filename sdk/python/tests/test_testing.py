from __future__ import annotations

import os
import socket
import threading
from typing import Any

import meshless_sdk
import pytest
from meshless_sdk.serving import Connection, Server
from meshless_sdk.testing import FakeAgent

SERVICE = "http.cart.shop"
ONCE = meshless_sdk.Dialer(retry=meshless_sdk.Retry(1), receive_descriptors=True)

pytestmark = pytest.mark.usefixtures("watcher", "no_descriptor_leaks")


def echo(connection: socket.socket) -> None:
    while data := connection.recv(1000):
        connection.sendall(data)


def test_what_is_scripted_is_heard_and_what_is_dialled_is_kept() -> None:
    with FakeAgent() as agent:
        agent.serve(SERVICE, lambda connection: connection.sendall(b"hello"))
        with meshless_sdk.connect(SERVICE) as connection:
            assert connection.recv(10) == b"hello"
        with pytest.raises(meshless_sdk.ServiceNotFound):
            meshless_sdk.connect("sql.db.shop")
        assert [(dial.service_id, dial.handshake_version) for dial in agent.dials] == [(SERVICE, 1), ("sql.db.shop", 1)]


def test_refusals_end_when_they_are_counted_or_taken_back() -> None:
    with FakeAgent() as agent:
        agent.serve(SERVICE, echo)
        agent.refuse(SERVICE, "NO_ENDPOINT", times=1)
        with pytest.raises(meshless_sdk.NoEndpoint):
            meshless_sdk.connect(SERVICE)
        meshless_sdk.connect(SERVICE).close()
        agent.refuse(SERVICE, "DRAINING")
        with pytest.raises(meshless_sdk.Draining):
            meshless_sdk.connect(SERVICE)
        agent.allow(SERVICE)
        meshless_sdk.connect(SERVICE).close()


def test_an_unknown_code_is_a_mistake_in_the_test() -> None:
    with pytest.raises(ValueError, match="'NO' is no reply code that refuses: write one of UNSUPPORTED_VERSION"):
        FakeAgent().refuse(SERVICE, "NO")


def test_a_dial_can_be_forwarded_to_a_server_with_a_header() -> None:
    import json
    from pathlib import Path

    vectors = json.loads((Path(__file__).parents[3] / "protocol/vectors/proxy-v2.json").read_text("utf-8"))["vectors"]
    peers: list[Any] = []

    def handler(connection: Connection) -> None:
        peers.append(connection.peer)
        echo(connection.socket)

    with FakeAgent() as agent, Server(handler, "http", proxy_protocol=True) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        agent.forward(SERVICE, f"{agent.directory}/server/http", header=bytes.fromhex("".join(vectors[0]["bytes"])))
        with meshless_sdk.connect(SERVICE) as connection:
            connection.sendall(b"ping")
            connection.shutdown(socket.SHUT_WR)
            assert connection.recv(10) == b"ping"
            assert connection.recv(10) == b""
        server.request_stop()
        thread.join(10)
    assert peers[0].pod == "web-0"


def test_a_handler_that_fails_fails_the_test() -> None:
    def fail(connection: socket.socket) -> None:
        raise AssertionError("not what was expected")

    def dial() -> None:
        with FakeAgent() as agent:
            agent.serve(SERVICE, fail)
            with meshless_sdk.connect(SERVICE) as connection:
                assert connection.recv(1) == b""

    with pytest.raises(AssertionError, match="not what was expected"):
        dial()


@pytest.mark.parametrize("notice", ["drain", "revoke"])
def test_handed_over_connections_can_be_drained_and_revoked(notice: str) -> None:
    with FakeAgent(hand_over=True) as agent:
        agent.serve(SERVICE, echo)
        with ONCE.connect(SERVICE) as connection:
            connection.sendall(b"x")
            assert connection.recv(1) == b"x"
            assert getattr(agent, notice)(SERVICE, "because") == 1
            if notice == "revoke":
                assert connection.recv(1) == b""
                assert connection.revoked
            else:
                while not connection.draining:
                    pass
                connection.sendall(b"y")
                assert connection.recv(1) == b"y"


def test_the_environment_is_as_before_afterwards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MESHLESS_DIR", "/before")
    with FakeAgent() as agent:
        assert os.environ["MESHLESS_DIR"] == agent.directory
    assert os.environ["MESHLESS_DIR"] == "/before"
    assert not os.path.exists(agent.directory)
    monkeypatch.delenv("MESHLESS_DIR")
    with FakeAgent():
        pass
    assert "MESHLESS_DIR" not in os.environ


def test_a_name_that_nobody_can_dial_is_refused_when_it_is_scripted() -> None:
    with FakeAgent() as agent:
        with pytest.raises(meshless_sdk.InvalidServiceId):
            agent.serve("http.cart", print)
        with pytest.raises(meshless_sdk.InvalidServiceId):
            agent.refuse("http.cart", "NO_ENDPOINT")
