from __future__ import annotations

import pickle
from collections.abc import Iterator
from typing import Any

import meshless_sdk
import pytest
import requests
from meshless_sdk.requests import MeshAdapter

ONCE = meshless_sdk.Dialer(retry=meshless_sdk.Retry(1), wait_for_agent=0)
URL = "http://http.cart.shop"


@pytest.fixture
def session(shop: Any) -> Iterator[requests.Session]:
    with requests.Session() as one:
        one.mount("http://", MeshAdapter(ONCE, pool_maxsize=1, pool_block=True))
        yield one


def test_requests_share_a_connection(shop: Any, session: requests.Session) -> None:
    for _ in range(3):
        assert session.get(f"{URL}/hello").text == "hello from http.cart.shop"
    assert session.post(URL, data=b"x" * 200_000).content == b"x" * 200_000
    assert shop.connections == 1


def test_proxies_of_the_environment_are_not_used(session: requests.Session, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    assert session.get(f"{URL}/hello").status_code == 200


def test_a_body_is_streamed(shop: Any, session: requests.Session) -> None:
    with session.get(f"{URL}/stream", stream=True) as response:
        parts = response.iter_content(None)
        assert next(parts) == b"first"
        shop.proceed.set()
        assert next(parts) == b"second"


def test_a_slow_answer_is_a_read_timeout(session: requests.Session) -> None:
    with pytest.raises(requests.ReadTimeout):
        session.get(f"{URL}/slow", timeout=(5, 0.05))


def test_a_refusal_is_a_connection_error_from_ours(shop: Any, session: requests.Session) -> None:
    shop.agent.refuse("http.cart.shop", "ACCESS_DENIED")
    with pytest.raises(requests.ConnectionError, match="ACCESS_DENIED") as caught:
        session.get(URL)
    assert isinstance(caught.value.__cause__, meshless_sdk.AccessDenied)


def test_an_agent_that_does_not_reply_is_a_connect_timeout(agent: Any) -> None:
    agent.plays(lambda connection: [connection.recv(100), connection.recv(1)])
    with requests.Session() as session:
        session.mount("http://", MeshAdapter(ONCE))
        with pytest.raises(requests.ConnectTimeout):
            session.get(URL, timeout=(0.05, 5))


def test_an_adapter_is_not_pickled() -> None:
    with pytest.raises(TypeError, match="make one in the other process"):
        pickle.dumps(MeshAdapter())
