"""An application that uses a service, to be tested without any mesh."""

from __future__ import annotations

import httpx
import meshless_sdk
from meshless_sdk.httpx import MeshTransport

DIALER = meshless_sdk.Dialer(retry=meshless_sdk.Retry(1))


def price(article: str) -> str:
    """The price the cart says, or what to show a customer while it is away."""
    with httpx.Client(transport=MeshTransport(DIALER)) as client:
        try:
            return client.get(f"http://http.cart.shop/price/{article}").text
        except httpx.ConnectError:
            return "ask again later"
