"""What stands in a pod's server folder is trusted with nothing: each obstacle is named with its cure."""

from __future__ import annotations

import errno
import os
import resource
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from meshless_core.agent.service_socket import ServiceSocketError, ServiceSockets


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "server"
    path.mkdir()
    return path


@pytest.fixture
def sockets(folder: Path) -> Iterator[ServiceSockets]:
    descriptor = os.open(folder, os.O_PATH | os.O_DIRECTORY)
    made = ServiceSockets(descriptor)
    yield made
    made.close()
    os.close(descriptor)


def _listen(path: Path, kind: int = socket.SOCK_STREAM, backlog: int = 8) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX, kind)
    listener.bind(str(path))
    if kind != socket.SOCK_DGRAM:
        listener.listen(backlog)
    return listener


def _open_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


@pytest.mark.parametrize("made", ["socket", "symlink", "file", "nothing"])
def test_only_a_socket_of_that_name_is_one(folder: Path, sockets: ServiceSockets, made: str) -> None:
    with _listen(folder / "real"):
        match made:
            case "socket":
                (folder / "real").rename(folder / "http")
            case "symlink":
                (folder / "http").symlink_to(folder / "real")
            case "file":
                (folder / "http").touch()
    assert sockets.has("http") is (made == "socket")


def test_a_listening_socket_is_connected(folder: Path, sockets: ServiceSockets) -> None:
    with _listen(folder / "http") as listener:
        connection = sockets.connect("http")
        assert connection is not None
        accepted, _ = listener.accept()
        accepted.sendall(b"hi")
        assert connection.recv(10) == b"hi"
        accepted.close()
        connection.close()


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda path: None, "server/http does not exist: the application has to listen there"),
        (lambda path: path.symlink_to("/etc/passwd"), "is a symlink, which is never followed"),
        (os.mkfifo, "is a FIFO"),
        (lambda path: path.mkdir(), "is a directory"),
        (lambda path: path.write_text("x"), "is a regular file"),
    ],
    ids=["missing", "symlink", "fifo", "directory", "file"],
)
def test_what_is_no_socket_is_named(folder: Path, sockets: ServiceSockets, make, text: str) -> None:
    make(folder / "http")
    before = _open_descriptors()
    with pytest.raises(ServiceSocketError, match=text):
        sockets.connect("http")
    assert _open_descriptors() == before


def test_a_symlink_to_a_good_socket_is_not_followed(folder: Path, sockets: ServiceSockets) -> None:
    with _listen(folder / "real"):
        (folder / "http").symlink_to(folder / "real")
        with pytest.raises(ServiceSocketError, match="symlink"):
            sockets.connect("http")


def test_a_dead_socket_is_told_from_a_missing_one(folder: Path, sockets: ServiceSockets) -> None:
    _listen(folder / "http").close()
    with pytest.raises(ServiceSocketError, match="nobody listens on it"):
        sockets.connect("http")


def test_a_datagram_socket_is_named(folder: Path, sockets: ServiceSockets) -> None:
    with _listen(folder / "http", socket.SOCK_DGRAM), pytest.raises(ServiceSocketError, match="stream socket"):
        sockets.connect("http")


def test_a_server_that_replaced_its_socket_gets_the_next_connection(folder: Path, sockets: ServiceSockets) -> None:
    with _listen(folder / "http") as old:
        first = sockets.connect("http")
        (folder / "http").rename(folder / "http.old")  # the old one still listens
        with _listen(folder / "http") as new:
            second = sockets.connect("http")
            new.setblocking(False)
            new.accept()[0].close()
            old.setblocking(False)
            old.accept()[0].close()
            with pytest.raises(BlockingIOError):
                old.accept()
            for connection in (first, second):
                assert connection is not None
                connection.close()


def test_a_full_backlog_says_try_again(folder: Path, sockets: ServiceSockets) -> None:
    with _listen(folder / "http", backlog=0):
        waiting = []
        for _ in range(20):
            connection = sockets.connect("http")
            if connection is None:
                break
            waiting.append(connection)
        else:
            pytest.fail("a backlog of 0 took 20 connections")
        for connection in waiting:
            connection.close()


def test_nothing_is_left_open(folder: Path) -> None:
    descriptor = os.open(folder, os.O_PATH | os.O_DIRECTORY)
    before = _open_descriptors()
    sockets = ServiceSockets(descriptor)
    with _listen(folder / "http"):
        connection = sockets.connect("http")
        assert connection is not None
        connection.close()
    sockets.close()
    assert _open_descriptors() == before
    os.close(descriptor)


STRICT = """
import os, sys
from meshless_core.agent.service_socket import ServiceSocketError, ServiceSockets
folder = os.open(sys.argv[1], os.O_PATH | os.O_DIRECTORY)
if os.getuid() == 0:
    os.setgroups([]); os.setgid(1000); os.setuid(1000)
try:
    ServiceSockets(folder).connect("http")
except ServiceSocketError as error:
    print(error)
"""


def test_a_too_strict_mode_is_named_with_the_mode_to_set(tmp_path: Path, folder: Path) -> None:
    with _listen(folder / "http"):
        os.chmod(folder / "http", 0o500)
        done = subprocess.run([sys.executable, "-c", STRICT, str(folder)], capture_output=True, text=True, check=True)
    assert "server/http has mode 0500" in done.stdout
    assert "set mode 0666" in done.stdout


def test_a_too_strict_folder_is_named_with_the_mode_to_set(folder: Path) -> None:
    with _listen(folder / "http"):
        os.chmod(folder, 0o600)
        try:
            done = subprocess.run([sys.executable, "-c", STRICT, str(folder)], capture_output=True, text=True, check=True)
        finally:
            os.chmod(folder, 0o700)
    assert "the folder of server/http has mode 0600" in done.stdout
    assert "set mode 0755 on the folder" in done.stdout


def test_running_out_of_descriptors_is_the_agents_fault_not_the_applications(folder: Path, sockets: ServiceSockets) -> None:
    with _listen(folder / "http"):
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
        try:
            with pytest.raises(OSError) as caught:
                sockets.connect("http")
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert caught.value.errno == errno.EMFILE
