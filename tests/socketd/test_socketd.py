"""socketd and the agent's client together, over real sockets."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import resource
import socket
import stat
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from meshless_core.bus import InProcessBus
from meshless_core.documents import NodeManifest, PodPlacement
from meshless_core.documents_codec import encode_document, make_document
from meshless_core.errors import SocketDirectoryError
from meshless_core.hookspecs import BusUpdate
from meshless_core.socketd import PodDirectories, PodSockets, SocketdClient, SocketdServer, follow_manifest
from meshless_core.types import MeshletRef, PodRef

WEB = PodPlacement(PodRef("shop", "web-0"), "uid-web", MeshletRef("shop", "web"), None)
CART = PodPlacement(PodRef("shop", "cart-0"), "uid-cart", MeshletRef("shop", "cart"), "v1")


class Agent:
    """Collects what a real agent would own."""

    def __init__(self, path: Path, node: str = "node-a") -> None:
        self.pods: dict[str, PodSockets] = {}
        self.changed = asyncio.Event()
        self.client = SocketdClient(node, path, on_added=self._added, on_removed=self._removed)

    def _added(self, pod: PodSockets) -> None:
        self.pods[pod.placement.uid] = pod
        self.changed.set()

    def _removed(self, uid: str) -> None:
        self.pods.pop(uid).close()
        self.changed.set()

    async def kill(self) -> None:
        await self.client.stop()
        for pod in self.pods.values():
            pod.close()


_hooks: list[Callable[[str, object], None]] = []


def _to_hooks(event: str, arguments: object) -> None:
    if _hooks and event in ("socket.bind", "os.chmod", "open"):
        hook = _hooks.pop()  # what it does itself is not its business
        hook(event, arguments)
        _hooks.append(hook)


@functools.cache
def _hook_once() -> None:
    sys.addaudithook(_to_hooks)  # cannot be removed again


@contextlib.contextmanager
def _audited(hook: Callable[[str, object], None]) -> Iterator[None]:
    """Calls `hook` before each step that matters here."""
    _hook_once()
    _hooks.append(hook)
    try:
        yield
    finally:
        _hooks.clear()


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[SocketdServer]:
    server = SocketdServer("node-a", PodDirectories(tmp_path / "pods"), tmp_path / "ctl" / "socketd.sock")
    await server.start()
    server.set_pods([WEB])
    yield server
    await server.stop()


async def _agent(tmp_path: Path) -> Agent:
    agent = Agent(tmp_path / "ctl" / "socketd.sock")
    await agent.client.start()
    await agent.client.wait_snapshot()
    return agent


def _dial(tmp_path: Path, pod: str = "web-0") -> socket.socket:
    client = socket.socket(socket.AF_UNIX)
    client.connect(str(tmp_path / "pods" / "shop" / pod / "client" / "meshless"))
    return client


async def test_a_listener_reaches_the_agent_and_is_the_pods(server: SocketdServer, tmp_path: Path) -> None:
    agent = await _agent(tmp_path)
    await server.wait_served()
    with _dial(tmp_path) as client:
        accepted, _ = await asyncio.get_running_loop().sock_accept(agent.pods["uid-web"].listener)
        client.sendall(b"hi")
        assert await asyncio.get_running_loop().sock_recv(accepted, 10) == b"hi"
        accepted.close()
    assert agent.pods["uid-web"].placement == WEB
    await agent.kill()


async def test_changes_follow_the_snapshot(server: SocketdServer, tmp_path: Path) -> None:
    agent = await _agent(tmp_path)
    agent.changed.clear()
    server.set_pods([WEB, CART])
    await agent.changed.wait()
    assert agent.pods.keys() == {"uid-web", "uid-cart"}
    agent.changed.clear()
    server.set_pods([CART])
    await agent.changed.wait()
    assert agent.pods.keys() == {"uid-cart"}
    assert not (tmp_path / "pods" / "shop" / "web-0").exists()
    await agent.kill()


async def test_a_connect_waits_in_the_backlog_while_no_agent_lives(server: SocketdServer, tmp_path: Path) -> None:
    first = await _agent(tmp_path)
    await first.kill()
    with _dial(tmp_path) as client:
        client.sendall(b"early")
        second = await _agent(tmp_path)
        accepted, _ = await asyncio.get_running_loop().sock_accept(second.pods["uid-web"].listener)
        assert await asyncio.get_running_loop().sock_recv(accepted, 10) == b"early"
        accepted.close()
    await second.kill()


async def test_after_a_reconnect_the_snapshot_is_the_truth(tmp_path: Path) -> None:
    directories = PodDirectories(tmp_path / "pods")
    control = tmp_path / "ctl" / "socketd.sock"
    first = SocketdServer("node-a", directories, control)
    await first.start()
    first.set_pods([WEB, CART])
    agent = await _agent(tmp_path)
    assert agent.pods.keys() == {"uid-web", "uid-cart"}
    await first.stop()
    second = SocketdServer("node-a", directories, control)
    await second.start()
    second.set_pods([CART])
    while agent.pods.keys() != {"uid-cart"}:
        agent.changed.clear()
        await agent.changed.wait()
    await agent.kill()
    await second.stop()


async def test_one_that_ends_late_leaves_the_control_socket_of_the_next(server: SocketdServer, tmp_path: Path) -> None:
    second = SocketdServer("node-a", PodDirectories(tmp_path / "pods"), tmp_path / "ctl" / "socketd.sock")
    await second.start()
    second.set_pods([WEB])
    await server.stop(remove=False)
    async with asyncio.timeout(10):
        agent = await _agent(tmp_path)
    assert agent.pods.keys() == {"uid-web"}
    await agent.kill()
    await second.stop()


async def test_a_socketd_started_again_takes_the_pods_folders_over_and_the_agent_its_sockets(tmp_path: Path) -> None:
    control = tmp_path / "ctl" / "socketd.sock"
    first = SocketdServer("node-a", PodDirectories(tmp_path / "pods"), control)
    await first.start()
    first.set_pods([WEB])
    agent = await _agent(tmp_path)
    old = agent.pods["uid-web"]
    application = socket.socket(socket.AF_UNIX)
    application.bind(str(tmp_path / "pods" / "shop" / "web-0" / "server" / "http"))
    await first.stop(remove=False)  # what is left is what SIGKILL leaves

    second = SocketdServer("node-a", PodDirectories(tmp_path / "pods"), control)
    await second.start()
    while not agent.client.connected:
        await asyncio.sleep(0.005)
    assert agent.pods["uid-web"] is old, "before it knows its pods, socketd takes none away"
    with _dial(tmp_path) as early:
        accepted, _ = await asyncio.get_running_loop().sock_accept(old.listener)
        accepted.close()
        early.close()
    second.set_pods([WEB])
    while agent.pods.get("uid-web") in (None, old):
        agent.changed.clear()
        await agent.changed.wait()
    with _dial(tmp_path):
        accepted, _ = await asyncio.get_running_loop().sock_accept(agent.pods["uid-web"].listener)
        accepted.close()
    assert os.stat("http", dir_fd=agent.pods["uid-web"].server_folder), "the application's socket is still there"
    application.close()
    await agent.kill()
    await second.stop()
    assert list((tmp_path / "pods").iterdir()) == []


async def test_a_pod_with_other_sockets_is_not_gone_for_a_moment(server: SocketdServer, tmp_path: Path) -> None:
    there: list[bool] = []

    class Watching(Agent):
        def _removed(self, uid: str) -> None:
            super()._removed(uid)
            asyncio.get_running_loop().call_soon(lambda: there.append(uid in self.pods))

    agent = Watching(tmp_path / "ctl" / "socketd.sock")
    await agent.client.start()
    await agent.client.wait_snapshot()
    await server.wait_served()
    old = agent.pods["uid-web"]
    server.set_pods([WEB], renewed={"uid-web"})
    assert server.served == frozenset(), "what the agent has is not what there is"
    await server.wait_served()
    assert agent.pods["uid-web"] is not old
    assert there == [True]
    with _dial(tmp_path):
        accepted, _ = await asyncio.get_running_loop().sock_accept(agent.pods["uid-web"].listener)
        accepted.close()
    (tmp_path / "pods" / "shop").rename(tmp_path / "shop")
    (tmp_path / "pods" / "shop").touch()  # a file: no folder can be made there
    agent.changed.clear()
    server.set_pods([WEB], renewed={"uid-web"})
    async with asyncio.timeout(10):
        await agent.changed.wait()
    assert agent.pods == {}
    await agent.kill()


def test_what_an_earlier_socketd_left_of_ended_pods_is_swept(tmp_path: Path) -> None:
    directories = PodDirectories(tmp_path / "pods")
    for placement in (WEB, CART):
        directories.create(placement).close()
    directories.sweep({WEB.pod})
    assert sorted(path.name for path in (tmp_path / "pods" / "shop").iterdir()) == [".web-0.uid", "web-0"]


def test_a_second_socketd_is_refused_while_another_one_has_the_folder(tmp_path: Path) -> None:
    first, second = PodDirectories(tmp_path / "pods"), PodDirectories(tmp_path / "pods")
    first.claim()
    with pytest.raises(SocketDirectoryError, match="is in use by another socketd: stop it"):
        second.claim()
    first.let_go()
    second.claim()
    second.let_go()
    second.let_go()


def test_the_folder_of_an_earlier_pod_of_the_same_name_is_not_taken_over(tmp_path: Path) -> None:
    directories = PodDirectories(tmp_path / "pods")
    directories.create(WEB).close()
    stale = tmp_path / "pods" / "shop" / "web-0" / "server" / "http"
    stale.touch()
    directories.create(PodPlacement(WEB.pod, "uid-of-the-next", WEB.meshlet, None)).close()
    assert not stale.exists()


def test_a_pod_that_runs_cannot_make_a_takeover_change_the_mode_of_another_file(tmp_path: Path) -> None:
    directories = PodDirectories(tmp_path / "pods")
    directories.create(WEB).close()
    secret = tmp_path / "secret"
    secret.touch(mode=0o600)
    new = tmp_path / "pods" / "shop" / "web-0" / "client" / ".meshless.new"
    bound = False

    def pod(event: str, _arguments: object) -> None:
        """Acts between any two steps of socketd, once its new socket has its name."""
        nonlocal bound
        if bound and not new.is_symlink():
            bound = False
            new.unlink()
            new.symlink_to(secret)
        bound = bound or event == "socket.bind"

    with _audited(pod), pytest.raises(SocketDirectoryError, match="another file took the place"):
        directories.create(WEB)
    assert stat.S_IMODE(secret.stat().st_mode) == 0o600
    directories.create(WEB).close()
    assert (new.parent / "meshless").is_socket()


async def test_an_agent_of_another_node_gets_nothing(server: SocketdServer, tmp_path: Path) -> None:
    loop = asyncio.get_running_loop()
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK) as stranger:
        stranger.connect(str(tmp_path / "ctl" / "socketd.sock"))
        await loop.sock_sendall(stranger, b'{"type":"hello","version":1,"node":"node-b"}')
        assert await loop.sock_recv(stranger, 100) == b""


async def test_paths_longer_than_107_bytes_work(tmp_path: Path) -> None:
    deep = tmp_path / ("d" * 60) / ("e" * 60)
    server = SocketdServer("node-a", PodDirectories(deep / "pods"), deep / "socketd.sock")
    await server.start()
    server.set_pods([WEB])
    agent = Agent(deep / "socketd.sock")
    await agent.client.start()
    await agent.client.wait_snapshot()
    folder = os.open(deep / "pods" / "shop" / "web-0" / "client", os.O_PATH)
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(f"/proc/self/fd/{folder}/meshless")
    os.close(folder)
    await agent.kill()
    await server.stop()


async def test_a_folder_left_behind_and_a_symlink_in_its_place_are_replaced(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "keep").write_text("x")
    (tmp_path / "pods" / "shop").mkdir(parents=True)
    (tmp_path / "pods" / "shop" / "web-0").symlink_to(outside)
    parked = PodDirectories(tmp_path / "pods").create(WEB)
    assert (outside / "keep").exists()
    assert (tmp_path / "pods" / "shop" / "web-0" / "client" / "meshless").is_socket()
    parked.close()


async def test_without_descriptors_the_agent_waits_and_is_served_when_there_are_some(
    server: SocketdServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    folder = os.open(tmp_path / "ctl", os.O_DIRECTORY | os.O_CLOEXEC)
    early = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK)
    fillers: list[int] = []
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(map(int, os.listdir("/proc/self/fd"))) + 8, hard))
        with contextlib.suppress(OSError):
            while True:
                fillers.append(os.dup(folder))
        early.connect(f"/proc/self/fd/{folder}/socketd.sock")
        async with asyncio.timeout(20):
            while "cannot accept its agent" not in caplog.text:
                await asyncio.sleep(0.005)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for descriptor in (*fillers, folder):
            os.close(descriptor)
        early.close()
    async with asyncio.timeout(20):
        agent = await _agent(tmp_path)
    assert set(agent.pods) == {"uid-web"}
    await agent.kill()


async def test_an_agent_that_waits_for_its_socketd_says_so_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", logger="meshless_core.socketd.client")
    agent = Agent(tmp_path / "socketd.sock")
    await agent.client.start()
    async with asyncio.timeout(10):
        while not caplog.messages:
            await asyncio.sleep(0.005)
        server = SocketdServer("node-a", PodDirectories(tmp_path / "pods"), tmp_path / "socketd.sock")
        await server.start()
        server.set_pods([])
        await agent.client.wait_snapshot()
    assert len(caplog.messages) == 2
    assert "No such file or directory; keeping 0 pods and trying again; is socketd running?" in caplog.messages[0]
    assert "has 0 pods for this agent" in caplog.messages[1]
    await agent.kill()
    await server.stop()


async def test_an_agent_that_is_replaced_leaves_no_task(server: SocketdServer, tmp_path: Path) -> None:
    agent = await _agent(tmp_path)
    await server.wait_served()
    before = len(asyncio.all_tasks())
    for _ in range(5):
        former, agent = agent, await _agent(tmp_path)
        await former.kill()
    await server.wait_served()
    async with asyncio.timeout(20):
        while len(asyncio.all_tasks()) > before:
            await asyncio.sleep(0)
    await agent.kill()


async def test_it_stops_also_while_one_agent_replaces_another(tmp_path: Path) -> None:
    server = SocketdServer("node-a", PodDirectories(tmp_path / "pods"), tmp_path / "ctl" / "socketd.sock")
    await server.start()
    server.set_pods([WEB])
    first = await _agent(tmp_path)
    serving = server._serving
    assert serving is not None
    second = Agent(tmp_path / "ctl" / "socketd.sock")
    await second.client.start()
    async with asyncio.timeout(20):
        while not serving.cancelling():
            await asyncio.sleep(0)
    stopping = asyncio.create_task(server.stop())
    await asyncio.wait({stopping}, timeout=20)
    assert stopping.done()
    await stopping
    await first.kill()
    await second.kill()


async def test_a_control_socket_that_cannot_be_bound_leaves_no_descriptor(tmp_path: Path) -> None:
    server = SocketdServer("node-a", PodDirectories(tmp_path / "pods"), tmp_path / ("long" * 30))
    before = os.listdir("/proc/self/fd")
    with pytest.raises(
        SocketDirectoryError, match=r"cannot listen on socketd's control socket .*: AF_UNIX path too long"
    ) as caught:
        await server.start()
    assert os.listdir("/proc/self/fd") == before, caught  # whose traceback holds what was not closed
    await server.stop()


async def test_one_that_stops_while_an_agent_says_nothing_closes_its_connection(tmp_path: Path) -> None:
    server = SocketdServer("node-a", PodDirectories(tmp_path / "pods"), tmp_path / "ctl" / "socketd.sock")
    await server.start()
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as silent:
        silent.connect(str(tmp_path / "ctl" / "socketd.sock"))
        before = len(os.listdir("/proc/self/fd"))
        async with asyncio.timeout(20):
            while len(os.listdir("/proc/self/fd")) == before:
                await asyncio.sleep(0)
        await server.stop()
        silent.settimeout(20)
        assert await asyncio.to_thread(silent.recv, 1) == b""


async def test_a_bus_plugin_that_fails_costs_news_and_not_the_following(
    server: SocketdServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("meshless_core.socketd.manifest._RETRY_SECONDS", 0.0)
    good = InProcessBus()
    manifest = make_document(NodeManifest("node-a", (WEB, CART), {}), epoch=1, generation=1)
    await good.publish(manifest.topic, encode_document(manifest))

    class Failing:
        subscriptions = 0

        async def publish(self, topic: str, payload: bytes | None) -> None: ...

        async def topics(self) -> frozenset[str]:
            return frozenset()

        async def subscribe(self, topics: frozenset[str]) -> AsyncGenerator[BusUpdate, None]:
            self.subscriptions += 1
            if self.subscriptions == 1:
                raise RuntimeError("a bug of the plugin")
            if self.subscriptions == 2:
                return  # ends, as no bus should
            async for update in good.subscribe(topics):
                yield update

    following = asyncio.create_task(follow_manifest("node-a", Failing(), server))
    async with asyncio.timeout(20):
        while set(server.pods) != {WEB.pod, CART.pod}:
            await asyncio.sleep(0)
    following.cancel()
    await asyncio.wait({following})
    assert "a bug of the plugin" in caplog.text
    assert "ended the subscription" in caplog.text
