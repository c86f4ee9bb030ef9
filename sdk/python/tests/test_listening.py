from __future__ import annotations

import errno
import os
import socket
import stat
import subprocess
import sys
import threading
from pathlib import Path

import meshless_sdk
import pytest

pytestmark = pytest.mark.usefixtures("no_descriptor_leaks")


def exchange(listener: socket.socket, path: Path) -> None:
    descriptor = os.open(path.parent, os.O_PATH)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.connect(f"/proc/self/fd/{descriptor}/{path.name}")
        os.close(descriptor)
        server, _ = listener.accept()
        with server:
            client.sendall(b"hello")
            assert server.recv(10) == b"hello"


def test_listens_in_the_pods_server_folder_and_anybody_may_connect(pod: Path) -> None:
    path = pod / "server" / "http"
    with meshless_sdk.listen("http") as listener:
        assert stat.S_IMODE(path.stat().st_mode) == 0o666
        assert listener.gettimeout() is None
        exchange(listener, path)
    assert os.listdir(pod / "server") == ["http"]


def test_a_strict_umask_changes_nothing(pod: Path) -> None:
    before = os.umask(0o077)
    try:
        with meshless_sdk.listen("http"):
            assert stat.S_IMODE((pod / "server" / "http").stat().st_mode) == 0o666
    finally:
        os.umask(before)


def test_a_socket_left_behind_by_a_dead_server_is_replaced(pod: Path) -> None:
    meshless_sdk.listen("http").close()
    with meshless_sdk.listen("http") as listener:
        exchange(listener, pod / "server" / "http")


def test_a_socket_left_behind_by_a_killed_process_is_replaced(pod: Path) -> None:
    code = "import meshless_sdk, os, signal; keep = meshless_sdk.listen('http'); os.kill(os.getpid(), signal.SIGKILL)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -9
    with meshless_sdk.listen("http") as listener:
        exchange(listener, pod / "server" / "http")


def test_a_live_server_is_left_alone(pod: Path) -> None:
    with meshless_sdk.listen("http") as listener:
        with pytest.raises(meshless_sdk.ListenError) as caught:
            meshless_sdk.listen("http")
        where = pod / "server" / "http"
        assert str(caught.value) == f"cannot listen at {where}: a live server listens there already; stop it first"
        assert caught.value.errno == errno.EADDRINUSE
        listener.accept()[0].close()  # the question whether somebody listens
        exchange(listener, where)


def test_a_live_server_with_a_full_backlog_is_left_alone(pod: Path) -> None:
    with meshless_sdk.listen("http", backlog=0):
        with pytest.raises(meshless_sdk.ListenError, match="a live server listens there already"):
            meshless_sdk.listen("http")  # this question fills the backlog
        with pytest.raises(meshless_sdk.ListenError, match="a live server listens there already"):
            meshless_sdk.listen("http")


def test_of_many_servers_that_start_together_one_listens(pod: Path) -> None:
    meshless_sdk.listen("http").close()  # a stale socket, so that all of them have something to replace
    winners: list[socket.socket] = []
    losers: list[meshless_sdk.ListenError] = []
    barrier = threading.Barrier(8)

    def start() -> None:
        barrier.wait()
        try:
            winners.append(meshless_sdk.listen("http"))
        except meshless_sdk.ListenError as error:
            losers.append(error)

    threads = [threading.Thread(target=start) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(winners), len(losers)) == (1, 7)
    winners[0].close()
    assert os.listdir(pod / "server") == ["http"]


@pytest.mark.parametrize("kind", ["file", "folder", "link", "fifo"])
def test_what_is_no_socket_is_left_alone(pod: Path, kind: str) -> None:
    path = pod / "server" / "http"
    match kind:
        case "file":
            path.write_text("precious")
        case "folder":
            path.mkdir()
        case "link":
            path.symlink_to("elsewhere")
        case "fifo":
            os.mkfifo(path)
    before = path.lstat()
    with pytest.raises(meshless_sdk.ListenError, match="there is a file that is no socket; remove it"):
        meshless_sdk.listen("http")
    assert path.lstat() == before


def test_a_path_beyond_107_bytes_works(tmp_path: Path) -> None:
    folder = tmp_path / ("d" * 120)
    folder.mkdir()
    path = folder / "http"
    with meshless_sdk.listen("http", path=str(path)) as listener:
        assert stat.S_IMODE(path.stat().st_mode) == 0o666
        exchange(listener, path)
        with pytest.raises(meshless_sdk.ListenError, match="a live server listens there already"):
            meshless_sdk.listen("http", path=str(path))
    meshless_sdk.listen("http", path=str(path)).close()
    assert os.listdir(folder) == ["http"]


def test_a_missing_folder_says_what_to_check(pod: Path) -> None:
    (pod / "server").rmdir()
    with pytest.raises(meshless_sdk.ListenError) as caught:
        meshless_sdk.listen("http")
    assert str(caught.value) == (
        f"cannot listen at {pod / 'server' / 'http'}: cannot open its folder: No such file or directory; "
        "check that this pod belongs to a mesh, or set MESHLESS_DIR"
    )
    assert caught.value.errno == errno.ENOENT


def test_a_service_name_that_cannot_be_one_is_refused(pod: Path) -> None:
    for name in ("", "../client/meshless", "HTTP", "a.b", "x" * 64):
        with pytest.raises(meshless_sdk.InvalidServiceId, match="is not a service name"):
            meshless_sdk.listen(name)


def test_without_meshless_dir_it_is_in_slash_meshlet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MESHLESS_DIR", "")
    opened: list[object] = []

    def refuse(path: object, *arguments: object, **options: object) -> int:
        opened.append(path)
        raise OSError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(meshless_sdk.ListenError, match="/meshlet/server/http"):
        meshless_sdk.listen("http")
    assert opened == ["/meshlet/server"]
