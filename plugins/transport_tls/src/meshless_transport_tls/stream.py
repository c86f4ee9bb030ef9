"""`SecureStream` over a TCP socket and OpenSSL with memory buffers, for a level-triggered epoll loop.

Why memory buffers and not `ssl.SSLSocket`: one `recv` feeds many records and many records leave with one `send` (measured in
docs/adr/0051-tls-through-memory-buffers.md). Memory: what the caller's buffers take, up to 256 KiB in and 192 KiB out, is what
OpenSSL's buffers grow to. This module must not know asyncio: a thread of the relay runs it.
"""

from __future__ import annotations

import contextlib
import logging
import socket
import ssl
from collections.abc import Callable
from typing import Final

from meshless_core import Identity, LocalProtocolError, TransportError
from meshless_transport_tls.failures import Reason, failure, from_ssl_error

__all__ = ["TlsStream"]

logger = logging.getLogger(__name__)

_RECORD: Final = 16384
_MIN_FILL: Final = _RECORD + 256
_MAX_FILL: Final = 256 * 1024
_MAX_TAKEN: Final = 192 * 1024
_MAX_UNASKED: Final = 256 * 1024
_FILLS_PER_READ: Final = 4
_NOTHING: Final = memoryview(b"")


class TlsStream:
    """An authenticated TLS 1.3 session."""

    __slots__ = (
        "_closed",
        "_end",
        "_end_told",
        "_expires",
        "_failure",
        "_incoming",
        "_local",
        "_outgoing",
        "_peer",
        "_probed",
        "_serial",
        "_socket",
        "_starved",
        "_tls",
        "_unsent",
    )

    def __init__(
        self,
        connection: socket.socket,
        tls: ssl.SSLObject,
        incoming: ssl.MemoryBIO,
        outgoing: ssl.MemoryBIO,
        *,
        peer: Identity,
        local: Identity,
        serial: str,
        expires: float,
    ) -> None:
        """Take over a non-blocking connection whose handshake is done and whose peer is known to be `peer`."""
        self._socket = connection
        self._tls = tls
        self._incoming = incoming
        self._outgoing = outgoing
        self._peer = peer
        self._local = local
        self._serial = serial
        self._expires = expires
        self._unsent = _NOTHING
        self._probed = _NOTHING  # decrypted by `pending` to find out
        self._starved = False  # no complete record is left in `incoming`
        self._end = False
        self._end_told = False
        self._failure: OSError | TransportError | None = None
        self._closed = False

    def __repr__(self) -> str:
        return f"<TlsStream {self._local} -> {self._peer}{' closed' if self._closed else ''}>"

    @property
    def peer(self) -> Identity:
        """See `SecureStream.peer`."""
        return self._peer

    @property
    def local(self) -> Identity:
        """See `SecureStream.local`."""
        return self._local

    @property
    def serial(self) -> str:
        """See `SecureStream.serial`."""
        return self._serial

    @property
    def expires(self) -> float:
        """See `SecureStream.expires`."""
        return self._expires

    def fileno(self) -> int:
        """See `SecureStream.fileno`."""
        return self._socket.fileno()

    def readinto(self, buffer: memoryview) -> int | None:
        """See `SecureStream.readinto`. Fills `buffer` with as many records as one receive brought.

        What is behind the bytes it counts is garbage afterwards: ciphertext is received into `buffer` too, to need no other.
        """
        room = len(buffer)
        if not room:
            raise LocalProtocolError("readinto needs a buffer of at least one byte")
        if self._probed:
            count = min(room, len(self._probed))
            buffer[:count] = self._probed[:count]
            self._probed = self._probed[count:]
            return count
        for _ in range(_FILLS_PER_READ):
            done = self._decrypted(buffer, room)
            if done is not None:
                return done
            # A record's length less than there is room for: it may complete a record that OpenSSL holds most of already, and
            # what one receive decrypts to should fit.
            fill = buffer[: min(room - _RECORD, _MAX_FILL)] if room >= 2 * _RECORD else memoryview(bytearray(_MIN_FILL))
            try:
                received = self._socket.recv_into(fill)
            except BlockingIOError:
                return None
            except OSError as error:
                self._failure = error
                raise
            if received:
                self._incoming.write(fill[:received])
                self._starved = False
            else:
                self._end = True
        # What the last receive brought may complete a record, and nothing else may follow it: it must not wait for more.
        return self._decrypted(buffer, room)

    def _decrypted(self, buffer: memoryview, room: int) -> int | None:
        """Bytes that could be decrypted of what is here already, 0 at the end; None if more has to be received first."""
        while True:
            if self._failure is not None:
                raise self._failure
            if self._end:
                self._end_told = True
                return 0
            if self._starved:
                return None
            count = self._decrypt(buffer, room)
            if self._outgoing.pending:
                self._answer()
            if count:
                return count
            # nothing but the end, a failure or the need for more, which the next turn tells

    def pending(self) -> bool:
        """See `SecureStream.pending`. Exact: decrypts a record ahead if that is the only way to know."""
        if self._probed:
            return True
        if self._end or self._failure is not None:
            return not self._end_told
        if self._starved:
            return False
        try:
            data = self._tls.read(_RECORD)
        except ssl.SSLWantReadError:
            self._starved = True
            return False
        except ssl.SSLZeroReturnError:
            data = b""
        except ssl.SSLError as error:
            self._break(error)
            return True
        self._probed = memoryview(data)
        self._end = not data
        return True

    def write(self, data: bytes | bytearray | memoryview) -> int | None:
        """See `SecureStream.write`. Only encrypts: `flush` sends, so that several writes leave in one packet."""
        if self._failure is not None:
            raise self._failure
        room = _MAX_TAKEN - self._outgoing.pending
        if self._unsent or room <= 0:
            if not self.flush():
                return None
            room = _MAX_TAKEN
        size = len(data)
        try:
            if size <= room:
                return self._tls.write(data) if size else 0
            return self._tls.write(memoryview(data)[:room])
        except ssl.SSLError as error:
            raise self._break(error) from error

    def flush(self) -> bool:
        """See `SecureStream.flush`."""
        if self._failure is not None:
            raise self._failure
        try:
            while unsent := self._unsent or self._outgoing.read():
                sent = self._socket.send(unsent)
                if sent < len(unsent):
                    self._unsent = memoryview(unsent)[sent:]
                    return False  # the kernel is full
                self._unsent = _NOTHING
            return True
        except BlockingIOError:
            if not self._unsent:
                self._unsent = memoryview(unsent)
            return False
        except OSError as error:
            self._failure = error
            raise

    def close(self) -> None:
        """See `SecureStream.close`. Says goodbye (close_notify) if that is possible without waiting."""
        if self._closed:
            return
        try:
            if self._failure is None:
                with contextlib.suppress(ssl.SSLWantReadError):  # only ours is written; the peer's goodbye is not waited for
                    self._tls.unwrap()
                self.flush()
        except (OSError, TransportError) as error:  # ssl.SSLError is an OSError
            logger.debug("no goodbye to %s: %s", self._peer, error)
        self._closed = True
        self._failure = failure(Reason.CLOSED, f"the stream to {self._peer} is closed on this side")
        self._unsent = self._probed = _NOTHING
        self._socket.close()

    def _decrypt(self, buffer: memoryview, room: int) -> int:
        """Decrypt complete records into `buffer`; notes the end, a failure, or that there are no more records."""
        tls, incoming = self._tls, self._incoming
        read: Callable[[int, memoryview], int] = tls.read  # type: ignore[assignment]  # typeshed: with a buffer it counts
        got = 0
        try:
            while got < room:
                count = read(room - got, buffer[got:] if got else buffer)
                if not count:
                    self._end = True
                    break
                got += count
                if not incoming.pending and (got < room or not tls.pending()):
                    self._starved = True  # saves the exception that would say so
                    break
        except ssl.SSLWantReadError:
            self._starved = True
        except ssl.SSLZeroReturnError:
            self._end = True
        except ssl.SSLError as error:
            self._break(error)
        return got

    def _answer(self) -> None:
        """Send what OpenSSL wants to say by itself (a key update, an alert), as far as it goes now."""
        if self._outgoing.pending > _MAX_UNASKED:
            self._failure = failure(Reason.TLS_FAILURE, f"{self._peer} asks for key updates without reading the answers")
            return
        kept = self._failure
        try:
            self._failure = None
            self.flush()
        except OSError as error:
            logger.debug("cannot answer %s: %s", self._peer, error)  # not lost: the next read or write meets it too
        finally:
            self._failure = kept

    def _break(self, error: ssl.SSLError) -> TransportError:
        broken = from_ssl_error(error, str(self._peer))
        broken.__cause__ = error
        self._failure = broken
        return broken
