"""Transports for httpx, so that a URL's host is the service id.

    httpx.Client(transport=MeshTransport()).get("http://http.cart.shop/")
    httpx.AsyncClient(transport=AsyncMeshTransport())

Built on httpcore's public network backends: the pool, keep-alive and HTTP/1.1 are httpcore's, the connections ours. A port in
the URL is ignored, because services have none. Needs the extra `meshless-sdk[httpx]`; the async transport runs on asyncio.
"""

from __future__ import annotations

import asyncio
import contextlib
import select
import typing
from collections.abc import AsyncIterator, Iterable, Iterator

import httpcore
import httpx

from meshless_sdk.dialler import Dialer
from meshless_sdk.errors import HandshakeTimeout, MeshlessError
from meshless_sdk.mesh_socket import MeshSocket

__all__ = ["AsyncMeshTransport", "MeshTransport"]

_DEFAULT_LIMITS = httpx.Limits(max_connections=100, max_keepalive_connections=20, keepalive_expiry=5.0)


class _Limits(typing.TypedDict):
    max_connections: int | None
    max_keepalive_connections: int | None
    keepalive_expiry: float | None


class MeshTransport(httpx.BaseTransport):
    """Sends requests through the mesh; threads may share it."""

    def __init__(self, dialer: Dialer | None = None, *, limits: httpx.Limits = _DEFAULT_LIMITS) -> None:
        """Set up.

        Args:
            dialer: how to dial; `Dialer()` if None. httpx's connect timeout is the deadline of a dial with all its tries.
            limits: of the pool.
        """
        self._pool = httpcore.ConnectionPool(network_backend=_Backend(dialer or Dialer()), **_pool_limits(limits))

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request; called by httpx.

        Raises:
            httpx.ConnectError: the dial failed; `__cause__` is the SDK's error.
            httpx.TransportError: httpx's own errors, as with its own transport.
        """
        assert isinstance(request.stream, httpx.SyncByteStream)
        _require_http(request)
        with _httpx_errors(request):
            response = self._pool.handle_request(_core_request(request, request.stream))
        assert isinstance(response.stream, Iterable)
        return httpx.Response(
            response.status, headers=response.headers, stream=_Body(response.stream, request), extensions=response.extensions
        )

    def close(self) -> None:
        """Close all connections."""
        self._pool.close()


class AsyncMeshTransport(httpx.AsyncBaseTransport):
    """Sends requests through the mesh, on asyncio."""

    def __init__(self, dialer: Dialer | None = None, *, limits: httpx.Limits = _DEFAULT_LIMITS) -> None:
        """Set up.

        Args:
            dialer: how to dial; `Dialer()` if None. httpx's connect timeout is the deadline of a dial with all its tries.
            limits: of the pool.
        """
        self._pool = httpcore.AsyncConnectionPool(network_backend=_AsyncBackend(dialer or Dialer()), **_pool_limits(limits))

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request; called by httpx.

        Raises:
            httpx.ConnectError: the dial failed; `__cause__` is the SDK's error.
            httpx.TransportError: httpx's own errors, as with its own transport.
        """
        assert isinstance(request.stream, httpx.AsyncByteStream)
        _require_http(request)
        with _httpx_errors(request):
            response = await self._pool.handle_async_request(_core_request(request, request.stream))
        assert isinstance(response.stream, typing.AsyncIterable)
        return httpx.Response(
            response.status,
            headers=response.headers,
            stream=_AsyncBody(response.stream, request),
            extensions=response.extensions,
        )

    async def aclose(self) -> None:
        """Close all connections."""
        await self._pool.aclose()


def _pool_limits(limits: httpx.Limits) -> _Limits:
    return {
        "max_connections": limits.max_connections,
        "max_keepalive_connections": limits.max_keepalive_connections,
        "keepalive_expiry": limits.keepalive_expiry,
    }


def _require_http(request: httpx.Request) -> None:
    if request.url.scheme != "http":
        raise httpx.UnsupportedProtocol(
            f"the mesh is asked with http://<service-id>/, not {request.url.scheme}://: it encrypts between nodes by itself",
            request=request,
        )


def _core_request(request: httpx.Request, stream: Iterable[bytes] | typing.AsyncIterable[bytes]) -> httpcore.Request:
    return httpcore.Request(
        method=request.method,
        url=httpcore.URL(
            scheme=request.url.raw_scheme, host=request.url.raw_host, port=request.url.port, target=request.url.raw_path
        ),
        headers=request.headers.raw,
        content=stream,
        extensions=request.extensions,
    )


_REASON = "meshless_reason"
"""Attribute of httpcore's error that keeps ours: its pool raises errors on `from None`."""

_ERRORS: dict[type[Exception], type[httpx.TransportError]] = {
    httpcore.ConnectTimeout: httpx.ConnectTimeout,
    httpcore.ReadTimeout: httpx.ReadTimeout,
    httpcore.WriteTimeout: httpx.WriteTimeout,
    httpcore.PoolTimeout: httpx.PoolTimeout,
    httpcore.ConnectError: httpx.ConnectError,
    httpcore.ReadError: httpx.ReadError,
    httpcore.WriteError: httpx.WriteError,
    httpcore.LocalProtocolError: httpx.LocalProtocolError,
    httpcore.RemoteProtocolError: httpx.RemoteProtocolError,
    httpcore.UnsupportedProtocol: httpx.UnsupportedProtocol,
}


@contextlib.contextmanager
def _httpx_errors(request: httpx.Request) -> Iterator[None]:
    try:
        yield
    except tuple(_ERRORS) as error:
        raise _ERRORS[type(error)](str(error), request=request) from getattr(error, _REASON, error)


class _Body(httpx.SyncByteStream):
    def __init__(self, stream: Iterable[bytes], request: httpx.Request) -> None:
        self._stream = stream
        self._request = request

    def __iter__(self) -> Iterator[bytes]:
        with _httpx_errors(self._request):
            yield from self._stream

    def close(self) -> None:
        if hasattr(self._stream, "close"):
            self._stream.close()


class _AsyncBody(httpx.AsyncByteStream):
    def __init__(self, stream: typing.AsyncIterable[bytes], request: httpx.Request) -> None:
        self._stream = stream
        self._request = request

    async def __aiter__(self) -> AsyncIterator[bytes]:
        with _httpx_errors(self._request):
            async for part in self._stream:
                yield part

    async def aclose(self) -> None:
        if hasattr(self._stream, "aclose"):
            await self._stream.aclose()


@contextlib.contextmanager
def _dial_errors() -> Iterator[None]:
    try:
        yield
    except (MeshlessError, OSError) as error:
        kind = httpcore.ConnectTimeout if isinstance(error, HandshakeTimeout) else httpcore.ConnectError
        failure = kind(str(error))
        setattr(failure, _REASON, error)
        raise failure from error


@contextlib.contextmanager
def _stream_errors(timeout: type[Exception], error: type[Exception]) -> Iterator[None]:
    try:
        yield
    except TimeoutError as caught:
        raise timeout(str(caught)) from caught
    except OSError as caught:
        raise error(str(caught)) from caught


class _Backend(httpcore.NetworkBackend):
    def __init__(self, dialer: Dialer) -> None:
        self._dialer = dialer

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.NetworkStream:
        with _dial_errors():
            return _Stream(self._dialer.connect(host) if timeout is None else self._dialer.connect(host, deadline=timeout))


class _Stream(httpcore.NetworkStream):
    def __init__(self, connection: MeshSocket) -> None:
        self._connection = connection

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        with _stream_errors(httpcore.ReadTimeout, httpcore.ReadError):
            self._connection.settimeout(timeout)
            return self._connection.recv(max_bytes)

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        with _stream_errors(httpcore.WriteTimeout, httpcore.WriteError):
            self._connection.settimeout(timeout)
            self._connection.sendall(buffer)

    def close(self) -> None:
        self._connection.close()

    def get_extra_info(self, info: str) -> object:
        if info == "socket":
            return self._connection
        return _is_used_up(self._connection) if info == "is_readable" else None


class _AsyncBackend(httpcore.AsyncNetworkBackend):
    def __init__(self, dialer: Dialer) -> None:
        self._dialer = dialer

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        with _dial_errors():
            if timeout is None:
                connection = await self._dialer.open_socket(host)
            else:
                connection = await self._dialer.open_socket(host, deadline=timeout)
            try:
                reader, writer = await asyncio.open_connection(sock=connection)
            except BaseException:
                connection.close()
                raise
        return _AsyncStream(reader, writer, connection)

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


class _AsyncStream(httpcore.AsyncNetworkStream):
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, connection: MeshSocket) -> None:
        self._reader = reader
        self._writer = writer
        self._connection = connection

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        with _stream_errors(httpcore.ReadTimeout, httpcore.ReadError):
            async with asyncio.timeout(timeout):
                return await self._reader.read(max_bytes)

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        with _stream_errors(httpcore.WriteTimeout, httpcore.WriteError):
            async with asyncio.timeout(timeout):
                self._writer.write(buffer)
                await self._writer.drain()

    async def aclose(self) -> None:
        self._writer.close()
        with contextlib.suppress(OSError):  # it may be gone already
            await self._writer.wait_closed()

    def get_extra_info(self, info: str) -> object:
        if info == "socket":
            return self._connection
        return self._reader.at_eof() or _is_used_up(self._connection) if info == "is_readable" else None


def _is_used_up(connection: MeshSocket) -> bool:
    """Whether an idle connection was closed by the server, has something it should not have, or has no agent any more."""
    if connection.draining:
        return True
    descriptor = connection.fileno()
    if descriptor < 0:
        return True
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(0))
