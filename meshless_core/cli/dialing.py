"""Dial a service through the node's agent: what `connect`, `forward` and `proxy` share.

The handshake itself is `meshless_core.handshake`; here is only the reading and writing around it, and what to tell people when
it fails.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
from collections.abc import Callable
from typing import Any, Final, TypeVar

import click

from meshless_core.cli.exit_codes import CommandError, ExitCode
from meshless_core.cli.unix_sockets import connect_unix
from meshless_core.errors import InvalidNameError, RemoteProtocolError
from meshless_core.handshake import ClientHandshake, Established, Refused
from meshless_core.types import ReplyCode, ServiceId

__all__ = [
    "AgentUnreachableError",
    "RefusedError",
    "ServiceIdType",
    "client_socket_path",
    "dial",
    "pod_dir_option",
    "reach_agent",
    "socket_option",
]

CONNECT_TIMEOUT: Final = 5.0
"""Seconds to wait while the agent's backlog is full: as long as a restarting agent may take to come back."""

HANDSHAKE_TIMEOUT: Final = 15.0
"""Seconds to wait for the reply: longer than the agent's own deadline, so that a slow set-up ends with the agent's reason."""

_F = TypeVar("_F", bound=Callable[..., Any])


class AgentUnreachableError(CommandError):
    """No agent took the connection, or it went away or stayed silent during the handshake."""

    def __init__(self, message: str) -> None:
        super().__init__(message, ExitCode.UNREACHABLE)


class RefusedError(CommandError):
    """The agent said no.

    Attributes:
        refusal: what it said.
    """

    def __init__(self, refusal: Refused) -> None:
        if isinstance(refusal.code, ReplyCode):
            text = f"{refusal.code.meaning}; the client may {refusal.code.advice}"
        else:
            text = "a code this version does not know; upgrade the client to learn the reason"
        super().__init__(f"refused: {refusal.name} ({int(refusal.code)}): {text}", ExitCode.NO)
        self.refusal = refusal


class ServiceIdType(click.ParamType):  # type: ignore[type-arg]  # generic in new releases of click only
    """Lets click parse a `ServiceId`."""

    name = "service-id"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> ServiceId:
        """Parse what was written on the command line."""
        if isinstance(value, ServiceId):
            return value
        try:
            return ServiceId.parse(str(value))
        except InvalidNameError as error:
            self.fail(str(error), param, ctx)


def pod_dir_option(function: _F) -> _F:
    """Add `--pod-dir`; the command gets it as `pod_dir`."""
    return click.option(
        "--pod-dir",
        type=click.Path(file_okay=False),
        default="/meshlet",
        show_default=True,
        envvar="MESHLESS_DIR",
        show_envvar=True,
        metavar="DIR",
        help="The pod's folder, with client/ and server/ in it.",
    )(function)


def socket_option(function: _F) -> _F:
    """Add `--socket`; the command gets it as `socket_path`."""
    return click.option(
        "--socket",
        "socket_path",
        type=click.Path(),
        default=None,
        metavar="PATH",
        help="The agent's socket, if it is not client/meshless in the pod's folder.",
    )(function)


def client_socket_path(pod_dir: str, socket_path: str | None) -> str:
    """The agent's socket as the two options say it."""
    return os.path.join(pod_dir, "client", "meshless") if socket_path is None else socket_path


async def reach_agent(path: str, *, timeout: float = CONNECT_TIMEOUT) -> socket.socket:
    """Connect to the agent, and say nothing yet.

    Args:
        path: the agent's socket.
        timeout: seconds to wait while the agent's backlog is full.

    Returns:
        A non-blocking socket.

    Raises:
        AgentUnreachableError: no agent took the connection.
    """
    try:
        return await connect_unix(path, timeout=timeout)
    except OSError as error:
        raise AgentUnreachableError(f"cannot reach the agent at {path}: {_reason(error)}") from error


async def dial(
    service_id: ServiceId,
    path: str,
    *,
    connect_timeout: float = CONNECT_TIMEOUT,
    handshake_timeout: float = HANDSHAKE_TIMEOUT,
) -> socket.socket:
    """Dial a service.

    Args:
        service_id: what to dial.
        path: the agent's socket.
        connect_timeout: seconds to wait while the agent's backlog is full.
        handshake_timeout: seconds to wait for the reply after that.

    Returns:
        A non-blocking socket that is the connection to the service; nothing behind the handshake has been read.

    Raises:
        RefusedError: the agent said no.
        AgentUnreachableError: no agent took the connection, or it went away or stayed silent during the handshake.
    """
    connection = await reach_agent(path, timeout=connect_timeout)
    try:
        async with asyncio.timeout(handshake_timeout):
            verdict = await _shake_hands(connection, service_id)
        if isinstance(verdict, Refused):
            raise RefusedError(verdict)
    except TimeoutError as error:
        connection.close()
        raise AgentUnreachableError(f"the agent at {path} did not reply within {handshake_timeout:g} s; retry") from error
    except RemoteProtocolError as error:
        connection.close()
        raise AgentUnreachableError(f"no reply from {path}: {error}") from error
    except BaseException:  # also cancellation: nobody else knows the socket
        connection.close()
        raise
    return connection


async def _shake_hands(connection: socket.socket, service_id: ServiceId) -> Established | Refused:
    loop = asyncio.get_running_loop()
    handshake = ClientHandshake(service_id)
    # The agent may refuse before it has read the request: what it said is still there to read.
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        await loop.sock_sendall(connection, handshake.request)
    while True:
        try:
            data = await loop.sock_recv(connection, handshake.wanted)
        except ConnectionResetError:
            data = b""  # the agent went away with our request unread: to us the same as end-of-file
        verdict = handshake.receive_data(data)
        if verdict is not None:
            return verdict


def _reason(error: OSError) -> str:
    match error.errno:
        case errno.ENOENT | errno.ENOTDIR:
            return "there is no such socket; check --pod-dir, --socket or MESHLESS_DIR"
        case errno.ECONNREFUSED:
            return "nobody listens on it; check that the node's agent runs"
        case errno.EACCES | errno.EPERM:
            return "no permission to connect; check the mode of the socket and of the folders above it"
        case errno.EAGAIN:
            return "its backlog stayed full; see whether the node's agent is alive, and retry"
        case errno.ENOTSOCK | errno.EPROTOTYPE:
            return "it is not a stream socket; check the path"
        case _:
            return error.strerror or str(error)
