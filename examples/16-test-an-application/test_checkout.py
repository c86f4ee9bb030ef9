"""`pytest` finds `meshless_agent` by itself wherever meshless-sdk is installed."""

from __future__ import annotations

import socket

import pytest
from checkout import price
from meshless_sdk.testing import FakeAgent


def cart(connection: socket.socket) -> None:
    assert connection.recv(1000).startswith(b"GET /price/bread HTTP/1.1\r\n")
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n2.50")


def test_the_price_is_what_the_cart_says(meshless_agent: FakeAgent) -> None:
    meshless_agent.serve("http.cart.shop", cart)
    assert price("bread") == "2.50"
    assert [dial.service_id for dial in meshless_agent.dials] == ["http.cart.shop"]


@pytest.mark.parametrize("reason", ["NO_ENDPOINT", "CONNECTION_LIMIT", "ACCESS_DENIED"])
def test_a_cart_that_is_away_is_no_error_page(meshless_agent: FakeAgent, reason: str) -> None:
    meshless_agent.refuse("http.cart.shop", reason)
    assert price("bread") == "ask again later"
