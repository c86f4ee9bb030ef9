from __future__ import annotations

import logging
import os
import re
import signal
import socket
import stat
from pathlib import Path
from typing import Any

import pytest

from meshless_core.cli.forward import _forward
from meshless_core.types import ReplyCode, ServiceId


def started(meshless: Any, pod: Path, address: str = "tcp:127.0.0.1:0") -> tuple[Any, str]:
    forward = meshless("forward", "--pod-dir", str(pod), address, "http.cart.shop")
    match = re.fullmatch(r"listening on (\S+), forwarding to http\.cart\.shop\n", forward.line())
    assert match
    return forward, match[1]


def connected(address: str) -> socket.socket:
    if address.startswith("unix:"):
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(address.removeprefix("unix:"))
    else:
        host, _, port = address.removeprefix("tcp:").rpartition(":")
        connection = socket.create_connection((host, int(port)))
    connection.settimeout(20)
    return connection


def stopped(forward: Any) -> list[str]:
    """Stop it with Ctrl-C; its log lines, in whatever form the command line logs."""
    forward.process.send_signal(signal.SIGINT)
    status, out, err = forward.ends()
    assert (status, out) == (0, b"")
    lines: list[str] = err.splitlines()
    return lines


@pytest.mark.parametrize("kind", ["tcp", "unix"])
@pytest.mark.parametrize("first", ["client", "service"])
def test_connections_reach_the_service_with_half_close_in_either_order(
    agent: Any, pod: Path, service: socket.socket, meshless: Any, kind: str, first: str
) -> None:
    forward, address = started(meshless, pod, "tcp:127.0.0.1:0" if kind == "tcp" else f"unix:{pod}/local")
    with connected(address) as client:
        connection, _ = service.accept()
        with connection:
            one, other = (client, connection) if first == "client" else (connection, client)
            one.sendall(b"question")
            one.shutdown(socket.SHUT_WR)
            assert other.makefile("rb").read() == b"question"
            other.sendall(b"answer")
            other.shutdown(socket.SHUT_WR)
            assert one.makefile("rb").read() == b"answer"
    assert stopped(forward) == []
    assert agent.dialled == ["http.cart.shop"]


def test_a_refusal_is_logged_with_its_code_and_the_connection_is_reset(agent: Any, pod: Path, meshless: Any) -> None:
    agent.refuse_with = ReplyCode.ACCESS_DENIED
    forward, address = started(meshless, pod)
    with connected(address) as client, pytest.raises(ConnectionResetError):
        client.recv(1)
    (line,) = stopped(forward)
    assert "http.cart.shop refused: ACCESS_DENIED (4): a policy said no; the client may not retry" in line


async def test_the_log_record_of_a_refusal_carries_the_code_as_a_field(
    agent: Any, pod: Path, caplog: pytest.LogCaptureFixture
) -> None:
    agent.refuse_with = ReplyCode.NO_ENDPOINT
    near, far = socket.socketpair()
    with far:
        await _forward(ServiceId("http", "cart", "shop"), str(pod / "client" / "meshless"), near)
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    fields = vars(record)
    assert (fields["service"], fields["code"], fields["retryable"]) == ("http.cart.shop", "NO_ENDPOINT", True)


def test_an_absent_agent_is_logged_the_connection_reset_and_the_next_one_tried_again(
    pod: Path, meshless: Any, request: pytest.FixtureRequest
) -> None:
    forward, address = started(meshless, pod)
    with connected(address) as client, pytest.raises(ConnectionResetError):
        client.recv(1)
    agent = request.getfixturevalue("agent")
    agent.refuse_with = ReplyCode.NOT_READY
    with connected(address) as client, pytest.raises(ConnectionResetError):
        client.recv(1)
    absent, refused = stopped(forward)
    assert "there is no such socket" in absent
    assert "NOT_READY" in refused


def test_ctrl_c_resets_what_is_still_open(agent: Any, pod: Path, service: socket.socket, meshless: Any) -> None:
    forward, address = started(meshless, pod)
    with connected(address) as client:
        connection, _ = service.accept()
        with connection:
            client.sendall(b"hello")
            assert connection.recv(5) == b"hello"
            assert stopped(forward) == []
            with pytest.raises(ConnectionResetError):
                client.recv(1)
            assert connection.recv(1) == b""


def test_a_path_is_for_its_owner_only_and_is_removed(agent: Any, pod: Path, meshless: Any) -> None:
    forward, _ = started(meshless, pod, f"unix:{pod}/local")
    assert stat.S_IMODE((pod / "local").stat().st_mode) == 0o600
    stopped(forward)
    assert not os.path.lexists(pod / "local")


def test_an_address_that_other_machines_reach_is_warned_about(pod: Path, meshless: Any) -> None:
    forward, address = started(meshless, pod, "tcp:0.0.0.0:0")
    assert re.fullmatch(r"tcp:0\.0\.0\.0:\d+", address)
    (line,) = stopped(forward)
    assert f"{address} can be reached from other machines: whoever connects acts as this pod" in line


def test_a_port_that_is_taken_is_an_error(pod: Path, meshless: Any) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"tcp:127.0.0.1:{taken.getsockname()[1]}"
        status, out, err = meshless("forward", "--pod-dir", str(pod), address, "http.cart.shop").ends()
    assert (status, out) == (1, b"")
    assert err == f"error: cannot listen at {address}: the address is in use; choose another port, or 0 for any\n"
