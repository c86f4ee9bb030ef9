from __future__ import annotations

import asyncio
import os
import socket
import stat
from pathlib import Path

import pytest

from meshless_core.cli.addresses import Address, listen_on, reach
from meshless_core.cli.exit_codes import CommandError


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("tcp:127.0.0.1:5432", Address("127.0.0.1", 5432)),
        ("tcp:localhost:0", Address("localhost", 0)),
        ("tcp:[::1]:65535", Address("::1", 65535)),
        ("unix:/run/db.sock", Address(path="/run/db.sock")),
    ],
)
def test_addresses_are_read_and_written_the_same(text: str, address: Address) -> None:
    assert Address.parse(text) == address
    assert str(address) == text


@pytest.mark.parametrize(
    "text",
    [
        *("", "tcp", "tcp:", "tcp:5432", "tcp::5432", "tcp:h:", "tcp:h:x", "tcp:h:-1", "tcp:h:65536", "tcp:::1:5", "tcp:h:٣"),
        *("unix:", "unix:/a\0b", "udp:h:1", "/run/db.sock", "127.0.0.1:5432"),
    ],
)
def test_anything_else_is_an_error_that_says_which_forms_there_are(text: str) -> None:
    with pytest.raises(ValueError, match=r"is not an address: write tcp:<host>:<port>, tcp:\[<IPv6>\]:<port> or unix:<path>"):
        Address.parse(text)


def test_only_loopback_and_paths_are_private() -> None:
    private = {"tcp:127.0.0.1:1", "tcp:127.8.8.8:1", "tcp:[::1]:1", "tcp:localhost:1", "unix:/x"}
    public = {"tcp:0.0.0.0:1", "tcp:[::]:1", "tcp:10.0.0.1:1", "tcp:example:1"}
    assert {text for text in private | public if Address.parse(text).private} == private


async def exchange(listener: socket.socket, address: Address) -> None:
    loop = asyncio.get_running_loop()
    client = await reach(address, timeout=5)
    server, _ = await loop.sock_accept(listener)
    with client, server:
        await loop.sock_sendall(client, b"hello")
        assert await loop.sock_recv(server, 10) == b"hello"


async def test_tcp_port_0_becomes_the_port_that_was_bound() -> None:
    with listen_on(Address("127.0.0.1", 0), mode=0) as listening:
        assert listening.address.port > 0
        await exchange(listening.socket, listening.address)


async def test_a_path_gets_its_mode_and_is_removed_afterwards(tmp_path: Path) -> None:
    address = Address(path=str(tmp_path / ("d" * 110) / "db"))
    os.mkdir(os.path.dirname(address.path))
    with listen_on(address, mode=0o640) as listening:
        assert stat.S_IMODE(os.stat(address.path).st_mode) == 0o640
        await exchange(listening.socket, address)
    assert os.listdir(os.path.dirname(address.path)) == []


def test_the_socket_of_a_server_that_took_over_is_not_removed(tmp_path: Path) -> None:
    address = Address(path=str(tmp_path / "db"))
    with listen_on(address, mode=0o600):
        os.unlink(address.path)
        successor = listen_on(address, mode=0o600)
    assert os.path.exists(address.path)
    with successor:
        pass
    assert not os.path.exists(address.path)


def test_a_path_or_port_that_is_taken_is_an_error_that_says_so(tmp_path: Path) -> None:
    with listen_on(Address("127.0.0.1", 0), mode=0) as listening, pytest.raises(CommandError) as caught:
        listen_on(listening.address, mode=0)
    assert str(caught.value) == (
        f"cannot listen at {listening.address}: the address is in use; choose another port, or 0 for any"
    )
    address = Address(path=str(tmp_path / "db"))
    with (
        listen_on(address, mode=0o600),
        pytest.raises(CommandError, match="a live server listens there already; stop it first"),
    ):
        listen_on(address, mode=0o600)
    Path(address.path).write_text("precious")
    with pytest.raises(CommandError, match="there is a file that is no socket; remove it"):
        listen_on(address, mode=0o600)
    with pytest.raises(CommandError, match="its folder does not exist"):
        listen_on(Address(path=str(tmp_path / "none" / "db")), mode=0o600)


def test_a_dead_servers_socket_is_replaced(tmp_path: Path) -> None:
    address = Address(path=str(tmp_path / "db"))
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(address.path)
    with listen_on(address, mode=0o600):
        pass


async def test_reaching_nobody_raises_the_systems_reason(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        await reach(Address(path=str(tmp_path / "db")), timeout=1)
    with listen_on(Address("127.0.0.1", 0), mode=0) as listening:
        pass
    with pytest.raises(ConnectionRefusedError):
        await reach(listening.address, timeout=5)


async def test_a_full_backlog_is_an_error_after_the_timeout(tmp_path: Path) -> None:
    path = str(tmp_path / "db")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen(0)
        waiting = await reach(Address(path=path), timeout=0)
        with waiting, pytest.raises(BlockingIOError):
            await reach(Address(path=path), timeout=0.02)
