"""Serve any WSGI application on a service's socket: uvicorn for HTTP, a2wsgi's threads for the application.

    from meshless_sdk import wsgi

    wsgi.serve(app, "http")                        # until SIGTERM, then gracefully
    wsgi.serve(app, "http", proxy_protocol=True)   # environ["meshless.peer"] says who connects

Needs the extra `meshless-sdk[wsgi]`. Why these two is said in ADR 0092.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from a2wsgi import WSGIMiddleware

from meshless_sdk import asgi

__all__ = ["PEER", "serve"]

PEER = "meshless.peer"
"""Key in the environ of the `Peer` who connects; there if `proxy_protocol` is on, None if the header spoke for nobody."""


def serve(app: Any, service: str, *, threads: int = 16, **options: Any) -> int:
    """Serve a WSGI application until SIGTERM or SIGINT, then stop gracefully.

    Args:
        app: the application, a callable.
        service: name of the service, as in the Meshlet.
        threads: how many requests the application handles at a time.
        **options: those of `meshless_sdk.asgi.serve`: `grace`, `proxy_protocol`, `path`, ...

    Returns:
        How many connections were cut because they took longer than the grace.

    Raises:
        InvalidServiceId: `service` is not a DNS label.
        ListenError: somebody listens there already, or the folder is missing or not writable.
    """
    middleware = WSGIMiddleware(_with_peer(app), workers=threads)
    try:
        return asgi.serve(middleware, service, lifespan="off", **options)
    finally:
        middleware.executor.shutdown(wait=False)


def _with_peer(app: Any) -> Any:
    def application(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        state = environ["asgi.scope"].get("state", {})
        if asgi.PEER in state:
            environ[PEER] = state[asgi.PEER]
        # A Unix socket has no addresses, but WSGI and CGI want the keys.
        environ.setdefault("REMOTE_ADDR", "")
        environ["SERVER_NAME"], environ["SERVER_PORT"] = environ.get("HTTP_HOST", "localhost").partition(":")[0], "80"
        answer: Iterable[bytes] = app(environ, start_response)
        return answer

    return application
