from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from typing import Any

import meshless_sdk
import pytest
from meshless_sdk import dialler as module
from meshless_sdk.testing import FakeAgent

SERVICE = "http.cart.shop"
NO_PAUSE = meshless_sdk.Retry(3, base=0.0)

pytestmark = pytest.mark.usefixtures("watcher", "no_descriptor_leaks", "nothing_remembered")


@pytest.fixture
def nothing_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_without_version_2", {})


def echo(connection: socket.socket) -> None:
    while data := connection.recv(1000):
        connection.sendall(data)


@pytest.fixture(params=[False, True], ids=["relayed", "handed over"])
async def fake(request: pytest.FixtureRequest) -> AsyncIterator[FakeAgent]:
    with FakeAgent(hand_over=request.param) as agent:
        yield agent


async def close(writer: asyncio.StreamWriter) -> None:
    writer.close()
    await writer.wait_closed()


async def test_the_streams_are_the_connection_to_the_service(fake: FakeAgent) -> None:
    fake.serve(SERVICE, echo)
    reader, writer = await meshless_sdk.Dialer(receive_descriptors=True).open_connection(SERVICE)
    writer.write(b"ping")
    assert await reader.readexactly(4) == b"ping"
    writer.write_eof()
    assert await reader.read() == b""
    await close(writer)


async def test_the_socket_is_non_blocking_and_knows_which_connection_it_is(fake: FakeAgent) -> None:
    fake.serve(SERVICE, echo, version="v1")
    with await meshless_sdk.Dialer(receive_descriptors=True).open_socket(SERVICE) as connection:
        assert connection.gettimeout() == 0
        assert (connection.connection_id, connection.version) == (fake.dials[0].connection_id, "v1")
        assert connection.handed_over == fake._hand_over


async def test_refusals_are_tried_again_and_the_last_one_raised(fake: FakeAgent) -> None:
    fake.refuse(SERVICE, "OVERLOADED", times=3)
    fake.serve(SERVICE, echo)
    dialler = meshless_sdk.Dialer(retry=NO_PAUSE)
    with pytest.raises(meshless_sdk.Overloaded):
        await dialler.open_socket(SERVICE)
    fake.refuse(SERVICE, "OVERLOADED", times=2)
    (await dialler.open_socket(SERVICE)).close()
    assert len(fake.dials) == 6


async def test_an_agent_without_version_2_is_dialled_in_version_1() -> None:
    with FakeAgent(versions=(1,)) as agent:
        agent.serve(SERVICE, echo)
        with await meshless_sdk.Dialer(retry=meshless_sdk.Retry(1)).open_socket(SERVICE) as connection:
            assert connection.handshake_version == 1


async def test_an_agent_that_never_comes_is_waited_for_until_the_deadline(looks: Any) -> None:
    with pytest.raises(meshless_sdk.AgentUnavailable, match="there is no such socket"):
        await meshless_sdk.Dialer(path="/nowhere/meshless").open_connection(SERVICE, deadline=0.05)
    looked = looks.count
    with pytest.raises(meshless_sdk.AgentUnavailable, match="there is no such socket"):
        await meshless_sdk.Dialer(path="/nowhere/meshless", wait_for_agent=0).open_connection(SERVICE)
    assert looks.count == looked + 1


async def test_no_reply_in_time_is_a_handshake_timeout(agent: Any) -> None:
    def serve(connection: socket.socket) -> None:
        connection.recv(100)
        assert connection.recv(1) == b""

    agent.plays(serve)
    with pytest.raises(meshless_sdk.HandshakeTimeout, match=r"within 0\.05 s"):
        await meshless_sdk.Dialer(handshake_timeout=0.05, retry=meshless_sdk.Retry(1)).open_socket(SERVICE)


async def test_the_agents_own_timeout_is_told_from_ours(agent: Any) -> None:
    def serve(connection: socket.socket) -> None:
        connection.recv(100)
        connection.sendall(b"\x02\x09\x00\x00")

    agent.plays(serve)
    with pytest.raises(meshless_sdk.AgentTimeout):
        await meshless_sdk.Dialer(retry=meshless_sdk.Retry(1)).open_socket(SERVICE)


@pytest.mark.parametrize(
    "said", [b"", b"\x02", b"\x02\x00\x00\x03", b"\x02\x00\x00\x03\x96\x00\x00"], ids=["nothing", "half", "header", "reply"]
)
async def test_a_cancelled_dial_leaves_nothing_open_at_any_stage(agent: Any, said: bytes) -> None:
    loop, reached = asyncio.get_running_loop(), asyncio.Event()

    def serve(connection: socket.socket) -> None:
        connection.recv(100)
        connection.sendall(said)
        loop.call_soon_threadsafe(reached.set)
        assert connection.recv(1) == b""

    agent.plays(serve)
    task = asyncio.create_task(meshless_sdk.Dialer(receive_descriptors=True).open_socket(SERVICE))
    await reached.wait()
    for _ in range(5):
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
