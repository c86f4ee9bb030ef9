from __future__ import annotations

import contextlib
import os
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from meshless_core.cli.checks import Finding, Level
from meshless_core.cli.checks.service_sockets import check_sockets

STATUS = {"node": "node-a", "pods": [{"namespace": "shop", "name": "cart-0", "services": ["http"]}]}


@pytest.fixture
def server(tmp_path: Path) -> Path:
    folder = tmp_path / "shop" / "cart-0" / "server"
    folder.mkdir(parents=True)
    return folder


@pytest.fixture
def listener(server: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(server / "http"))
        sock.listen()
        yield sock


def check(pods: Path) -> Finding:
    (found,) = check_sockets(STATUS, pods)
    assert found.subject == "shop/cart-0 http"
    return found


def test_a_socket_somebody_listens_on_is_fine(tmp_path: Path, listener: socket.socket) -> None:
    assert check(tmp_path).level is Level.OK


def test_a_socket_of_a_dead_server_is_a_problem(tmp_path: Path, listener: socket.socket) -> None:
    listener.close()
    found = check(tmp_path)
    assert found.level is Level.PROBLEM
    assert "nobody listens" in found.message
    assert "meshless listen" in found.fix


def test_a_missing_socket_names_the_pod_to_start(tmp_path: Path, server: Path) -> None:
    found = check(tmp_path)
    assert (found.level, found.message) == (Level.PROBLEM, f"{server}/http does not exist")
    assert "start the server of pod shop/cart-0" in found.fix


def test_a_missing_folder_is_told_apart(tmp_path: Path) -> None:
    found = check(tmp_path)
    assert found.level is Level.PROBLEM
    assert "folder" in found.message


@pytest.mark.parametrize("kind", ["a symlink", "a FIFO", "a directory", "a regular file"])
def test_what_is_no_socket_is_named(tmp_path: Path, server: Path, kind: str) -> None:
    path = server / "http"
    match kind:
        case "a symlink":
            path.symlink_to("elsewhere")
        case "a FIFO":
            os.mkfifo(path)
        case "a directory":
            path.mkdir()
        case _:
            path.write_text("")
    found = check(tmp_path)
    assert found.level is Level.PROBLEM
    assert kind in found.message


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that every user can enter, unlike pytest's."""
    with tempfile.TemporaryDirectory() as name:
        os.chmod(name, 0o755)
        yield Path(name)


@contextlib.contextmanager
def not_root() -> Iterator[None]:
    """No mode keeps root out, so be somebody else for a moment."""
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(user)


def test_a_mode_that_keeps_the_agent_out_is_a_problem(open_folder: Path) -> None:
    path = open_folder / "shop" / "cart-0" / "server" / "http"
    path.parent.mkdir(parents=True)
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(path))
        sock.listen()
        path.chmod(0o444)
        with not_root():
            found = check(open_folder)
    assert found.level is Level.PROBLEM
    assert "mode 0444" in found.message


def test_a_pod_without_services_needs_no_socket(tmp_path: Path) -> None:
    status = {"node": "node-a", "pods": [{"namespace": "shop", "name": "web", "services": []}]}
    assert not list(check_sockets(status, tmp_path))


def test_where_the_kernel_does_not_tell_the_rest_is_checked_all_the_same(
    tmp_path: Path, listener: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse() -> frozenset[int]:
        raise OSError(2, "No such file or directory")

    monkeypatch.setattr("meshless_core.cli.checks.service_sockets.listening_inodes", refuse)
    warning, found = check_sockets(STATUS, tmp_path)
    assert (warning.level, found.level) == (Level.WARNING, Level.OK)
