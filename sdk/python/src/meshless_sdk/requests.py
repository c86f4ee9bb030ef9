"""An adapter for requests, so that a URL's host is the service id.

    session.mount("http://", MeshAdapter())
    session.get("http://http.cart.shop/")

Mount it on a prefix if the session also talks to hosts outside the mesh. Proxies of the environment are not used: the way
leads through the node's agent. Needs the extra `meshless-sdk[requests]`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import requests
import requests.adapters

from meshless_sdk.dialler import Dialer
from meshless_sdk.urllib3 import MeshPoolManager

__all__ = ["MeshAdapter"]


class MeshAdapter(requests.adapters.HTTPAdapter):
    """Sends requests through the mesh."""

    def __init__(self, dialer: Dialer | None = None, **options: Any) -> None:
        """Set up.

        Args:
            dialer: how to dial; `Dialer()` if None. The connect timeout of requests is the deadline of a dial with all its
                tries.
            **options: of `requests.adapters.HTTPAdapter`: `pool_connections`, `pool_maxsize`, `max_retries`, `pool_block`.
        """
        self._dialer = dialer or Dialer()
        super().__init__(**options)

    def init_poolmanager(self, connections: int, maxsize: int, block: bool = False, **pool_kwargs: Any) -> None:
        """Make the pool; called by requests."""
        self.poolmanager = MeshPoolManager(self._dialer, num_pools=connections, maxsize=maxsize, block=block)

    def send(
        self,
        request: requests.PreparedRequest,
        stream: bool = False,
        timeout: float | tuple[float, float] | tuple[float, None] | None = None,
        verify: bool | str = True,
        cert: bytes | str | tuple[bytes | str, bytes | str] | None = None,
        proxies: Mapping[str, str] | None = None,
    ) -> requests.Response:
        """Send a request; called by requests.

        Raises:
            requests.ConnectionError: the dial failed; the SDK's error is in the chain of causes.
        """
        try:
            return super().send(request, stream=stream, timeout=timeout, verify=verify, cert=cert, proxies=None)
        except requests.ConnectionError as error:
            reason = getattr(error.args[0] if error.args else None, "reason", None)
            if reason is None or reason.__cause__ is None:
                raise
            raise type(error)(reason.__cause__, request=request) from reason.__cause__

    def __getstate__(self) -> list[str]:
        raise TypeError("a mesh adapter is not pickled; make one in the other process")
