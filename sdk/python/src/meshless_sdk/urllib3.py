"""A pool manager for urllib3, so that a URL's host is the service id.

    MeshPoolManager().request("GET", "http://http.cart.shop/")

A port in the URL is ignored, because services have none. Needs the extra `meshless-sdk[urllib3]`.
"""

from __future__ import annotations

import socket
from typing import Any

import urllib3
import urllib3.connection
import urllib3.exceptions

from meshless_sdk.dialler import Dialer
from meshless_sdk.errors import HandshakeTimeout, MeshlessError
from meshless_sdk.mesh_socket import MeshSocket

__all__ = ["MeshConnectionPool", "MeshPoolManager"]


class _MeshConnection(urllib3.connection.HTTPConnection):
    dialer: Dialer

    @property
    def is_connected(self) -> bool:
        """Whether an idle connection can be used again: not if its agent is gone, or is going."""
        return super().is_connected and not (isinstance(self.sock, MeshSocket) and self.sock.draining)

    def _new_conn(self) -> socket.socket:
        # What urllib3 calls to get a connected socket; its own proxies are made the same way.
        try:
            if isinstance(self.timeout, int | float):
                connection = self.dialer.connect(self.host, deadline=self.timeout)
            else:
                connection = self.dialer.connect(self.host)
        except HandshakeTimeout as error:
            raise urllib3.exceptions.ConnectTimeoutError(self, str(error)) from error
        except (MeshlessError, OSError) as error:
            raise urllib3.exceptions.NewConnectionError(self, str(error)) from error
        if isinstance(self.timeout, int | float):
            connection.settimeout(self.timeout)
        return connection


class MeshConnectionPool(urllib3.HTTPConnectionPool):
    """Connections to one service."""

    def __init__(self, host: str, port: int | None = None, *, dialer: Dialer, **options: Any) -> None:
        super().__init__(host, port, **options)
        self.ConnectionCls = type("MeshConnection", (_MeshConnection,), {"dialer": dialer})


class MeshPoolManager(urllib3.PoolManager):
    """Requests through the mesh; threads may share it."""

    def __init__(self, dialer: Dialer | None = None, **options: Any) -> None:
        """Set up.

        Args:
            dialer: how to dial; `Dialer()` if None. urllib3's connect timeout is the deadline of a dial with all its tries.
            **options: of `urllib3.PoolManager`: `num_pools`, `maxsize`, `block`, `timeout`, `retries`, ...
        """
        super().__init__(**options)
        self._dialer = dialer or Dialer()

    def _new_pool(
        self, scheme: str, host: str, port: int, request_context: dict[str, Any] | None = None
    ) -> urllib3.HTTPConnectionPool:
        if scheme != "http":
            raise urllib3.exceptions.URLSchemeUnknown(
                f"{scheme} (the mesh is asked with http://<service-id>/: it encrypts between nodes by itself)"
            )
        options = {**self.connection_pool_kw, **(request_context or {})}
        known = {name: options[name] for name in ("timeout", "maxsize", "block", "headers", "retries") if name in options}
        return MeshConnectionPool(host, port, dialer=self._dialer, **known)
