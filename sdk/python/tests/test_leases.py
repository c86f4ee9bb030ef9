from __future__ import annotations

import contextlib
import gc
import os
import resource
import select
import socket
import threading
import time
import warnings
from collections.abc import Callable, Iterator

import meshless_sdk
import pytest
from meshless_sdk import leases
from meshless_sdk.leases import Lease
from meshless_sdk.mesh_socket import MeshSocket

pytestmark = pytest.mark.usefixtures("watcher", "no_descriptor_leaks")


class Handed:
    """A handed-over connection with both far ends in the test's hands."""

    def __init__(self, on_drain: Callable[[str], object] | None = None) -> None:
        self.agent, lease = MeshSocket_pair()
        self.server, client = MeshSocket_pair()
        self.lease = Lease(lease, on_drain)
        self.client = client
        client.hold(self.lease)
        self.agent.settimeout(10)
        self.server.settimeout(10)

    def lease_ended(self) -> bool:
        return bool(select.select([self.agent], [], [], 0)[0]) and self.agent.recv(1) == b""

    def close(self) -> None:
        for one in (self.agent, self.server, self.client):
            one.close()


def MeshSocket_pair() -> tuple[MeshSocket, MeshSocket]:  # noqa: N802 - named after what it makes
    left, right = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    return MeshSocket(fileno=left.detach()), MeshSocket(fileno=right.detach())


@pytest.fixture
def handed() -> Iterator[Handed]:
    one = Handed()
    yield one
    one.close()


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.002)


def test_closing_the_socket_ends_the_lease(handed: Handed) -> None:
    handed.client.close()
    assert handed.lease_ended()
    handed.client.close()  # again is no error


def test_revoked_shuts_the_socket_down_in_both_directions(handed: Handed) -> None:
    handed.agent.sendall(b"\x02\x00\x02no")
    assert handed.server.recv(1) == b""
    assert handed.client.recv(1) == b""
    with pytest.raises(BrokenPipeError):
        handed.client.send(b"x")
    assert handed.client.revoked
    assert handed.agent.recv(1) == b""  # and the lease is closed


def test_nonsense_on_the_lease_is_taken_for_revoked(handed: Handed) -> None:
    handed.agent.sendall(b"\x01\xff\xff")
    assert handed.server.recv(1) == b""
    assert handed.client.revoked


def test_drain_tells_and_leaves_the_connection_alone() -> None:
    said: list[str] = []
    heard = threading.Event()

    def on_drain(text: str) -> None:
        said.append(text)
        heard.set()

    handed = Handed(on_drain)
    handed.agent.sendall(b"\x01\x00\x04soon")
    assert heard.wait(10)
    assert said == ["soon"]
    assert handed.client.draining
    assert not handed.client.revoked
    handed.client.sendall(b"last words")
    assert handed.server.recv(100) == b"last words"
    handed.close()


def test_an_agent_that_dies_leaves_the_connection_alone(handed: Handed) -> None:
    handed.agent.sendall(b"\x01\x00")  # in the middle of a notice
    handed.agent.close()
    wait_until(lambda: handed.lease._connection.fileno() < 0)
    handed.client.sendall(b"still here")
    assert handed.server.recv(100) == b"still here"
    assert not handed.client.revoked
    assert handed.client.draining, "nobody counts it any more"


def test_the_lease_lives_as_long_as_the_longest_of_socket_dup_and_makefile(handed: Handed) -> None:
    copy = handed.client.dup()
    stream = handed.client.makefile("rb")
    assert (copy.service_id, copy.handed_over) == (handed.client.service_id, True)
    handed.client.close()
    copy.close()
    assert not handed.lease_ended()
    stream.close()
    assert handed.lease_ended()


def test_revoked_reaches_a_dup(handed: Handed) -> None:
    copy = handed.client.dup()
    handed.client.close()
    handed.agent.sendall(b"\x02\x00\x00")
    assert handed.server.recv(1) == b""
    assert copy.revoked
    copy.close()


def test_a_socket_that_was_never_closed_ends_its_lease_when_it_is_collected() -> None:
    handed = Handed()
    agent, server = handed.agent, handed.server
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # Python says "unclosed", rightly
        del handed
        gc.collect()
    assert agent.recv(1) == b""
    agent.close()
    server.close()


@pytest.mark.parametrize("moved", [False, True])
def test_a_detached_descriptor_keeps_the_lease_until_it_is_closed(handed: Handed, moved: bool) -> None:
    descriptor = handed.client.detach()
    if moved:
        other = os.dup(descriptor)
        os.close(descriptor)
        descriptor = other
    assert handed.lease.look_for_detached()
    assert not handed.lease_ended()
    os.close(descriptor)
    assert handed.agent.recv(1) == b""  # within a second, by the watching thread


def test_revoked_reaches_a_detached_descriptor(handed: Handed) -> None:
    with socket.socket(fileno=handed.client.detach()):
        handed.agent.sendall(b"\x02\x00\x00")
        assert handed.server.recv(1) == b""
    wait_until(lambda: handed.lease not in leases._watch()._looking_for)


def test_a_socket_without_a_lease_can_be_detached() -> None:
    left, right = MeshSocket_pair()
    with right, socket.socket(fileno=left.detach()) as bare:
        bare.sendall(b"x")
        assert right.recv(1) == b"x"


def test_a_failing_callback_is_reported_and_the_watch_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    reported = threading.Event()
    monkeypatch.setattr(threading, "excepthook", lambda _: reported.set())

    def fail(text: str) -> None:
        raise RuntimeError(text)

    first, second = Handed(fail), Handed()
    first.agent.sendall(b"\x01\x00\x00")
    assert reported.wait(10)
    second.agent.sendall(b"\x02\x00\x00")
    assert second.server.recv(1) == b""
    first.close()
    second.close()


def test_one_thread_watches_any_number_of_leases() -> None:
    many = [Handed() for _ in range(50)]
    assert sum(thread.name == "meshless-leases" for thread in threading.enumerate()) == 1
    for one in many:
        one.agent.sendall(b"\x02\x00\x00")
    for one in many:
        assert one.server.recv(1) == b""
        one.close()


@pytest.mark.filterwarnings("ignore:This process.*multi-threaded:DeprecationWarning")  # exactly what is tested
def test_a_child_closes_its_copy_without_ending_the_parents_lease_and_watches_its_own(handed: Handed) -> None:
    child = os.fork()
    if child == 0:
        code = 1
        try:
            handed.client.close()
            own = Handed()
            own.agent.sendall(b"\x02\x00\x00")
            code = 0 if own.server.recv(1) == b"" and own.client.revoked else 2
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert not handed.lease_ended()
    handed.agent.sendall(b"\x02\x00\x00")  # the parent still watches
    assert handed.server.recv(1) == b""


def test_a_connection_is_not_pickled(handed: Handed) -> None:
    import pickle

    with pytest.raises(TypeError, match="dial in the other process"):
        pickle.dumps(handed.client)


def test_the_socket_is_exported() -> None:
    assert meshless_sdk.MeshSocket is MeshSocket


def test_without_a_descriptor_to_look_with_a_detached_one_counts_as_open_and_the_watch_goes_on(handed: Handed) -> None:
    descriptor = handed.client.detach()
    moved = os.dup(descriptor)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.ExitStack() as stack:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, 256), hard))
        stack.callback(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
        others = []
        with contextlib.suppress(OSError):
            while True:
                others.append(stack.enter_context(open(os.devnull, "rb")))
        os.dup2(others[0].fileno(), descriptor)  # so it has to be looked for under other numbers
        assert handed.lease.look_for_detached()
    os.close(descriptor)
    assert not handed.lease_ended()
    os.close(moved)
    wait_until(handed.lease_ended)
