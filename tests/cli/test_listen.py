from __future__ import annotations

import os
import signal
import socket
import stat
from pathlib import Path
from typing import Any

import pytest


def started(meshless: Any, pod: Path, *arguments: str) -> Any:
    server = meshless("listen", "--pod-dir", str(pod), *arguments)
    assert server.line("stderr") == f"listening on unix:{pod}/server/http\n"
    assert stat.S_IMODE((pod / "server" / "http").stat().st_mode) == 0o666
    return server


def stopped(server: Any, pod: Path, number: int = signal.SIGTERM) -> str:
    server.process.send_signal(number)
    status, _, err = server.ends()
    assert status == 0
    assert os.listdir(pod / "server") == []
    return str(err)


def test_one_connection_is_joined_with_the_standard_streams(pod: Path, meshless: Any, dial_as_agent: Any) -> None:
    server = started(meshless, pod, "http")
    with dial_as_agent("http") as client:
        client.sendall(b"question")
        client.shutdown(socket.SHUT_WR)
        assert server.process.stdout.read() == b"question"
        server.process.stdin.write(b"answer")
        server.process.stdin.close()
        assert client.makefile("rb").read() == b"answer"
    assert server.process.wait(20) == 0
    assert os.listdir(pod / "server") == []


def test_keep_serves_one_connection_after_the_other(pod: Path, meshless: Any, dial_as_agent: Any) -> None:
    server = started(meshless, pod, "http", "--keep")
    for word in (b"one", b"two"):
        with dial_as_agent("http") as client:
            client.sendall(word)
            assert server.process.stdout.read(3) == word
    stopped(server, pod)


def test_exec_runs_a_program_for_each_connection(pod: Path, meshless: Any, dial_as_agent: Any) -> None:
    server = started(meshless, pod, "http", "--exec", "sed 's/^/> /'")
    with dial_as_agent("http") as first, dial_as_agent("http") as second:
        for client, word in ((second, b"two"), (first, b"one")):
            client.sendall(word)
            client.shutdown(socket.SHUT_WR)
            assert client.makefile("rb").read() == b"> " + word
    stopped(server, pod, signal.SIGINT)


def test_exec_ends_its_programs_with_it(pod: Path, meshless: Any, dial_as_agent: Any) -> None:
    server = started(meshless, pod, "http", "--exec", "cat")
    with dial_as_agent("http") as client:
        client.sendall(b"hello")
        assert client.recv(5) == b"hello"
        stopped(server, pod)
        assert client.recv(1) == b""


def test_a_program_that_cannot_be_run_is_told(pod: Path, meshless: Any, dial_as_agent: Any) -> None:
    server = started(meshless, pod, "http", "--exec", "/no/such/program")
    with dial_as_agent("http") as client:
        assert client.recv(1) == b""
    assert "cannot run /no/such/program: No such file or directory" in stopped(server, pod)


@pytest.mark.parametrize("kind", ["tcp", "unix"])
def test_to_relays_to_a_server_elsewhere_and_keeps_half_close(
    pod: Path, tmp_path: Path, meshless: Any, dial_as_agent: Any, kind: str
) -> None:
    if kind == "tcp":
        target = socket.create_server(("127.0.0.1", 0))
        address = f"tcp:127.0.0.1:{target.getsockname()[1]}"
    else:
        target = socket.socket(socket.AF_UNIX)
        target.bind(str(tmp_path / "s"))
        target.listen()
        address = f"unix:{tmp_path}/s"
    server = started(meshless, pod, "http", "--to", address)
    with target, dial_as_agent("http") as client:
        client.sendall(b"question")
        client.shutdown(socket.SHUT_WR)
        connection, _ = target.accept()
        with connection:
            assert connection.makefile("rb").read() == b"question"
            connection.sendall(b"answer")
        assert client.makefile("rb").read() == b"answer"
    stopped(server, pod)


def test_to_a_server_that_is_not_there_closes_and_tells(pod: Path, meshless: Any, dial_as_agent: Any) -> None:
    server = started(meshless, pod, "http", "--to", "unix:/no/such/socket")
    with dial_as_agent("http") as client:
        assert client.recv(1) == b""
    assert "cannot reach the server at unix:/no/such/socket: No such file or directory" in stopped(server, pod)


def test_a_live_server_is_left_alone(pod: Path, meshless: Any, service: socket.socket) -> None:
    status, _, err = meshless("listen", "--pod-dir", str(pod), "http").ends()
    assert (status, err) == (
        1,
        f"error: cannot listen at unix:{pod}/server/http: a live server listens there already; stop it first\n",
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["HTTP"], "'HTTP' is not a service name: write a DNS label, as in the Meshlet"),
        (["http", "--to", "nowhere"], "'nowhere' is not an address: write tcp:<host>:<port>"),
        (["http", "--to", "unix:/s", "--exec", "cat"], "--to, --exec and --keep exclude each other"),
        (["http", "--exec", "'"], "--exec: no closing quotation"),
        (["http", "--exec", " "], "--exec names no program"),
    ],
)
def test_wrong_usage_is_told_before_listening(pod: Path, meshless: Any, arguments: list[str], message: str) -> None:
    status, _, err = meshless("listen", "--pod-dir", str(pod), *arguments).ends()
    assert status == 2
    assert message in err
    assert os.listdir(pod / "server") == []
