"""The client handshake, version 1, as bytes: what to send, and what a reply means.

Shared by the blocking and the asyncio dialler. This module must not do I/O. The specification is `protocol/handshake-v1.md`;
`protocol/vectors/handshake-v1.json` is what the tests hold this to.
"""

from __future__ import annotations

from meshless_sdk.errors import CODES, AgentUnavailable, ConnectError, InvalidServiceId, ProtocolError, UnknownReplyCode

__all__ = ["Reply", "encode_request", "is_service_name", "refusal"]

_VERSION = 1
_LETTERS = frozenset("abcdefghijklmnopqrstuvwxyz0123456789-")  # by hand: the module re costs as much as all of this package


def is_service_name(text: str) -> bool:
    """Whether `text` is a DNS label (RFC 1123, lower case), as a service's name has to be."""
    return 0 < len(text) <= 63 and _LETTERS.issuperset(text) and text[0] != "-" and text[-1] != "-"


def encode_request(service_id: str) -> bytes:
    """The request for a service.

    Raises:
        InvalidServiceId: not `<service>.<meshlet>.<namespace>`.
    """
    named: object = service_id  # whatever its annotation says
    labels = named.split(".") if isinstance(named, str) else []
    if len(labels) != 3 or not all(map(is_service_name, labels)):
        raise InvalidServiceId(
            f"{service_id!r:.256} is not a service id: write <service>.<meshlet>.<namespace>, each a lower-case DNS label"
        )
    return bytes((_VERSION, len(service_id))) + service_id.encode("ascii")


class Reply:
    """Collects the reply: read at most `wanted` bytes, feed them, until `wanted` is 0. So no application byte is touched."""

    __slots__ = ("_service_id", "wanted")

    def __init__(self, service_id: str) -> None:
        self._service_id = service_id
        self.wanted = 2

    def receive_data(self, data: bytes) -> None:
        """Feed what was read, at most `wanted` bytes; b"" means end-of-file. Returns for an OK and while bytes are missing.

        Raises:
            ConnectError: the agent refused; the subclass says why.
            AgentUnavailable: end-of-file instead of a reply.
            ProtocolError: not a reply.
        """
        assert len(data) <= self.wanted
        if not data:
            raise AgentUnavailable(
                f"the agent closed the connection to {self._service_id} without a reply: it was stopped or killed; retry"
            )
        if self.wanted == 2:
            if data[0] != _VERSION:
                raise ProtocolError(
                    f"the reply has version {data[0]} instead of {_VERSION}; check that the path is the socket of an agent"
                )
            self.wanted = 1
            data = data[1:]
            if not data:
                return
        self.wanted = 0
        if data[0]:
            raise refusal(self._service_id, data[0])


def refusal(
    service_id: str, code: int, connection_id: str = "", retry_after: float | None = None, text: str = ""
) -> ConnectError:
    """The error of a reply code, with what else the reply said."""
    known = CODES.get(code)
    error = known(service_id) if known else UnknownReplyCode(service_id, code)
    if connection_id:
        error.connection_id = connection_id
    if retry_after is not None:
        error.retry_after = retry_after
    if text:
        error.text = text
    return error
