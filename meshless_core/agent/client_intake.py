"""A client before its request is complete: bounded in bytes, in time, and in number per pod."""

from __future__ import annotations

import asyncio
import logging
import select
import socket
from typing import Final

from meshless_core.agent.client_connection import ClientConnection
from meshless_core.agent.client_reply import close_after_reply, record_refusal, retry_after, send_reply
from meshless_core.agent.entrance import Entrance
from meshless_core.errors import RemoteProtocolError
from meshless_core.hookspecs import HandshakeProtocol, HandshakeRequest, InteractiveHandshake, ReplyDetails
from meshless_core.types import ReplyCode

__all__ = ["ClientIntake"]

logger = logging.getLogger(__name__)

_READ_BYTES: Final = 16 * 1024
_MAX_REQUEST_BYTES: Final = 64 * 1024


class ClientIntake:
    """Reads a client's request; then a `ClientConnection` takes over."""

    __slots__ = ("_client", "_entrance", "_first_byte", "_handshake", "_id", "_read", "_runtime", "_timer", "_watched")

    def __init__(self, entrance: Entrance, client: socket.socket) -> None:
        self._entrance = entrance
        self._runtime = entrance.runtime
        self._client = client
        self._id = self._runtime.ids.new()
        self._handshake: HandshakeProtocol | None = None
        self._first_byte = -1
        self._read = 0
        self._timer: asyncio.TimerHandle | None = None
        self._watched = False

    def begin(self) -> None:
        """Read what is there already; wait for the rest."""
        self._entrance.handshaking += 1
        self._runtime.handshaking += 1
        if self._entrance.handshaking > self._runtime.settings.max_handshakes_per_pod:
            self._refuse(ReplyCode.OVERLOADED, "agent", "this pod has too many incomplete handshakes")
            return
        self._on_readable(0)

    def _on_readable(self, _events: int) -> None:
        try:
            data = self._client.recv(_READ_BYTES)
        except BlockingIOError:
            self._await_request()
            return
        except OSError as error:
            self._gone(f"client broke off before its request was complete: {error.strerror}")
            return
        if self._handshake is None and not data:
            self._gone("client closed without a request")
            return
        self._read += len(data)
        try:
            handshake = self._handshake
            if handshake is None:
                self._first_byte = data[0]
                factory = self._runtime.handshakes.get(data[0])
                if factory is None:
                    self._refuse(ReplyCode.UNSUPPORTED_VERSION, "agent", f"no handshake claims the first byte 0x{data[0]:02x}")
                    return
                handshake = self._handshake = factory()
            request = self._runtime.receive_data(handshake, data)
            answer = handshake.data_to_send() if request is None and isinstance(handshake, InteractiveHandshake) else b""
            if not isinstance(answer, bytes):
                raise TypeError(f"data_to_send returned {type(answer).__name__}, not bytes")
        except RemoteProtocolError as error:
            self._refuse(ReplyCode(error.code), "handshake", str(error))
            return
        except Exception:
            name = self._runtime.handshake_names.get(self._first_byte, "unknown")
            logger.exception("handshake plugin %s failed on connection %s", name, self._id.hex())
            self._refuse(ReplyCode.INTERNAL_ERROR, "handshake", f"handshake plugin {name} failed; see the agent's log")
            return
        if request is not None:
            self._complete(handshake, request)
        elif not data or self._read > _MAX_REQUEST_BYTES:
            self._refuse(
                ReplyCode.MALFORMED_REQUEST, "handshake", "the request ended, or grew too long, before it was complete"
            )
        elif not answer or self._answer(answer):
            self._await_request()

    def _answer(self, data: bytes) -> bool:
        """Say what the handshake has to say before the request is complete; False if the client is refused or gone for it."""
        try:
            if self._client.send(data) == len(data):
                return True
        except BlockingIOError:
            pass
        except OSError as error:
            self._gone(f"client broke off before its request was complete: {error.strerror}")
            return False
        self._refuse(ReplyCode.TIMEOUT, "handshake", "the client does not read what the handshake answers")
        return False

    def _await_request(self) -> None:
        if self._timer is None:
            self._timer = self._runtime.loop.call_later(self._runtime.settings.handshake_timeout, self._handshake_expired)
            self._runtime.reactor.add(self._client.fileno(), select.EPOLLIN, self._on_readable, self._failed)
            self._watched = True
            self._runtime.requesting.add(self)

    def turn_away(self) -> None:
        """Refuse an incomplete request because the agent stops."""
        self._refuse(ReplyCode.DRAINING, "agent", "this agent is shutting down")

    def _handshake_expired(self) -> None:
        self._timer = None
        seconds = self._runtime.settings.handshake_timeout
        self._refuse(ReplyCode.TIMEOUT, "handshake", f"the request was not complete within {seconds:g} s")

    def _complete(self, handshake: HandshakeProtocol, request: HandshakeRequest) -> None:
        self._release()
        ClientConnection(self._entrance, self._client, self._id, handshake, request).begin()

    def _refuse(self, code: ReplyCode, policy: str, reason: str) -> None:
        self._release()
        record_refusal(self._runtime, self._entrance.pod, self._id, None, code, policy, reason)
        details = ReplyDetails(connection_id=self._id, retry_after=retry_after(code))
        if send_reply(self._client, self._handshake, code, reason, details):
            close_after_reply(self._client)

    def _failed(self, _error: Exception) -> None:
        """A handler raised, and was logged: a bug of ours. The reactor has dropped the client's descriptor already."""
        if self._watched:
            self._watched = False
            self._runtime.requesting.remove(self)
            self._refuse(ReplyCode.INTERNAL_ERROR, "agent", "internal error; see the agent's log")

    def _gone(self, reason: str) -> None:
        """The client left: there is nobody to reply to."""
        logger.debug("connection %s: %s", self._id.hex(), reason)
        self._release()
        self._client.close()

    def _release(self) -> None:
        self._entrance.handshaking -= 1
        self._runtime.handshaking -= 1
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._watched:
            self._runtime.reactor.remove(self._client.fileno())
            self._watched = False
            self._runtime.requesting.remove(self)
