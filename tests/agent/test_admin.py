from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import stat
from collections.abc import Mapping
from pathlib import Path

import pytest

from meshless_core.agent import admin
from meshless_core.agent.admin import AdminServer, Answer
from meshless_core.errors import ConfigError


async def hello(_query: Mapping[str, str]) -> Answer:
    return Answer.text("hello")


async def test_its_socket_is_its_users_alone_and_may_have_a_long_path(tmp_path: Path) -> None:
    path = tmp_path / ("long" * 30) / "admin.sock"
    server = AdminServer(f"unix:{path}", {"/hello": hello})
    await server.start()
    try:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        folder = os.open(path.parent, os.O_PATH)
        try:
            reader, writer = await asyncio.open_unix_connection(f"/proc/self/fd/{folder}/{path.name}")
        finally:
            os.close(folder)
        writer.write(b"GET /hello HTTP/1.1\r\nHost: agent\r\n\r\n")
        assert (await reader.read()).endswith(b"\r\n\r\nhello\n")
        writer.close()
        await writer.wait_closed()
    finally:
        await server.stop()


async def test_it_stops_in_silence_and_leaves_no_file(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "run" / "admin.sock"
    server = AdminServer(f"unix:{path}", {"/hello": hello})
    await server.start()
    with contextlib.ExitStack() as others, caplog.at_level(logging.WARNING):
        for _ in range(8):  # they get the number of the descriptor by which the socket was bound
            others.enter_context((tmp_path / "other").open("wb"))
        await server.stop()
    assert caplog.messages == []
    assert os.listdir(path.parent) == []


async def test_a_socket_that_cannot_be_bound_is_a_problem_of_the_setting(tmp_path: Path) -> None:
    (tmp_path / "admin.sock").mkdir()
    with pytest.raises(ConfigError, match=r"\$\.agent\.admin: cannot listen on"):
        await AdminServer(f"unix:{tmp_path}/admin.sock", {}).start()


async def test_a_client_that_does_not_read_is_cut_and_its_answer_let_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(admin, "_REQUEST_SECONDS", 0.05)
    size = 8 * 1024 * 1024
    done = asyncio.Event()

    async def much(_query: Mapping[str, str]) -> Answer:
        done.set()
        return Answer(200, bytes(size))

    server = AdminServer(f"unix:{tmp_path / 'admin.sock'}", {"/much": much})
    await server.start()
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(tmp_path / "admin.sock"))
        client.sendall(b"GET /much HTTP/1.1\r\nHost: agent\r\n\r\n")
        async with asyncio.timeout(20):
            await done.wait()
            while server._clients:
                await asyncio.sleep(0.005)
        client.settimeout(20)
        got = 0
        while data := await asyncio.to_thread(client.recv, 1 << 20):
            got += len(data)
    assert got < size
    await server.stop()


async def test_a_target_that_is_no_url_is_a_bad_request(tmp_path: Path) -> None:
    server = AdminServer(f"unix:{tmp_path / 'admin.sock'}", {"/hello": hello})
    await server.start()
    reader, writer = await asyncio.open_unix_connection(str(tmp_path / "admin.sock"))
    writer.write(b"GET //[ HTTP/1.1\r\nHost: agent\r\n\r\n")
    assert (await reader.read()).startswith(b"HTTP/1.1 400 ")
    writer.close()
    await writer.wait_closed()
    await server.stop()


async def test_one_that_ends_late_leaves_the_socket_of_the_next(tmp_path: Path) -> None:
    path = tmp_path / "admin.sock"
    former, following = (AdminServer(f"unix:{path}", {"/hello": hello}) for _ in range(2))
    await former.start()
    await following.start()
    await former.stop()
    reader, writer = await asyncio.open_unix_connection(str(path))
    writer.write(b"GET /hello HTTP/1.1\r\nHost: agent\r\n\r\n")
    assert (await reader.read()).endswith(b"hello\n")
    writer.close()
    await writer.wait_closed()
    await following.stop()
    assert os.listdir(tmp_path) == []
