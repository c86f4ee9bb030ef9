from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import meshless_sdk
import pytest
import urllib3
from meshless_sdk.urllib3 import MeshPoolManager

ONCE = meshless_sdk.Dialer(retry=meshless_sdk.Retry(1), wait_for_agent=0)
URL = "http://http.cart.shop"


@pytest.fixture
def http(shop: Any) -> Iterator[MeshPoolManager]:
    with MeshPoolManager(ONCE, retries=False, maxsize=1, block=True) as one:
        yield one


def test_requests_share_a_connection(shop: Any, http: MeshPoolManager) -> None:
    for _ in range(3):
        assert http.request("GET", f"{URL}/hello").data == b"hello from http.cart.shop"
    assert http.request("POST", URL, body=b"x" * 200_000).data == b"x" * 200_000
    assert shop.connections == 1


def test_a_connection_whose_agent_goes_away_is_not_used_again(shop: Any, http: MeshPoolManager) -> None:
    assert http.request("GET", f"{URL}/hello").status == 200
    was_handed_over = shop.leave()
    assert http.request("GET", f"{URL}/hello").status == 200
    assert shop.connections == 1 + was_handed_over


def test_a_connection_the_server_closed_is_not_used_again(shop: Any, http: MeshPoolManager) -> None:
    for _ in range(2):
        assert http.request("GET", f"{URL}/close").status == 200
    assert shop.connections == 2


def test_a_body_is_streamed(shop: Any, http: MeshPoolManager) -> None:
    response = http.request("GET", f"{URL}/stream", preload_content=False)
    parts = response.stream()
    assert next(parts) == b"first"
    shop.proceed.set()
    assert next(parts) == b"second"
    response.drain_conn()


def test_a_slow_answer_is_a_read_timeout(http: MeshPoolManager) -> None:
    with pytest.raises(urllib3.exceptions.ReadTimeoutError):
        http.request("GET", f"{URL}/slow", timeout=urllib3.Timeout(connect=20, read=0.05))


def test_the_pools_limit_is_an_empty_pool(shop: Any, http: MeshPoolManager) -> None:
    response = http.request("GET", f"{URL}/stream", preload_content=False)
    with pytest.raises(urllib3.exceptions.EmptyPoolError):
        http.request("GET", f"{URL}/hello", pool_timeout=0.02)
    shop.proceed.set()
    response.drain_conn()


def test_a_refusal_is_a_new_connection_error_from_ours(shop: Any, http: MeshPoolManager) -> None:
    shop.agent.refuse("http.cart.shop", "ACCESS_DENIED")
    with pytest.raises(urllib3.exceptions.NewConnectionError, match="ACCESS_DENIED") as caught:
        http.request("GET", URL)
    assert isinstance(caught.value.__cause__, meshless_sdk.AccessDenied)


def test_https_says_what_to_write(http: MeshPoolManager) -> None:
    with pytest.raises(urllib3.exceptions.URLSchemeUnknown, match="it encrypts between nodes by itself"):
        http.request("GET", "https://http.cart.shop")
