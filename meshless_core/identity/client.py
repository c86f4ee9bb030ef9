"""The agent's side of the issuer protocol: ask for leaves, follow the trust bundle.

One short connection per leaf; one long one for the bundle. Every step has a deadline except waiting for the next bundle. This
module must not decide when a leaf is needed (`store` does) and never sees a private key.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncGenerator
from typing import Final, Protocol

import attrs

from meshless_core.errors import IdentityError, RemoteProtocolError
from meshless_core.identity import wire
from meshless_core.identity.sockets import short_path
from meshless_core.types import Identity

__all__ = ["Issued", "IssuerClient", "LeafIssuer"]

DEADLINE: Final = 10.0
"""Seconds one request may take from connecting to the reply."""


@attrs.frozen
class Issued:
    """A signed leaf.

    Attributes:
        chain_pem: the leaf, then intermediates.
        bundle_pem: the trust bundle as of the signing; the first root issues.
    """

    chain_pem: str
    bundle_pem: str


class LeafIssuer(Protocol):
    """Where a `LeafStore` gets leaves and the trust bundle from."""

    async def issue(self, identity: Identity, request_pem: str) -> Issued:
        """Get a leaf for `identity` and the key of the request.

        Raises:
            IdentityError: refused, unreachable, or too slow.
        """
        ...

    def watch_bundle(self) -> AsyncGenerator[str, None]:
        """Yield the trust bundle now and after each change. Close with `aclose()`.

        Raises:
            IdentityError: the issuer is unreachable or gone; call again after a while.
        """
        ...


class IssuerClient:
    """A `LeafIssuer` at the other end of a Unix socket."""

    __slots__ = ("_deadline", "_path")

    def __init__(self, path: str | os.PathLike[str], *, deadline: float = DEADLINE) -> None:
        """Prepare to talk to the issuer's socket for this node at `path`; connects when asked something."""
        self._path = os.fspath(path)
        self._deadline = deadline

    async def issue(self, identity: Identity, request_pem: str) -> Issued:
        """See `LeafIssuer.issue`."""
        async with contextlib.aclosing(self._ask(wire.IssueRequest(identity, request_pem))) as replies:
            async for reply in replies:
                if isinstance(reply, wire.IssueReply):
                    return Issued(reply.chain_pem, reply.bundle_pem)
                raise IdentityError(
                    f"the issuer at {self._path} answered a leaf request with something else; upgrade the older side"
                )
        raise IdentityError(f"the issuer at {self._path} closed without a reply")

    async def watch_bundle(self) -> AsyncGenerator[str, None]:
        """See `LeafIssuer.watch_bundle`."""
        async with contextlib.aclosing(self._ask(wire.WatchRequest())) as replies:
            async for reply in replies:
                if not isinstance(reply, wire.BundleReply):
                    raise IdentityError(
                        f"the issuer at {self._path} answered a watch with something else; upgrade the older side"
                    )
                yield reply.bundle_pem
        raise IdentityError(f"the issuer at {self._path} closed the connection; it may be restarting")

    async def _ask(self, request: wire.Request) -> AsyncGenerator[wire.Reply, None]:
        """Send one request, yield the replies until the issuer closes. Only the first reply has a deadline."""
        writer: asyncio.StreamWriter | None = None
        try:
            async with asyncio.timeout(self._deadline):
                with short_path(self._path) as short:
                    reader, writer = await asyncio.open_unix_connection(short)
                writer.write(wire.encode(request))
                await writer.drain()
                frames = wire.FrameReader(wire.MAX_REPLY_BYTES)
                reply = await self._next(reader, frames)
            while reply is not None:
                if isinstance(reply, wire.ErrorReply):
                    raise IdentityError(f"the issuer at {self._path} refused ({reply.code.name.lower()}): {reply.text}")
                yield reply
                reply = await self._next(reader, frames)
        except TimeoutError as error:
            raise IdentityError(f"the issuer at {self._path} did not answer within {self._deadline:g} s") from error
        except OSError as error:
            raise IdentityError(
                f"cannot reach the issuer at {self._path}: {error.strerror or error}; is the control plane running?"
            ) from error
        except RemoteProtocolError as error:
            raise IdentityError(f"the issuer at {self._path} does not speak the issuer protocol: {error}") from error
        finally:
            if writer is not None:
                writer.close()

    async def _next(self, reader: asyncio.StreamReader, frames: wire.FrameReader) -> wire.Reply | None:
        while (payload := frames.next_payload()) is None:
            data = await reader.read(frames.wanted)
            if not data:
                return None
            frames.receive_data(data)
        return wire.decode_reply(payload)
