from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
import meshless_sdk
import pytest
from meshless_sdk.httpx import AsyncMeshTransport, MeshTransport

ONCE = meshless_sdk.Dialer(retry=meshless_sdk.Retry(1), wait_for_agent=0)
URL = "http://http.cart.shop"


@pytest.fixture
def client(shop: Any) -> Iterator[httpx.Client]:
    with httpx.Client(transport=MeshTransport(ONCE)) as one:
        yield one


@pytest.fixture
async def aclient(shop: Any) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(transport=AsyncMeshTransport(ONCE)) as one:
        yield one


def test_requests_share_a_connection(shop: Any, client: httpx.Client) -> None:
    for _ in range(3):
        assert client.get(f"{URL}/hello").text == "hello from http.cart.shop"
    assert client.post(URL, content=b"x" * 200_000).content == b"x" * 200_000
    assert shop.connections == 1


def test_a_connection_whose_agent_goes_away_is_not_used_again(shop: Any, client: httpx.Client) -> None:
    assert client.get(f"{URL}/hello").status_code == 200
    was_handed_over = shop.leave()
    assert client.get(f"{URL}/hello").status_code == 200
    assert shop.connections == 1 + was_handed_over


async def test_an_asyncio_connection_whose_agent_goes_away_is_not_used_again(shop: Any, aclient: httpx.AsyncClient) -> None:
    assert (await aclient.get(f"{URL}/hello")).status_code == 200
    was_handed_over = await asyncio.to_thread(shop.leave)
    assert (await aclient.get(f"{URL}/hello")).status_code == 200
    assert shop.connections == 1 + was_handed_over


def test_a_connection_the_server_closed_is_not_used_again(shop: Any, client: httpx.Client) -> None:
    for _ in range(2):
        assert client.get(f"{URL}/close").status_code == 200
    assert shop.connections == 2


def test_a_body_is_streamed(shop: Any, client: httpx.Client) -> None:
    with client.stream("GET", f"{URL}/stream") as response:
        parts = response.iter_bytes()
        assert next(parts) == b"first"
        shop.proceed.set()
        assert next(parts) == b"second"


def test_a_slow_answer_is_a_read_timeout(client: httpx.Client) -> None:
    with pytest.raises(httpx.ReadTimeout):
        client.get(f"{URL}/slow", timeout=httpx.Timeout(20, read=0.05))


def test_the_pools_limit_is_a_pool_timeout(shop: Any) -> None:
    limits = httpx.Limits(max_connections=1)
    with (
        httpx.Client(transport=MeshTransport(ONCE, limits=limits)) as client,
        client.stream("GET", f"{URL}/stream") as response,
    ):
        with pytest.raises(httpx.PoolTimeout):
            client.get(f"{URL}/hello", timeout=httpx.Timeout(20, pool=0.05))
        shop.proceed.set()
        response.read()


def test_a_refusal_is_a_connect_error_from_ours(shop: Any, client: httpx.Client) -> None:
    shop.agent.refuse("http.cart.shop", "ACCESS_DENIED")
    with pytest.raises(httpx.ConnectError) as caught:
        client.get(URL)
    assert isinstance(caught.value.__cause__, meshless_sdk.AccessDenied)
    assert str(caught.value) == str(caught.value.__cause__)
    assert caught.value.request.url == URL


def test_a_name_that_is_no_service_id_is_a_connect_error_from_ours(client: httpx.Client) -> None:
    with pytest.raises(httpx.ConnectError) as caught:
        client.get("http://example.org")
    assert isinstance(caught.value.__cause__, meshless_sdk.InvalidServiceId)


def test_https_says_what_to_write(client: httpx.Client) -> None:
    with pytest.raises(httpx.UnsupportedProtocol, match="it encrypts between nodes by itself"):
        client.get("https://http.cart.shop")


async def test_async_requests_share_a_connection(shop: Any, aclient: httpx.AsyncClient) -> None:
    for _ in range(3):
        assert (await aclient.get(f"{URL}/hello")).text == "hello from http.cart.shop"
    assert (await aclient.post(URL, content=b"x" * 200_000)).content == b"x" * 200_000
    assert shop.connections == 1


async def test_async_requests_at_the_same_time_have_their_own(shop: Any, aclient: httpx.AsyncClient) -> None:
    slow = [asyncio.create_task(aclient.get(f"{URL}/slow")) for _ in range(3)]
    while shop.connections < 3:
        await asyncio.sleep(0.001)
    shop.proceed.set()
    assert [response.status_code for response in await asyncio.gather(*slow)] == [200] * 3


async def test_an_async_body_is_streamed(shop: Any, aclient: httpx.AsyncClient) -> None:
    async with aclient.stream("GET", f"{URL}/stream") as response:
        parts = response.aiter_bytes()
        assert await anext(parts) == b"first"
        shop.proceed.set()
        assert await anext(parts) == b"second"


async def test_an_async_slow_answer_is_a_read_timeout(aclient: httpx.AsyncClient) -> None:
    with pytest.raises(httpx.ReadTimeout):
        await aclient.get(f"{URL}/slow", timeout=httpx.Timeout(20, read=0.05))


async def test_the_async_pools_limit_is_a_pool_timeout(shop: Any) -> None:
    transport = AsyncMeshTransport(ONCE, limits=httpx.Limits(max_connections=1))
    async with httpx.AsyncClient(transport=transport) as client, client.stream("GET", f"{URL}/stream") as response:
        with pytest.raises(httpx.PoolTimeout):
            await client.get(f"{URL}/hello", timeout=httpx.Timeout(20, pool=0.05))
        shop.proceed.set()
        await response.aread()


async def test_an_async_refusal_is_a_connect_error_from_ours(shop: Any, aclient: httpx.AsyncClient) -> None:
    shop.agent.refuse("http.cart.shop", "NO_ENDPOINT")
    with pytest.raises(httpx.ConnectError) as caught:
        await aclient.get(URL)
    assert isinstance(caught.value.__cause__, meshless_sdk.NoEndpoint)
