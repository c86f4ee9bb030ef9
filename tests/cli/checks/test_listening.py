from __future__ import annotations

import os
import socket
from pathlib import Path

from meshless_core.cli.checks.listening import listening_inodes


def test_a_listening_socket_is_found_by_its_inode_also_after_a_rename(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "before"))
        os.rename(tmp_path / "before", tmp_path / "after")
        inode = os.lstat(tmp_path / "after").st_ino & 0xFFFFFFFF
        assert inode not in listening_inodes()  # bound, not yet listening
        listener.listen()
        assert inode in listening_inodes()
    assert inode not in listening_inodes()


def test_nobody_is_connected_to(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "s"))
        listener.listen()
        listener.setblocking(False)
        assert listening_inodes()
        try:
            listener.accept()
        except BlockingIOError:
            return
        raise AssertionError("somebody connected")


def test_more_sockets_than_fit_into_one_answer_are_all_found(tmp_path: Path) -> None:
    listeners = [socket.socket(socket.AF_UNIX) for _ in range(600)]
    try:
        for number, listener in enumerate(listeners):
            listener.bind(str(tmp_path / str(number)))
            listener.listen()
        wanted = {os.lstat(tmp_path / str(number)).st_ino & 0xFFFFFFFF for number in range(600)}
        assert wanted <= listening_inodes()
    finally:
        for listener in listeners:
            listener.close()
