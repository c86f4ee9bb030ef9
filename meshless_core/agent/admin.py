"""The agent's local admin endpoint: HTTP/1.1 on a Unix socket (mode 0600) or a loopback port.

GET only, one request per connection, small and bounded: it is for the node's operator, for Prometheus and for the CLI.

| path | answer |
|---|---|
| `/healthz` | 200 while the process can answer |
| `/readyz` | 200 when connections can be made, else 503 with the reasons, one per line |
| `/metrics` | Prometheus text |
| `/connections` | live connections, JSON |
| `/status` | node, documents, pods, plugins, identities, JSON |
| `/explain?client=<ns>/<pod>&service=<id>` | who would decide what and why, JSON |
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import socket
import sys
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qs, urlsplit

import attrs
import h11

from meshless_core.errors import ConfigError, Problem
from meshless_core.socket_file import remove_socket_file

__all__ = ["AdminServer", "Answer", "Handler"]

logger = logging.getLogger(__name__)

_REQUEST_SECONDS: Final = 5.0
_MAX_REQUEST_BYTES: Final = 16 * 1024
_MAX_CLIENTS: Final = 64

# Since Python 3.13 asyncio removes a Unix socket's file itself, by the address it was bound to: ours means nothing by then.
_LEAVE_THE_FILE: Final[Mapping[str, Any]] = {"cleanup_socket": False} if sys.version_info >= (3, 13) else {}


@attrs.frozen
class Answer:
    """A response."""

    status: int
    body: bytes
    content_type: str = "text/plain; charset=utf-8"

    @classmethod
    def json(cls, value: object, status: int = 200) -> Answer:
        """A JSON response."""
        return cls(status, json.dumps(value).encode() + b"\n", "application/json")

    @classmethod
    def text(cls, text: str, status: int = 200) -> Answer:
        """A plain text response; a newline is added."""
        return cls(status, text.encode() + b"\n")


Handler = Callable[[Mapping[str, str]], Awaitable[Answer]]


class AdminServer:
    """Serves `handlers` (path -> handler that gets the query's parameters) at `address`.

    Args:
        address: `unix:/path` or `tcp:127.0.0.1:port`; only loopback hosts, there is no authentication.
        handlers: what to serve.
    """

    def __init__(self, address: str, handlers: Mapping[str, Handler]) -> None:
        self._address = address
        self._handlers = handlers
        self._server: asyncio.Server | None = None
        self._socket: os.stat_result | None = None  # the file of ours, if it is a Unix socket
        self._clients = 0

    async def start(self) -> None:
        """Listen.

        Raises:
            ConfigError: the address cannot be listened on.
        """
        try:
            if self._address.startswith("unix:"):
                path = Path(self._address.removeprefix("unix:"))
                path.parent.mkdir(parents=True, exist_ok=True)
                path.unlink(missing_ok=True)
                listener = _bind(path)
                try:
                    self._socket = os.lstat(path)
                    self._server = await asyncio.start_unix_server(
                        self._serve, sock=listener, limit=_MAX_REQUEST_BYTES, **_LEAVE_THE_FILE
                    )
                except BaseException:
                    listener.close()
                    raise
                return
            host, _, port = self._address.removeprefix("tcp:").rpartition(":")
            if host.strip("[]") not in ("127.0.0.1", "::1", "localhost"):
                raise ConfigError(
                    [Problem("$.agent.admin", f"{self._address!r} is not a loopback address: use tcp:127.0.0.1:<port>")]
                )
            self._server = await asyncio.start_server(self._serve, host.strip("[]"), int(port), limit=_MAX_REQUEST_BYTES)
        except (OSError, ValueError) as error:
            raise ConfigError([Problem("$.agent.admin", f"cannot listen on {self._address!r}: {error}")]) from error

    async def stop(self) -> None:
        """Stop listening."""
        if self._server is None:
            return
        if self._socket is not None:
            remove_socket_file(self._address.removeprefix("unix:"), self._socket)  # the next agent may listen there by now
        self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._clients += 1
        try:
            if self._clients <= _MAX_CLIENTS:
                async with asyncio.timeout(_REQUEST_SECONDS):
                    await self._exchange(reader, writer)
        except TimeoutError:
            logger.debug("admin connection ended: it took more than %g s", _REQUEST_SECONDS)
            writer.transport.abort()  # closing would wait, with the answer in memory, for a client that does not read
        except (OSError, h11.ProtocolError) as error:
            logger.debug("admin connection ended: %s", error)
        finally:
            self._clients -= 1
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = h11.Connection(h11.SERVER, max_incomplete_event_size=_MAX_REQUEST_BYTES)
        request: h11.Request | None = None
        try:
            while not isinstance(event := connection.next_event(), h11.EndOfMessage):
                if isinstance(event, h11.Request):
                    request = event
                elif event is h11.NEED_DATA:
                    connection.receive_data(await reader.read(_MAX_REQUEST_BYTES))
                elif isinstance(event, h11.ConnectionClosed):
                    return
            assert request is not None
            answer = await self._answer(request)
        except h11.RemoteProtocolError as error:
            answer = Answer.text(f"bad request: {error}", error.error_status_hint)
        headers = [
            ("Content-Type", answer.content_type),
            ("Content-Length", str(len(answer.body))),
            ("Connection", "close"),
        ]
        head = connection.send(h11.Response(status_code=answer.status, headers=headers)) or b""
        body = connection.send(h11.Data(answer.body)) or b"" if request is None or request.method != b"HEAD" else b""
        writer.write(head + body)
        await writer.drain()

    async def _answer(self, request: h11.Request) -> Answer:
        try:
            url = urlsplit(request.target.decode("ascii", "replace"))
        except ValueError as error:
            return Answer.text(f"bad request: {error}", 400)
        if request.method not in (b"GET", b"HEAD"):
            return Answer.text("only GET is served here", 405)
        handler = self._handlers.get(url.path)
        if handler is None:
            return Answer.text(f"not found; there are: {' '.join(sorted(self._handlers))}", 404)
        try:
            return await handler({key: values[-1] for key, values in parse_qs(url.query).items()})
        except Exception:
            logger.exception("admin %s failed", url.path)
            return Answer.text("internal error; see the agent's log", 500)


def _bind(path: Path) -> socket.socket:
    """A socket at `path`, however long that is, and for this user alone from the first moment."""
    folder = os.open(path.parent, os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        name = f"/proc/self/fd/{folder}/{path.name}"
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            listener.bind(name)
            os.chmod(name, 0o600)
        except OSError:
            listener.close()
            raise
        return listener
    finally:
        os.close(folder)
