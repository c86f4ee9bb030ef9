from __future__ import annotations

import signal
import socket
from pathlib import Path
from typing import Any

import pytest

from meshless_core.types import ReplyCode


def test_input_goes_to_the_service_and_its_answer_to_the_output(
    agent: Any, pod: Path, service: socket.socket, meshless: Any
) -> None:
    client = meshless("connect", "--pod-dir", str(pod), "http.cart.shop")
    assert client.process.stdin.write(b"question") == 8
    client.process.stdin.close()
    connection, _ = service.accept()
    with connection:
        assert connection.makefile("rb").read() == b"question"
        connection.sendall(b"answer")
    assert client.process.stdout.read() == b"answer"
    assert client.process.wait(20) == 0
    assert agent.dialled == ["http.cart.shop"]


def test_a_refusal_prints_the_code_and_exits_with_1(agent: Any, pod: Path, meshless: Any) -> None:
    agent.refuse_with = ReplyCode.ACCESS_DENIED
    status, out, err = meshless("connect", "--pod-dir", str(pod), "http.cart.shop").ends(b"")
    assert (status, out) == (1, b"")
    assert err == "refused: ACCESS_DENIED (4): a policy said no; the client may not retry\n"


def test_without_an_agent_it_exits_with_3(pod: Path, meshless: Any) -> None:
    status, out, err = meshless("connect", "--pod-dir", str(pod), "http.cart.shop").ends(b"")
    assert (status, out) == (3, b"")
    assert err == (
        f"error: cannot reach the agent at {pod}/client/meshless: there is no such socket; "
        "check --pod-dir, --socket or MESHLESS_DIR\n"
    )


@pytest.mark.parametrize("text", ["cart", "HTTP.cart.shop", ""])
def test_a_bad_service_id_is_wrong_usage(meshless: Any, text: str) -> None:
    status, _, err = meshless("connect", text).ends(b"")
    assert status == 2
    assert "is not a service id: write <service>.<meshlet>.<namespace>, each a DNS label" in err


def test_the_socket_and_the_environment_say_where_the_agent_is(
    agent: Any, pod: Path, meshless: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent.refuse_with = ReplyCode.NOT_READY
    monkeypatch.setenv("MESHLESS_DIR", str(pod))
    assert meshless("connect", "http.cart.shop").ends(b"")[0] == 1
    monkeypatch.setenv("MESHLESS_DIR", "/nowhere")
    assert meshless("connect", "--socket", str(pod / "client" / "meshless"), "http.cart.shop").ends(b"")[0] == 1


def test_ctrl_c_exits_with_130(agent: Any, pod: Path, service: socket.socket, meshless: Any) -> None:
    client = meshless("connect", "--pod-dir", str(pod), "http.cart.shop")
    connection, _ = service.accept()
    with connection:
        connection.sendall(b"hello")
        assert client.process.stdout.read(5) == b"hello"  # it is past its start
        client.process.send_signal(signal.SIGINT)
        assert connection.recv(1) == b""
    status, out, err = client.ends()
    assert (status, out, err.strip()) == (130, b"", "interrupted")
