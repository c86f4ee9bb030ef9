"""A WSGI application as a service, until SIGTERM. Flask and Django applications are served the same way."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from meshless_sdk import wsgi


def app(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"hello from WSGI"]


print("cut", wsgi.serve(app, "http"))
