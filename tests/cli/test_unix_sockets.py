from __future__ import annotations

import errno
import os
import socket
import threading
from pathlib import Path

import pytest

from meshless_core.cli.unix_sockets import address_of, connect_unix, listen_unix


def test_a_short_path_is_its_own_address_and_a_long_one_goes_through_its_folder(tmp_path: Path) -> None:
    with address_of("/run/x/s") as address:
        assert address == "/run/x/s"
    with address_of("/run/x/s", beside="t") as address:
        assert address == "/run/x/t"
    folder = tmp_path / ("é" * 60)  # counted in bytes
    folder.mkdir()
    with address_of(str(folder / "s")) as address:
        assert len(os.fsencode(address)) < 107
        assert os.path.samefile(os.path.dirname(address), folder)
    with pytest.raises(FileNotFoundError), address_of("/none/" + "d" * 107 + "/s"):
        pass


async def test_of_many_that_start_together_one_listens_and_nothing_is_left_behind(tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    won: list[socket.socket] = []
    lost: list[OSError] = []
    barrier = threading.Barrier(6)

    def start() -> None:
        barrier.wait()
        try:
            won.append(listen_unix(path, mode=0o600))
        except OSError as error:
            lost.append(error)

    threads = [threading.Thread(target=start) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(won), [error.errno for error in lost]) == (1, [errno.EADDRINUSE] * 5)
    assert os.listdir(tmp_path) == ["s"]
    (await connect_unix(path, timeout=1)).close()
    won[0].close()


def test_a_failed_bind_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object, **options: object) -> None:
        raise OSError(errno.EIO, "broken disk")

    monkeypatch.setattr(os, "rename", refuse)
    with pytest.raises(OSError, match="broken disk"):
        listen_unix(str(tmp_path / "s"), mode=0o600)
    assert os.listdir(tmp_path) == []
