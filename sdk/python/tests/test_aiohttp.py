from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import meshless_sdk
import pytest
from meshless_sdk.aiohttp import MeshConnector

ONCE = meshless_sdk.Dialer(retry=meshless_sdk.Retry(1), wait_for_agent=0)
URL = "http://http.cart.shop"


@pytest.fixture
async def session(shop: Any) -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(connector=MeshConnector(ONCE, limit=1)) as one:
        yield one


async def test_requests_share_a_connection(shop: Any, session: aiohttp.ClientSession) -> None:
    for _ in range(3):
        async with session.get(f"{URL}/hello") as response:
            assert await response.text() == "hello from http.cart.shop"
    async with session.post(URL, data=b"x" * 200_000) as response:
        assert await response.read() == b"x" * 200_000
    assert shop.connections == 1


async def test_a_connection_whose_agent_goes_away_ends_with_the_next_request(shop: Any, session: aiohttp.ClientSession) -> None:
    for number in range(3):
        async with session.get(f"{URL}/hello") as response:
            assert await response.text() == "hello from http.cart.shop"
        if not number:
            was_handed_over = await asyncio.to_thread(shop.leave)
    assert shop.connections == 1 + was_handed_over


async def test_a_body_is_streamed(shop: Any, session: aiohttp.ClientSession) -> None:
    async with session.get(f"{URL}/stream") as response:
        assert await response.content.readany() == b"first"
        shop.proceed.set()
        assert await response.content.readany() == b"second"


async def test_a_slow_answer_is_a_read_timeout(session: aiohttp.ClientSession) -> None:
    with pytest.raises(aiohttp.SocketTimeoutError):
        async with session.get(f"{URL}/slow", timeout=aiohttp.ClientTimeout(sock_read=0.05)):
            pass


async def test_more_than_the_limit_wait(shop: Any, session: aiohttp.ClientSession) -> None:
    async with session.get(f"{URL}/stream") as response:
        waiting = asyncio.create_task(session.get(f"{URL}/hello"))
        await asyncio.sleep(0.02)
        assert not waiting.done()
        shop.proceed.set()
        await response.read()
    async with await waiting as answer:
        assert answer.status == 200
    assert shop.connections == 1


async def test_a_refusal_is_a_connector_error_from_ours(shop: Any, session: aiohttp.ClientSession) -> None:
    shop.agent.refuse("http.cart.shop", "ACCESS_DENIED")
    with pytest.raises(aiohttp.ClientConnectorError, match=r"ACCESS_DENIED \(4\)") as caught:
        await session.get(URL)
    assert isinstance(caught.value.__cause__, meshless_sdk.AccessDenied)
    assert caught.value.os_error is caught.value.__cause__


async def test_an_agent_that_does_not_reply_is_a_connection_timeout(agent: Any) -> None:
    agent.plays(lambda connection: [connection.recv(100), connection.recv(1)])
    async with aiohttp.ClientSession(connector=MeshConnector(ONCE)) as session:
        with pytest.raises(aiohttp.ConnectionTimeoutError):
            await session.get(URL, timeout=aiohttp.ClientTimeout(sock_connect=0.05))


async def test_a_name_that_is_no_service_id_is_a_connector_error(session: aiohttp.ClientSession) -> None:
    with pytest.raises(aiohttp.ClientConnectorError, match="is not a service id"):
        await session.get("http://example.org")


async def test_https_says_what_to_write(session: aiohttp.ClientSession) -> None:
    with pytest.raises(aiohttp.ClientConnectorError, match="it encrypts between nodes by itself"):
        await session.get("https://http.cart.shop")
