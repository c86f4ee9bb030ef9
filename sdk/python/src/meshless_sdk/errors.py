"""What can go wrong when dialling or serving: one root, and one class per reply code of the client handshake.

All but `InvalidArgument` and its kind are `OSError`s, so code that was written for TCP keeps working. The names of the classes
are the names of the codes (`ACCESS_DENIED` is `AccessDenied`). This module must not do I/O.
"""
# ruff: noqa: N818 - the classes carry the reply codes' names, which are part of the product contract

from __future__ import annotations

import errno

TYPE_CHECKING = False  # importing typing costs as much as all the rest
if TYPE_CHECKING:
    from typing import Final

__all__ = [
    "CODES",
    "AccessDenied",
    "AgentTimeout",
    "AgentUnavailable",
    "ConnectError",
    "ConnectionLimit",
    "Draining",
    "HandshakeTimeout",
    "InternalError",
    "InvalidArgument",
    "InvalidServiceId",
    "ListenError",
    "MalformedRequest",
    "MeshlessError",
    "NoEndpoint",
    "NotReady",
    "Overloaded",
    "ProtocolError",
    "ProxyHeaderError",
    "ServiceNotFound",
    "ServiceRefused",
    "TunnelFailed",
    "UnknownClient",
    "UnknownReplyCode",
    "UnsupportedVersion",
]


class MeshlessError(Exception):
    """Root of every error this package raises on purpose.

    Attributes:
        retryable: whether the same call may succeed later without anything being fixed first.
    """

    retryable: bool = False


class InvalidArgument(MeshlessError, ValueError):
    """An argument that no agent would take; found before anything was sent."""


class InvalidServiceId(InvalidArgument):
    """Not a service id or service name; found before anything was sent."""


class AgentUnavailable(MeshlessError, ConnectionError):
    """The agent's socket is missing, refuses, stays busy until the connect timeout, or was closed before a reply."""

    retryable = True

    def __init__(self, message: str, number: int = 0) -> None:
        super().__init__(message)
        self.errno = number or None

    def __reduce__(self) -> tuple[type[AgentUnavailable], tuple[str, int]]:
        return type(self), (str(self), self.errno or 0)


class HandshakeTimeout(MeshlessError, TimeoutError):
    """The agent took the connection, but did not reply within the handshake timeout."""

    retryable = True

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.errno = errno.ETIMEDOUT


class ProtocolError(MeshlessError, ConnectionError):
    """What answered does not speak the client handshake: the socket is not one of an agent."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.errno = errno.EPROTO


class ProxyHeaderError(MeshlessError, ConnectionError):
    """A connection to a server does not begin with a PROXY header that can be read, or not in time; it was closed."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.errno = errno.EPROTO


class ListenError(MeshlessError, OSError):
    """A service cannot be listened on; `errno` is `EADDRINUSE` if a live server is there."""

    def __init__(self, message: str, number: int = 0) -> None:
        super().__init__(message)
        self.errno = number or None

    def __reduce__(self) -> tuple[type[ListenError], tuple[str, int]]:
        return type(self), (str(self), self.errno or 0)


class ConnectError(MeshlessError, ConnectionError):
    """The agent refused. Raised as the subclass of the reply code.

    Attributes:
        code: the reply code, 1 to 255.
        name: its name, `ACCESS_DENIED` for example.
        service_id: what was asked for.
        connection_id: what to look for in the agents' logs, hexadecimal; empty if the agent speaks version 1 only.
        retry_after: seconds after which trying again makes sense, None if the agent gave no advice.
        text: what the agent said beyond the code, at most 256 characters; empty if nothing.
    """

    code: int = 0
    name: str = ""
    connection_id: str = ""
    retry_after: float | None = None
    text: str = ""
    _advice: str = ""

    def __init__(self, service_id: str) -> None:
        super().__init__(service_id)  # the argument is what unpickling calls the class with
        self.service_id = service_id
        self.errno = errno.ECONNREFUSED

    def __str__(self) -> str:
        what, _, _ = self._advice.partition(";")
        if self.text.startswith(what):
            said = self.text  # the agent's version of the same advice
        else:
            said = f"{self._advice} (the agent: {self.text})" if self.text else self._advice
        where = f" [connection {self.connection_id}]" if self.connection_id else ""
        return f"{self.service_id}: {self.name} ({self.code}): {said}{where}"


class UnsupportedVersion(ConnectError):
    """Code 1: the agent has no handshake for this version."""

    code, name = 1, "UNSUPPORTED_VERSION"
    _advice = "the agent does not speak this version of the handshake; upgrade the agent or this package"


class MalformedRequest(ConnectError):
    """Code 2: the agent could not read the request."""

    code, name = 2, "MALFORMED_REQUEST"
    _advice = "the agent could not read the request; ask for <service>.<meshlet>.<namespace>"


class ServiceNotFound(ConnectError):
    """Code 3: no such service is known."""

    code, name, retryable = 3, "SERVICE_NOT_FOUND", True
    _advice = "no such service is known; check the name and that the server's Meshlet is applied, then retry"


class AccessDenied(ConnectError):
    """Code 4: a policy said no."""

    code, name = 4, "ACCESS_DENIED"
    _advice = "a policy said no; list the service under spec.client of your Meshlet, and see that the server allows you"


class NoEndpoint(ConnectError):
    """Code 5: the service exists, no ready pod provides it."""

    code, name, retryable = 5, "NO_ENDPOINT", True
    _advice = "no ready pod provides the service; see whether its pods run, and retry"


class ConnectionLimit(ConnectError):
    """Code 6: `maxConn` is reached on every eligible pod."""

    code, name, retryable = 6, "CONNECTION_LIMIT", True
    _advice = "maxConn is reached on every pod of the service; close idle connections, or retry with backoff"


class TunnelFailed(ConnectError):
    """Code 7: the remote agent is unreachable or not authentic."""

    code, name, retryable = 7, "TUNNEL_FAILED", True
    _advice = "the agent on the server's node is unreachable or not authentic; see your node's agent log, and retry"


class ServiceRefused(ConnectError):
    """Code 8: the pod is there, its socket is missing or refuses."""

    code, name, retryable = 8, "SERVICE_REFUSED", True
    _advice = "the pod is there but its server does not accept on its socket; see whether it listens, and retry"


class AgentTimeout(ConnectError, TimeoutError):
    """Code 9: the agent could not establish the connection within its deadline."""

    code, name, retryable = 9, "TIMEOUT", True
    _advice = "the agent could not establish the connection within its deadline; retry"


class Draining(ConnectError):
    """Code 10: this agent is shutting down; the next one takes over the socket."""

    code, name, retryable = 10, "DRAINING", True
    _advice = "this agent is shutting down; retry at once, another takes over"


class Overloaded(ConnectError):
    """Code 11: the agent is at a limit of its own."""

    code, name, retryable = 11, "OVERLOADED", True
    _advice = "the agent is at a limit of its own; retry with backoff"


class NotReady(ConnectError):
    """Code 12: the agent has no usable configuration yet."""

    code, name, retryable = 12, "NOT_READY", True
    _advice = "the agent has no usable configuration yet; retry"


class UnknownClient(ConnectError):
    """Code 13: this pod's socket belongs to no meshlet."""

    code, name = 13, "UNKNOWN_CLIENT"
    _advice = "this pod belongs to no meshlet; set the pod label meshless/meshlet to the name of a Meshlet that exists"


class InternalError(ConnectError):
    """Code 255: a bug or a failing plugin; the agent logged it."""

    code, name, retryable = 255, "INTERNAL_ERROR", True
    _advice = "a bug or a failing plugin; see the agent's log, and retry"


class UnknownReplyCode(ConnectError):
    """A code of a newer agent, kept in `code`: a refusal that must not be retried."""

    name = "UNKNOWN"
    _advice = "the agent refused with a code this package does not know; upgrade it to learn the reason"

    def __init__(self, service_id: str, code: int = 0) -> None:
        super().__init__(service_id)
        self.code = code


CODES: Final[dict[int, type[ConnectError]]] = {
    error.code: error
    for error in (
        UnsupportedVersion,
        MalformedRequest,
        ServiceNotFound,
        AccessDenied,
        NoEndpoint,
        ConnectionLimit,
        TunnelFailed,
        ServiceRefused,
        AgentTimeout,
        Draining,
        Overloaded,
        NotReady,
        UnknownClient,
        InternalError,
    )
}
"""The class of each reply code but 0."""
