"""Whatever two applications do to their ends, in whatever order: nothing is invented, and once both are gone it is over.

The seed of a case is its number, so a failing one can be repeated alone.
"""

import asyncio

import pytest

from meshless_core.relay import framed
from tests.relay.applications import judge, storm
from tests.relay.plain_connection import Connection

CASES = range(60)


@pytest.mark.parametrize("kinds", [("unix", "unix"), ("tcp", "tcp"), ("unix", "tcp")], ids="-".join)
@pytest.mark.parametrize("number", CASES)
async def test_within_a_node(reactor, pair, number, kinds):
    c = Connection(reactor, pair, *kinds)
    ends = await storm(number, c.client, c.service)
    await c.over()
    judge(ends)


@pytest.mark.parametrize("kind", ["unix", "tcp"])
@pytest.mark.parametrize("number", CASES)
async def test_between_nodes(plaintext, number, kind, monkeypatch):
    monkeypatch.setattr(framed, "LINGER", 0.2)
    client, service = await plaintext.connect(kind=kind)
    ends = await storm(number, client.end, service.end)
    for end in (client, service):
        _result, reusable = await end.over()
        assert reusable == (end_state(plaintext, end) == "idle")
    judge(ends)
    if "dead" in (plaintext.client.state, plaintext.server.state):
        async with asyncio.timeout(10):
            while not (plaintext.client.stream.closed and plaintext.server.stream.closed):
                await asyncio.sleep(0.005)


def end_state(sessions, end):
    return (sessions.client if end.side == "client" else sessions.server).state
