from __future__ import annotations

import os
import re
import signal
import socket
import stat
from pathlib import Path
from typing import Any

import pytest

from meshless_core.handshake import ClientHandshake, Established
from meshless_core.types import ServiceId


def started(meshless: Any, pod: Path, address: str = "tcp:127.0.0.1:0") -> tuple[Any, str]:
    proxy = meshless("proxy", "--pod-dir", str(pod), address)
    match = re.fullmatch(rf"listening on (\S+), joined with the agent at {pod}/client/meshless\n", proxy.line())
    assert match
    return proxy, match[1]


def connected(address: str) -> socket.socket:
    if address.startswith("unix:"):
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(address.removeprefix("unix:"))
    else:
        host, _, port = address.removeprefix("tcp:").rpartition(":")
        connection = socket.create_connection((host, int(port)))
    connection.settimeout(20)
    return connection


def stopped(proxy: Any) -> list[str]:
    """Stop it with Ctrl-C; its log lines, in whatever form the command line logs."""
    proxy.process.send_signal(signal.SIGINT)
    status, out, err = proxy.ends()
    assert (status, out) == (0, b"")
    lines: list[str] = err.splitlines()
    return lines


@pytest.mark.parametrize("kind", ["tcp", "unix"])
def test_the_client_itself_shakes_hands_and_half_close_passes(
    agent: Any, pod: Path, service: socket.socket, meshless: Any, kind: str
) -> None:
    proxy, address = started(meshless, pod, "tcp:127.0.0.1:0" if kind == "tcp" else f"unix:{pod}/local")
    with connected(address) as client:
        handshake = ClientHandshake(ServiceId("http", "cart", "shop"))
        client.sendall(handshake.request)
        assert isinstance(handshake.receive_data(client.recv(handshake.wanted)), Established)
        connection, _ = service.accept()
        with connection:
            client.sendall(b"question")
            client.shutdown(socket.SHUT_WR)
            assert connection.makefile("rb").read() == b"question"
            connection.sendall(b"answer")
            connection.shutdown(socket.SHUT_WR)
            assert client.makefile("rb").read() == b"answer"
    assert stopped(proxy) == []
    assert agent.dialled == ["http.cart.shop"]


def test_an_absent_agent_is_logged_and_the_connection_reset(pod: Path, meshless: Any) -> None:
    proxy, address = started(meshless, pod)
    with connected(address) as client, pytest.raises(ConnectionResetError):
        client.recv(1)
    (line,) = stopped(proxy)
    assert "there is no such socket; check --pod-dir" in line


def test_a_path_is_for_its_owner_only_and_is_removed(agent: Any, pod: Path, meshless: Any) -> None:
    proxy, _ = started(meshless, pod, f"unix:{pod}/local")
    assert stat.S_IMODE((pod / "local").stat().st_mode) == 0o600
    stopped(proxy)
    assert not os.path.lexists(pod / "local")


def test_an_address_others_can_reach_is_warned_about(agent: Any, pod: Path, meshless: Any) -> None:
    proxy, _ = started(meshless, pod, "tcp:0.0.0.0:0")
    (line,) = stopped(proxy)
    assert "can be reached from other machines" in line


def test_a_taken_address_is_an_error_that_names_it(pod: Path, meshless: Any) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"tcp:127.0.0.1:{taken.getsockname()[1]}"
        status, _, err = meshless("proxy", "--pod-dir", str(pod), address).ends()
    assert status == 1
    assert address in err
