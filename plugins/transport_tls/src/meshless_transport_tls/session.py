"""Drives one TLS handshake over a non-blocking socket in asyncio, counting every byte of a peer not yet known.

Cancellation is safe at every await: the caller owns the socket and closes it. Must not decide whom to trust.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from typing import Final

from meshless_core import RemoteProtocolError
from meshless_transport_tls.client_hello import ClientHello, ClientHelloReader
from meshless_transport_tls.failures import Alert, Reason, alert_record, failure, from_ssl_error

__all__ = ["Session", "read_client_hello", "refuse"]

_CHUNK: Final = 4096


class Session:
    """A TLS session in the making: OpenSSL's object and its two memory buffers."""

    __slots__ = ("_budget", "_connection", "_peer", "incoming", "outgoing", "tls")

    def __init__(
        self,
        context: ssl.SSLContext,
        connection: socket.socket,
        peer: str,
        *,
        budget: int,
        server_name: str | None = None,
        received: bytes = b"",
    ) -> None:
        """Make the client's side if `server_name` is given, the server's otherwise.

        Args:
            context: holds the leaf and the trust bundle.
            connection: non-blocking.
            peer: description for error messages.
            budget: bytes the peer may send before it is authenticated, `received` included.
            server_name: what to ask the server for.
            received: bytes that have already been read from the connection.
        """
        self._connection = connection
        self._peer = peer
        self._budget = budget - len(received)
        self.incoming = ssl.MemoryBIO()
        self.outgoing = ssl.MemoryBIO()
        self.incoming.write(received)
        self.tls = context.wrap_bio(self.incoming, self.outgoing, server_side=server_name is None, server_hostname=server_name)

    async def authenticate(self) -> bytes | None:
        """Complete the handshake; returns the peer's leaf, DER.

        Raises:
            TransportError: the handshake failed; the alert has been sent as far as possible.
            OSError: the connection broke.
        """
        loop = asyncio.get_running_loop()
        while True:
            try:
                self.tls.do_handshake()
                done = True
            except ssl.SSLWantReadError:
                done = False
            except ssl.SSLError as error:
                refuse(self._connection, self.outgoing.read())
                raise from_ssl_error(error, self._peer) from error
            if self.outgoing.pending:
                await loop.sock_sendall(self._connection, self.outgoing.read())
            if done:
                return self.tls.getpeercert(binary_form=True)
            data = await _receive(self._connection, self._budget, self._peer)
            self._budget -= len(data)
            self.incoming.write(data)

    def goodbye(self) -> None:
        """Tell an unwanted peer that it is over, as far as possible without waiting."""
        with contextlib.suppress(ssl.SSLError):  # wants the peer's goodbye too: it is not waited for
            self.tls.unwrap()
        refuse(self._connection, self.outgoing.read())


async def read_client_hello(connection: socket.socket, peer: str, budget: int) -> tuple[ClientHello, bytes]:
    """Read the ClientHello; returns it and all bytes read.

    Raises:
        TransportError: the peer is not a TLS client, or says too much.
        OSError: the connection broke.
    """
    reader = ClientHelloReader(budget)
    received = 0
    while True:
        data = await _receive(connection, budget - received, peer)
        received += len(data)
        try:
            hello = reader.receive_data(data)
        except RemoteProtocolError as error:
            refuse(connection, alert_record(Alert(error.code)))
            reason = {Alert.UNEXPECTED_MESSAGE: Reason.NOT_TLS, Alert.RECORD_OVERFLOW: Reason.HANDSHAKE_TOO_LARGE}.get(
                Alert(error.code), Reason.TLS_FAILURE
            )
            raise failure(reason, f"{peer} is refused: {error}") from error
        if hello is not None:
            return hello, reader.data


def refuse(connection: socket.socket, farewell: bytes) -> None:
    """Send an alert if it can be sent at once. A refused peer is not waited for, so a failure to tell it is no event."""
    with contextlib.suppress(OSError):
        connection.send(farewell)
        # What has arrived meanwhile is thrown away: closing with unread bytes would reset the connection and the alert with it.
        connection.recv(65536)


async def _receive(connection: socket.socket, budget: int, peer: str) -> bytes:
    if budget <= 0:
        raise failure(Reason.HANDSHAKE_TOO_LARGE, f"{peer} sent more than a handshake takes before it was authenticated")
    data = await asyncio.get_running_loop().sock_recv(connection, min(_CHUNK, budget))
    if not data:
        raise failure(Reason.HANDSHAKE_EOF, f"{peer} closed the connection during the handshake")
    return data
