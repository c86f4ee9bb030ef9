from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import meshless_sdk
import pytest
from meshless_sdk import dialler as module
from meshless_sdk.testing import FakeAgent

SERVICE = "http.cart.shop"
TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
NO_PAUSE = meshless_sdk.Retry(3, base=0.0)

pytestmark = pytest.mark.usefixtures("watcher", "no_descriptor_leaks", "nothing_remembered")


@pytest.fixture
def nothing_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_without_version_2", {})


@pytest.fixture
def fake() -> Iterator[FakeAgent]:
    with FakeAgent() as agent:
        yield agent


@pytest.fixture
def handing_over() -> Iterator[FakeAgent]:
    with FakeAgent(hand_over=True) as agent:
        yield agent


def echo(connection: socket.socket) -> None:
    while data := connection.recv(1000):
        connection.sendall(data)


def exchange(connection: socket.socket) -> None:
    connection.sendall(b"ping")
    assert connection.recv(100) == b"ping"


def test_the_socket_is_the_connection_and_knows_which(fake: FakeAgent) -> None:
    fake.serve(SERVICE, echo, version="v2")
    with meshless_sdk.Dialer().connect(SERVICE) as connection:
        exchange(connection)
        assert connection.gettimeout() is None
        assert connection.service_id == SERVICE
        assert connection.connection_id == fake.dials[0].connection_id
        assert (connection.version, connection.endpoint, connection.handshake_version) == ("v2", "test/fake-0", 2)
        assert not connection.handed_over


def test_wishes_reach_the_agent(fake: FakeAgent) -> None:
    fake.serve(SERVICE, echo)
    dialler = meshless_sdk.Dialer(
        handshake_timeout=10, deadline=None, sticky_key=b"k", version_pin="v2", traceparent=TRACE, receive_descriptors=True
    )
    dialler.connect(SERVICE).close()
    dialler.connect(SERVICE, sticky_key=b"other", version_pin="v3").close()
    first, second = fake.dials
    assert (first.sticky_key, first.version_pin, first.traceparent, first.accepts_descriptor) == (b"k", "v2", TRACE, True)
    assert (second.sticky_key, second.version_pin) == (b"other", "v3")
    assert first.deadline == 9.9  # earlier than ours, so that the agent's reason arrives


def test_a_traceparent_is_asked_for_at_every_try(fake: FakeAgent) -> None:
    traces = [TRACE, TRACE.replace("-01", "-00")]
    fake.refuse(SERVICE, "NO_ENDPOINT", times=1)
    fake.serve(SERVICE, echo)
    meshless_sdk.Dialer(traceparent=iter(traces).__next__, retry=NO_PAUSE).connect(SERVICE).close()
    assert [dial.traceparent for dial in fake.dials] == traces


def test_a_retryable_refusal_is_tried_again(fake: FakeAgent) -> None:
    fake.refuse(SERVICE, "CONNECTION_LIMIT", times=2)
    fake.serve(SERVICE, echo)
    with meshless_sdk.Dialer(retry=NO_PAUSE).connect(SERVICE) as connection:
        exchange(connection)
    assert len(fake.dials) == 3


def test_a_final_refusal_is_not_tried_again_and_says_all_it_knows(fake: FakeAgent) -> None:
    fake.refuse(SERVICE, "ACCESS_DENIED", text="policy_declared: not declared")
    with pytest.raises(meshless_sdk.AccessDenied) as caught:
        meshless_sdk.Dialer().connect(SERVICE)
    (dial,) = fake.dials
    assert (caught.value.connection_id, caught.value.text) == (dial.connection_id, "policy_declared: not declared")
    assert str(caught.value).endswith(f"(the agent: policy_declared: not declared) [connection {dial.connection_id}]")


def test_the_last_refusal_is_raised_when_tries_run_out(fake: FakeAgent) -> None:
    fake.refuse(SERVICE, "NO_ENDPOINT", retry_after=0.0)
    with pytest.raises(meshless_sdk.NoEndpoint) as caught:
        meshless_sdk.Dialer(retry=NO_PAUSE).connect(SERVICE)
    assert caught.value.retry_after == 0.0
    assert len(fake.dials) == 3


def test_a_pause_that_would_miss_the_deadline_is_not_waited(fake: FakeAgent) -> None:
    fake.refuse(SERVICE, "NO_ENDPOINT", retry_after=3600)
    with pytest.raises(meshless_sdk.NoEndpoint):
        meshless_sdk.Dialer().connect(SERVICE, deadline=3000)  # the test would not last as long as either


def test_a_bad_service_id_or_wish_is_found_before_anything_is_sent() -> None:
    with pytest.raises(meshless_sdk.InvalidServiceId):
        meshless_sdk.Dialer(path="/nowhere").connect("http")
    with pytest.raises(meshless_sdk.InvalidArgument):
        meshless_sdk.Dialer(sticky_key=b"")


def test_an_agent_that_comes_later_is_waited_for(tmp_path_factory: pytest.TempPathFactory) -> None:
    path = str(tmp_path_factory.mktemp("p") / "meshless")

    def begin() -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
            listener.bind(path)  # for a moment it refuses
            listener.listen()
            connection, _ = listener.accept()
            with connection:
                connection.recv(100)
                connection.sendall(b"\x02\x00\x00\x00")

    timer = threading.Timer(0.05, begin)
    timer.start()
    meshless_sdk.Dialer(path=path, retry=meshless_sdk.Retry(1)).connect(SERVICE).close()
    timer.join()


def test_an_agent_that_never_comes_is_waited_for_until_the_deadline(looks: Any) -> None:
    with pytest.raises(meshless_sdk.AgentUnavailable, match="there is no such socket"):
        meshless_sdk.Dialer(path="/nowhere/meshless").connect(SERVICE, deadline=0.05)
    looked = looks.count
    with pytest.raises(meshless_sdk.AgentUnavailable, match="there is no such socket"):
        meshless_sdk.Dialer(path="/nowhere/meshless", wait_for_agent=0).connect(SERVICE)
    assert looks.count == looked + 1


def test_an_agent_without_version_2_is_dialled_in_version_1_and_remembered() -> None:
    with FakeAgent(versions=(1,)) as agent:
        agent.serve(SERVICE, echo)
        dialler = meshless_sdk.Dialer(retry=meshless_sdk.Retry(1), sticky_key=b"k", receive_descriptors=True)
        for _ in range(2):
            with dialler.connect(SERVICE) as connection:
                exchange(connection)
                assert (connection.handshake_version, connection.connection_id) == (1, "")
        assert [dial.handshake_version for dial in agent.dials] == [1, 1]
        assert list(module._without_version_2) == [agent.path]


def test_after_a_while_version_2_is_tried_again(fake: FakeAgent) -> None:
    module._without_version_2[fake.path] = time.monotonic() - 1
    fake.serve(SERVICE, echo)
    meshless_sdk.Dialer().connect(SERVICE).close()
    assert fake.dials[0].handshake_version == 2


def test_a_refusal_in_version_1_before_anything_was_read_is_heard(agent: Any) -> None:
    agent.plays(lambda connection: connection.sendall(b"\x01\x0b"))
    with pytest.raises(meshless_sdk.Overloaded):
        meshless_sdk.Dialer(retry=meshless_sdk.Retry(1)).connect(SERVICE)


def test_no_reply_in_time_is_a_handshake_timeout(agent: Any) -> None:
    def serve(connection: socket.socket) -> None:
        connection.recv(100)
        assert connection.recv(1) == b""

    agent.plays(serve)
    with pytest.raises(meshless_sdk.HandshakeTimeout, match=r"within 0\.05 s"):
        meshless_sdk.Dialer(handshake_timeout=0.05, retry=meshless_sdk.Retry(1)).connect(SERVICE)


def test_a_handed_over_connection_is_the_services_own_and_ends_its_lease(handing_over: FakeAgent) -> None:
    handing_over.serve(SERVICE, echo)
    with meshless_sdk.Dialer(receive_descriptors=True).connect(SERVICE) as connection:
        assert connection.handed_over
        assert connection.gettimeout() is None
        assert connection.connection_id == handing_over.dials[0].connection_id
        exchange(connection)
        assert handing_over.handed_over(SERVICE) == 1
    wait_until(lambda: handing_over.handed_over(SERVICE) == 0)


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.002)


def test_it_is_offered_unless_the_application_says_no(handing_over: FakeAgent) -> None:
    handing_over.serve(SERVICE, echo)
    with meshless_sdk.Dialer().connect(SERVICE) as connection:
        assert connection.handed_over
        exchange(connection)
    with meshless_sdk.Dialer(receive_descriptors=False).connect(SERVICE) as connection:
        assert not connection.handed_over
        exchange(connection)


def no_thread_can_start(monkeypatch: pytest.MonkeyPatch) -> None:
    def start(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", start)


def threads_are_green(monkeypatch: pytest.MonkeyPatch) -> None:
    def start_new_thread(*arguments: object) -> None:
        raise AssertionError("a green thread that waits in epoll stops all the others")

    start_new_thread.__module__ = "gevent.threading"
    monkeypatch.setattr("_thread.start_new_thread", start_new_thread)


def epoll_is_taken_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(select, "epoll")


@pytest.mark.parametrize("without", [no_thread_can_start, threads_are_green, epoll_is_taken_away])
def test_a_process_that_cannot_watch_leases_gets_ordinary_connections(
    handing_over: FakeAgent, without: Callable[[pytest.MonkeyPatch], None]
) -> None:
    handing_over.serve(SERVICE, echo)

    def work() -> None:  # in a process that has no watching thread yet; the fake agent's threads are its parent's
        with pytest.MonkeyPatch.context() as patch:
            without(patch)
            once = meshless_sdk.Dialer(retry=meshless_sdk.Retry(1))
            for _ in range(2):
                with once.connect(SERVICE) as connection:
                    assert not connection.handed_over
                    exchange(connection)

    assert in_child(work) == 0
    assert [dial.accepts_descriptor for dial in handing_over.dials] == [True, False, False]


HANDING_OVER = b"\x02\x00\x00\x03\x96\x00\x00"


def sending(*descriptors: int, data: bytes = b"\0") -> Callable[[socket.socket], None]:
    def serve(connection: socket.socket) -> None:
        connection.recv(100)
        connection.sendall(HANDING_OVER)
        socket.send_fds(connection, [data], list(descriptors))

    return serve


def dial_once() -> None:
    meshless_sdk.Dialer(receive_descriptors=True, retry=meshless_sdk.Retry(1)).connect(SERVICE).close()


def test_anything_but_one_stream_socket_is_a_protocol_error_and_closed(agent: Any) -> None:
    left, right = socket.socketpair()
    datagram = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    reading, writing = os.pipe()
    with left, right, datagram:
        for serve in (
            sending(left.fileno(), right.fileno()),
            sending(left.fileno(), data=b"\x01"),
            sending(*[left.fileno()] * 20),
            sending(reading),
            sending(datagram.fileno()),
        ):
            agent.plays(serve)
            with pytest.raises(meshless_sdk.ProtocolError):
                dial_once()
    os.close(reading)
    os.close(writing)


def test_an_agent_that_dies_before_the_descriptor_is_unavailable(agent: Any) -> None:
    def serve(connection: socket.socket) -> None:
        connection.recv(100)
        connection.sendall(HANDING_OVER)

    agent.plays(serve)
    with pytest.raises(meshless_sdk.AgentUnavailable, match="before it handed over"):
        dial_once()


def test_an_interrupted_dial_leaves_nothing_open(agent: Any) -> None:
    class StopError(Exception):
        pass

    def interrupt(number: int, frame: object) -> None:
        raise StopError

    def serve(connection: socket.socket) -> None:
        connection.recv(100)
        connection.sendall(HANDING_OVER)
        signal.setitimer(signal.ITIMER_REAL, 0.001)
        with contextlib.suppress(ConnectionResetError):  # if it was interrupted before it had read what was sent
            assert connection.recv(1) == b""

    before = signal.signal(signal.SIGALRM, interrupt)
    agent.plays(serve)
    try:
        with pytest.raises(StopError):
            dial_once()
    finally:
        signal.signal(signal.SIGALRM, before)


def test_threads_share_a_dialler(fake: FakeAgent) -> None:
    fake.serve(SERVICE, echo)
    dialler = meshless_sdk.Dialer()
    failures: list[BaseException] = []

    def work() -> None:
        try:
            for _ in range(20):
                with dialler.connect(SERVICE) as connection:
                    exchange(connection)
        except BaseException as error:  # noqa: BLE001 - told below
            failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert len(fake.dials) == 160


def in_child(work: Callable[[], None]) -> int:
    child = os.fork()
    if child == 0:
        code = 1
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.mark.filterwarnings("ignore:This process.*multi-threaded:DeprecationWarning")  # exactly what is tested
def test_a_child_process_dials_and_its_end_does_not_end_the_parents_connection(handing_over: FakeAgent) -> None:
    handing_over.serve(SERVICE, echo)
    dialler = meshless_sdk.Dialer(receive_descriptors=True)
    with dialler.connect(SERVICE) as mine:

        def work() -> None:
            with dialler.connect(SERVICE) as own:
                exchange(own)
            mine.close()

        assert in_child(work) == 0
        exchange(mine)
        wait_until(lambda: handing_over.handed_over(SERVICE) == 1)  # the child's own has ended with it
        assert handing_over.revoke(SERVICE) == 1
        readable, _, _ = select.select([mine], [], [], 10)
        assert readable
        assert mine.recv(1) == b""
        assert mine.revoked


def test_importing_and_dialling_needs_no_asyncio(fake: FakeAgent) -> None:
    fake.serve(SERVICE, echo)
    code = (
        "import sys, meshless_sdk; meshless_sdk.Dialer(receive_descriptors=True).connect('http.cart.shop').close(); "
        "assert 'asyncio' not in sys.modules"
    )
    import subprocess
    import sys

    subprocess.run([sys.executable, "-c", code], check=True)
