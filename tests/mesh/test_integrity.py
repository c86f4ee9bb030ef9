"""Bytes and ends, through a whole mesh: what one end sends and how it ends is what the other end sees, whatever the order.

What an end sees of a reset on a Unix socket is the kernel's to say: reading gives ECONNRESET if the one that closed left bytes
unread, else end-of-file; writing gives EPIPE or ECONNRESET. The access log of the agent tells a reset from an end in any case.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import random
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Literal

import attrs
import meshless_sdk
import pytest

from tests.mesh.running_mesh import AgentView, RunningMesh, until

BYTES = int(os.environ.get("MESHLESS_TEST_BYTES", 64 << 20))
"""Bytes each way at once; `MESHLESS_TEST_BYTES=1073741824` for 1 GiB."""

BLOCK = 1 << 20


@attrs.frozen
class Place:
    """Where the service is: `near` on the client's node, `far` on the other one."""

    mesh: RunningMesh
    name: Literal["near", "far"]
    listener: socket.socket
    since: float = attrs.field(factory=time.time)

    @property
    def service_id(self) -> str:
        return f"http.{self.name}.shop"

    @property
    def agents(self) -> list[AgentView]:
        """The agents a connection passes through, the client's first."""
        names = ["node-a"] if self.name == "near" else ["node-a", "node-b"]
        return [self.mesh.agent(name) for name in names]

    def connect(self) -> tuple[socket.socket, socket.socket]:
        """Both ends of a new connection: the client's, the service's."""
        client = self.mesh.dial(self.service_id, "web-0")
        service, _ = self.listener.accept()
        service.settimeout(30)
        return client, service


@pytest.fixture(params=["near", "far"], ids=["same-node", "cross-node"])
def place(request: pytest.FixtureRequest, mesh: RunningMesh) -> Iterator[Place]:
    with mesh.listen(f"{request.param}-0") as listener:
        yield Place(mesh, request.param, listener)


@pytest.fixture
def ends(place: Place) -> Iterator[tuple[socket.socket, socket.socket]]:
    client, service = place.connect()
    with client, service:
        yield client, service


@pytest.fixture
def ending(place: Place) -> Callable[[], dict[str, Any]]:
    """What the client's agent wrote in its access log about the one connection that was opened and ended in this test."""
    agent = place.agents[0]

    def entries() -> list[dict[str, Any]]:
        closed = (entry for entry in agent.access_log() if entry["event"] == "closed")
        return [entry for entry in closed if entry["time"] - entry["duration_seconds"] >= place.since]

    def entry() -> dict[str, Any]:
        [only] = until(entries, "a line in the access log")
        return only

    return entry


def send_stream(end: socket.socket, size: int, seed: int) -> str:
    """Send `size` bytes that never repeat at the same place of a block, then end-of-file; returns their sha256."""
    block = random.Random(seed).randbytes(BLOCK)
    digest = hashlib.sha256()
    for number in range(0, size, BLOCK):
        part = (number.to_bytes(8, "big") + block[8:])[: min(BLOCK, size - number)]
        digest.update(part)
        end.sendall(part)
    end.shutdown(socket.SHUT_WR)
    return digest.hexdigest()


def receive_stream(end: socket.socket) -> tuple[int, str]:
    """Read to the end; size and sha256."""
    digest, size, buffer = hashlib.sha256(), 0, bytearray(BLOCK)
    view = memoryview(buffer)
    while count := end.recv_into(buffer):
        digest.update(view[:count])
        size += count
    return size, digest.hexdigest()


def receive_all(end: socket.socket) -> bytes:
    parts = []
    while part := end.recv(65536):
        parts.append(part)
    return b"".join(parts)


def receive_exactly(end: socket.socket, size: int) -> bytes:
    """Read `size` bytes, less only at the end-of-file. (MSG_WAITALL does not wait on a socket with a timeout.)"""
    data = b""
    while len(data) < size and (part := end.recv(size - len(data))):
        data += part
    return data


def both(*functions: Callable[[], Any]) -> list[Any]:
    """Run functions at once; their results, or the first exception."""
    results: list[Any] = [None] * len(functions)
    errors: list[BaseException] = []

    def run(index: int) -> None:
        try:
            results[index] = functions[index]()
        except BaseException as error:  # noqa: BLE001 - raised again below, in the thread of the test
            errors.append(error)

    threads = [threading.Thread(target=run, args=(index,)) for index in range(len(functions))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return results


def readable(end: socket.socket) -> None:
    """Wait until an end has something to read, without reading it."""
    assert select.select([end], [], [], 30)[0], "nothing to read"


def see_end(end: socket.socket) -> str:
    """Read until it is over: "eof" or "reset"."""
    try:
        while end.recv(65536):
            pass
    except ConnectionResetError:
        return "reset"
    return "eof"


def see_writes_fail(end: socket.socket) -> None:
    """Write until the kernel says that nobody reads: has to come, soon or late."""
    with pytest.raises((BrokenPipeError, ConnectionResetError)):  # noqa: PT012 - which write meets it is not promised
        while True:
            end.sendall(b"x" * 65536)


# --- bytes ---------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_bytes_both_ways_at_once_arrive_unchanged(ends: tuple[socket.socket, socket.socket]) -> None:
    client, service = ends
    sent_up, sent_down, got_up, got_down = both(
        lambda: send_stream(client, BYTES, 1),
        lambda: send_stream(service, BYTES, 2),
        lambda: receive_stream(service),
        lambda: receive_stream(client),
    )
    assert got_up == (BYTES, sent_up)
    assert got_down == (BYTES, sent_down)


def test_writes_and_reads_of_random_sizes_lose_and_reorder_nothing(ends: tuple[socket.socket, socket.socket]) -> None:
    def write(end: socket.socket, seed: int) -> bytes:
        chance = random.Random(seed)
        parts = [chance.randbytes(chance.choice((1, 2, 7, 100, 1448, 5000, 40_000))) for _ in range(600)]
        for part in parts:
            end.sendall(part)
        end.shutdown(socket.SHUT_WR)
        return b"".join(parts)

    def read(end: socket.socket, seed: int) -> bytes:
        chance, parts = random.Random(seed), []
        while part := end.recv(chance.choice((1, 3, 500, 9000, 70_000))):
            parts.append(part)
        return b"".join(parts)

    client, service = ends
    up, down, got_up, got_down = both(
        lambda: write(client, 3), lambda: write(service, 4), lambda: read(service, 5), lambda: read(client, 6)
    )
    assert got_up == up
    assert got_down == down


@pytest.mark.parametrize("size", [1, 1000, 100_000, 3_000_000])
def test_early_bytes_behind_the_request_arrive_first_and_whole(place: Place, size: int) -> None:
    early, service_id = random.Random(size).randbytes(size), place.service_id.encode()
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(30)
        client.connect(place.mesh.client_path("web-0"))
        sender = threading.Thread(
            target=lambda: client.sendall(bytes((1, len(service_id))) + service_id + early + b"later")
        )  # they need not fit any buffer before somebody reads
        sender.start()
        assert receive_exactly(client, 2) == b"\x01\x00"
        service, _ = place.listener.accept()
        with service:
            service.settimeout(30)
            assert receive_exactly(service, size + 5) == early + b"later"
        sender.join()


def test_early_bytes_with_an_end_of_file_right_behind_arrive(place: Place) -> None:
    service_id = place.service_id.encode()
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(30)
        client.connect(place.mesh.client_path("web-0"))
        client.sendall(bytes((1, len(service_id))) + service_id + b"question")
        client.shutdown(socket.SHUT_WR)
        service, _ = place.listener.accept()
        with service:
            service.settimeout(30)
            assert receive_all(service) == b"question"
            service.sendall(b"answer")
        assert receive_all(client) == b"\x01\x00answer"


# --- ends in order -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("first", ["client", "service"])
def test_a_half_close_leaves_the_other_direction_open(
    ends: tuple[socket.socket, socket.socket], first: str, ending: Callable[[], dict[str, Any]]
) -> None:
    one, other = ends if first == "client" else ends[::-1]
    one.sendall(b"question")
    one.shutdown(socket.SHUT_WR)
    assert receive_all(other) == b"question"
    answer = os.urandom(2_000_000)
    [got, _] = both(lambda: receive_all(one), lambda: send_and_close(other, answer))
    assert got == answer
    one.close()
    entry = ending()
    assert (entry["reason"], entry["ended_by"]) == ("closed", first)
    sizes = {entry["bytes_to_service"], entry["bytes_to_client"]}
    assert sizes == {8, 2_000_000}


def test_both_ends_may_close_their_side_at_once(
    ends: tuple[socket.socket, socket.socket], ending: Callable[[], dict[str, Any]]
) -> None:
    for end in ends:
        end.sendall(b"last words")
        end.shutdown(socket.SHUT_WR)
    assert [receive_all(end) for end in ends] == [b"last words", b"last words"]
    assert ending()["reason"] == "closed"


@pytest.mark.parametrize("first", ["client", "service"])
def test_what_was_sent_before_a_close_arrives_although_nobody_reads_any_more(
    ends: tuple[socket.socket, socket.socket], first: str
) -> None:
    one, other = ends if first == "client" else ends[::-1]
    one.sendall(b"x" * 100_000)
    one.close()
    assert len(receive_all(other)) == 100_000
    see_writes_fail(other)


def test_a_connection_that_says_nothing_ends_cleanly(
    ends: tuple[socket.socket, socket.socket], ending: Callable[[], dict[str, Any]]
) -> None:
    client, service = ends
    client.close()
    assert receive_all(service) == b""
    service.close()
    entry = ending()
    assert (entry["reason"], entry["bytes_to_service"], entry["bytes_to_client"]) == ("closed", 0, 0)


# --- ends out of order ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("who", ["client", "service"])
def test_a_close_over_unread_bytes_is_a_reset_at_the_other_end(
    ends: tuple[socket.socket, socket.socket], who: str, ending: Callable[[], dict[str, Any]]
) -> None:
    one, other = ends if who == "client" else ends[::-1]
    other.sendall(b"never read")
    readable(one)
    one.close()
    assert see_end(other) in ("eof", "reset")
    see_writes_fail(other)
    entry = ending()
    assert (entry["reason"], entry["ended_by"]) == ("reset", who)


@pytest.mark.parametrize("who", ["client", "service"])
def test_a_close_in_the_middle_of_what_the_other_sends_stops_the_sender(
    ends: tuple[socket.socket, socket.socket], who: str, ending: Callable[[], dict[str, Any]]
) -> None:
    one, other = ends if who == "client" else ends[::-1]

    def send() -> None:
        see_writes_fail(other)

    def read_some() -> None:
        assert len(receive_exactly(one, 300_000)) == 300_000
        one.close()

    both(send, read_some)
    assert see_end(other) in ("eof", "reset")
    entry = ending()
    assert (entry["reason"], entry["ended_by"]) == ("reset", who)


CLIENT = """
import sys, meshless_sdk
connection = meshless_sdk.connect(sys.argv[1], path=sys.argv[2])
connection.sendall(b"from the client")
print("up", flush=True)
sys.stdin.read()
"""

SERVER = """
import sys, meshless_sdk
listener = meshless_sdk.listen("http", path=sys.argv[1])
print("up", flush=True)
connection, _ = listener.accept()
connection.sendall(b"from the server")
print("accepted", flush=True)
sys.stdin.read()
"""


@contextlib.contextmanager
def program(text: str, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """A process of somebody else's; it has said "up"."""
    process = subprocess.Popen([sys.executable, "-c", text, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == b"up\n"
        yield process
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("unread", [False, True], ids=["nothing-unread", "bytes-unread"])
def test_a_client_killed_ends_its_connection(place: Place, unread: bool, ending: Callable[[], dict[str, Any]]) -> None:
    with program(CLIENT, place.service_id, place.mesh.client_path("web-0")) as process:
        service, _ = place.listener.accept()
        with service:
            service.settimeout(30)
            assert receive_exactly(service, 15) == b"from the client"
            if unread:
                service.sendall(b"never read")
                until(lambda: sum(row["bytes_to_client"] for row in place.agents[0].connections()) == 10, "delivered")
            os.kill(process.pid, signal.SIGKILL)
            assert see_end(service) in (("eof", "reset") if unread else ("eof",))  # a kill over nothing unread is a close
            see_writes_fail(service)
    entry = ending()
    assert entry["ended_by"] == "client"
    assert entry["reason"] in (("reset",) if unread else ("closed", "reset"))


@pytest.mark.parametrize("unread", [False, True], ids=["nothing-unread", "bytes-unread"])
def test_a_server_killed_ends_its_connection(place: Place, unread: bool, ending: Callable[[], dict[str, Any]]) -> None:
    place.listener.close()
    path = str(place.mesh.pod(f"{place.name}-0") / "server" / "http")
    with program(SERVER, path) as process, place.mesh.dial(place.service_id, "web-0") as client:
        assert process.stdout is not None
        assert process.stdout.readline() == b"accepted\n"
        assert receive_exactly(client, 15) == b"from the server"
        if unread:
            client.sendall(b"never read")
            until(lambda: sum(row["bytes_to_service"] for row in place.agents[-1].connections()) == 10, "delivered")
        os.kill(process.pid, signal.SIGKILL)
        assert see_end(client) in (("eof", "reset") if unread else ("eof",))
        see_writes_fail(client)
    entry = ending()
    assert entry["ended_by"] == "service"
    assert entry["reason"] in (("reset",) if unread else ("closed", "reset"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("place", "which", "busy"),
    [
        pytest.param("near", 0, False, id="same-node-idle"),
        pytest.param("near", 0, True, id="same-node-bulk"),
        pytest.param("far", 0, True, id="cross-node-bulk-the-clients-agent"),
        pytest.param("far", 1, True, id="cross-node-bulk-the-services-agent"),
        pytest.param("far", 1, False, id="cross-node-idle-the-services-agent"),
    ],
    indirect=["place"],
)
def test_an_agent_killed_ends_its_connections_at_both_ends_and_the_next_one_is_served(
    place: Place, which: int, busy: bool
) -> None:
    agent = place.agents[which]
    client, service = place.connect()
    with client, service:
        if busy:
            fill(client)
            fill(service)
        old = agent.kill()
        assert see_end(client) in ("eof", "reset")
        assert see_end(service) in ("eof", "reset")
        see_writes_fail(client)
        see_writes_fail(service)
    if agent.name == "node-a":
        client, service = place.connect()  # no refusal: it waits in the backlog until the agent is back
    else:
        client, service = until(partial(connect_unless_refused, place), "the services' agent is back")
    with client, service:
        client.sendall(b"again")
        client.shutdown(socket.SHUT_WR)
        assert receive_all(service) == b"again"
    assert agent.pid != old


def send_and_close(end: socket.socket, data: bytes) -> None:
    end.sendall(data)
    end.close()


def fill(end: socket.socket) -> None:
    """Send until nothing more fits anywhere on the way."""
    end.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        while True:
            end.send(b"x" * 65536)
    end.settimeout(30)


def connect_unless_refused(place: Place) -> tuple[socket.socket, socket.socket] | None:
    """Both ends, or None while there is a refusal that may be retried."""
    try:
        return place.connect()
    except meshless_sdk.ConnectError as refused:
        if not refused.retryable:
            raise
        return None


def is_idle(agent: AgentView) -> bool:
    return agent.ready and not agent.connections()


def test_nothing_is_left_in_any_table(mesh: RunningMesh) -> None:
    for agent in mesh.agents.values():
        until(partial(is_idle, agent), f"no connection left on {agent.name}")
        assert agent.metric("meshless_connections_active") == 0
        assert agent.metric("meshless_handshakes_pending") == 0
