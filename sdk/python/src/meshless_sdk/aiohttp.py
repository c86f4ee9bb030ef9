"""A connector for aiohttp, so that a URL's host is the service id.

    async with aiohttp.ClientSession(connector=MeshConnector()) as session:
        async with session.get("http://http.cart.shop/") as response:
            ...

A port in the URL is ignored, because services have none. Needs the extra `meshless-sdk[aiohttp]`.
"""

from __future__ import annotations

import asyncio
import errno
from typing import TYPE_CHECKING, Any

import aiohttp
from aiohttp.client_proto import ResponseHandler

from meshless_sdk.dialler import Dialer
from meshless_sdk.errors import HandshakeTimeout, MeshlessError
from meshless_sdk.mesh_socket import MeshSocket

if TYPE_CHECKING:
    from aiohttp.tracing import Trace

__all__ = ["MeshConnector", "MeshConnectorError"]


class MeshConnectorError(aiohttp.ClientConnectorError):
    """A dial that failed; `os_error` and `__cause__` are the SDK's error, and so is the text."""

    def __str__(self) -> str:
        return str(self.os_error)


class _MeshHandler(ResponseHandler):
    """Not used again if the agent of a handed-over connection is gone, or is going."""

    def __init__(self, loop: asyncio.AbstractEventLoop, connection: MeshSocket) -> None:
        super().__init__(loop)
        self._connection = connection

    @property
    def should_close(self) -> bool:
        return super().should_close or self._connection.draining


class MeshConnector(aiohttp.BaseConnector):
    """Connects through the mesh."""

    def __init__(self, dialer: Dialer | None = None, **options: Any) -> None:
        """Set up, inside a running loop.

        Args:
            dialer: how to dial; `Dialer()` if None. aiohttp's `sock_connect` is the deadline of a dial with all its tries.
            **options: of `aiohttp.BaseConnector`: `limit`, `limit_per_host`, `keepalive_timeout`, `force_close`.
        """
        super().__init__(**options)
        self._dialer = dialer or Dialer()

    async def _create_connection(
        self, req: aiohttp.ClientRequest, traces: list[Trace], timeout: aiohttp.ClientTimeout
    ) -> ResponseHandler:
        # What aiohttp's connectors implement, its own UnixConnector too.
        key = req.connection_key
        if key.is_ssl:
            text = f"the mesh is asked with http://{key.host}/, not https://: it encrypts between nodes by itself"
            refused = OSError(errno.EPROTONOSUPPORT, text)
            raise aiohttp.ClientConnectorError(key, refused)
        try:
            if timeout.sock_connect is None:
                connection = await self._dialer.open_socket(key.host)
            else:
                connection = await self._dialer.open_socket(key.host, deadline=timeout.sock_connect)
        except HandshakeTimeout as error:
            raise aiohttp.ConnectionTimeoutError(str(error)) from error
        except OSError as error:
            raise MeshConnectorError(key, error) from error
        except MeshlessError as error:  # a host that is no service id
            raise aiohttp.ClientConnectorError(key, OSError(errno.EINVAL, str(error))) from error
        try:
            loop = asyncio.get_running_loop()
            _, protocol = await loop.create_connection(lambda: _MeshHandler(loop, connection), sock=connection)
        except BaseException:
            connection.close()
            raise
        return protocol
