"""An ASGI application as a service, until SIGTERM. Starlette, FastAPI, Django and Quart are served the same way."""

from __future__ import annotations

from typing import Any

from meshless_sdk import asgi


async def app(scope: Any, receive: Any, send: Any) -> None:
    assert scope["type"] == "http"
    body = b"hello from ASGI"
    headers = [(b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


print("cut", asgi.serve(app, "http", lifespan="off"))
