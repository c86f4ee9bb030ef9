"""Dial a service with a blocking socket.

The kernel does the waiting: for room in the agent's backlog (`SO_SNDTIMEO`, unix(7)) and for the reply. An agent that is being
replaced parks its listener, so a connect that waits is served by the next one. Only for an agent that does not listen yet there
is nothing to wait on: `connect` looks again after a pause.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import struct
import time

from meshless_sdk.errors import AgentUnavailable, HandshakeTimeout
from meshless_sdk.paths import address_of, client_socket_path
from meshless_sdk.patience import Patience
from meshless_sdk.wire import Reply, encode_request

__all__ = ["connect", "connect_to_agent", "limit_waiting", "receive", "send", "unavailable"]


def connect(
    service_id: str,
    *,
    connect_timeout: float | None = 5.0,
    handshake_timeout: float | None = 15.0,
    path: str | None = None,
) -> socket.socket:
    """Dial a service; the returned socket is the connection to it.

    Args:
        service_id: `<service>.<meshlet>.<namespace>`.
        connect_timeout: seconds to wait until the agent takes the connection: while it does not listen yet, because a pod may
            start before its socket is there, and while its backlog is full. 0 tries once, None waits for ever.
        handshake_timeout: seconds to wait for the reply after that, None waits for ever. The default is longer than the
            agent's own deadline, so that a slow set-up ends with the agent's reason.
        path: the agent's socket; `$MESHLESS_DIR/client/meshless`, or `/meshlet/client/meshless` without that variable, if None.

    Returns:
        A connected, blocking stream socket without a timeout. Nothing behind the handshake has been read.

    Raises:
        InvalidServiceId: `service_id` cannot be one; nothing was sent.
        AgentUnavailable: no agent took the connection in time, or it went away before it replied.
        HandshakeTimeout: no reply in time.
        ConnectError: the agent refused; one subclass per reply code, `retryable` says whether to try again.
        ProtocolError: what answered is not an agent.
        OSError: this process has no descriptors or memory left for a socket.
    """
    request = encode_request(service_id)
    where = client_socket_path() if path is None else path
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connection.settimeout(None)  # the application may have set another default
        _wait_for_agent(connection, where, connect_timeout)
        _shake_hands(connection, service_id, request, handshake_timeout)
    except BaseException:  # also KeyboardInterrupt: nobody else knows the socket
        connection.close()
        raise
    return connection


def _wait_for_agent(connection: socket.socket, path: str, timeout: float | None) -> None:
    patience = Patience(time.monotonic(), timeout)
    while True:
        try:
            return connect_to_agent(connection, path, patience.left(time.monotonic()))
        except AgentUnavailable as error:
            pause = patience.pause_after(error, time.monotonic())
        time.sleep(pause)


def connect_to_agent(connection: socket.socket, path: str, timeout: float | None) -> None:
    """Connect a blocking socket; the kernel waits for room in the backlog, `timeout` seconds at most.

    Raises:
        AgentUnavailable: no agent took the connection; at once if none listens. The socket can be used again.
    """
    deadline = None if timeout is None else time.monotonic() + timeout
    try:
        with address_of(path) as address:
            while True:
                _set_send_timeout(connection, deadline)
                connection.connect(address)
                # CPython takes a connect that a signal interrupted for a connected one (it asks SO_ERROR, which for a
                # Unix socket says nothing), so ask for the peer, which an unconnected socket does not have.
                try:
                    connection.getpeername()
                except OSError as error:
                    if error.errno != errno.ENOTCONN:
                        raise
                    continue
                break
    except OSError as error:
        raise unavailable(path, error) from error
    _set_send_timeout(connection, None)


def _set_send_timeout(connection: socket.socket, deadline: float | None) -> None:
    # Zero means no timeout to the kernel, so a deadline that has passed leaves the shortest one.
    left = 0 if deadline is None else max(1, int((deadline - time.monotonic()) * 1_000_000))
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("@ll", left // 1_000_000, left % 1_000_000))


def _shake_hands(connection: socket.socket, service_id: str, request: bytes, timeout: float | None) -> None:
    deadline = None if timeout is None else time.monotonic() + timeout
    reply = Reply(service_id)
    unsent = request
    while reply.wanted:
        try:
            limit_waiting(connection, deadline)
            if unsent:
                send(connection, unsent)
                unsent = b""
            data = receive(connection, reply.wanted)
        except TimeoutError as error:
            raise HandshakeTimeout(f"the agent did not reply for {service_id} within {timeout} s; retry") from error
        reply.receive_data(data)
    connection.settimeout(None)


def send(connection: socket.socket, request: bytes) -> None:
    """Send a request; an agent that does not take it is no error yet."""
    # The agent may refuse before it has read the request: what it said is still there to read.
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        connection.sendall(request)


def receive(connection: socket.socket, size: int) -> bytes:
    """At most `size` bytes of a reply, b"" for the end of the connection, however it ended."""
    try:
        return connection.recv(size)
    except ConnectionResetError:
        return b""  # the agent went away with our request unread: to us the same as end-of-file


def limit_waiting(connection: socket.socket, deadline: float | None) -> None:
    """Let the next calls wait until `deadline` in monotonic seconds, for ever if None."""
    # Zero would mean non-blocking.
    connection.settimeout(None if deadline is None else max(1e-6, deadline - time.monotonic()))


def unavailable(path: str, error: OSError) -> AgentUnavailable:
    """The error for a connect to `path` that failed with `error`: why, and what to do."""
    match error.errno:
        case errno.ENOENT | errno.ENOTDIR:
            why = "there is no such socket; check that this pod belongs to a mesh, or set MESHLESS_DIR"
        case errno.ECONNREFUSED:
            why = "nobody listens on it; check that the node's agent runs"
        case errno.EACCES | errno.EPERM:
            why = "no permission to connect; check the mode of the socket and of the folders above it"
        case errno.EAGAIN:
            why = "its backlog stayed full until the connect timeout; retry, and see whether the node's agent is alive"
        case errno.ENOTSOCK | errno.EPROTOTYPE:
            why = "it is not a stream socket; check the path"
        case _:
            why = os.strerror(error.errno) if error.errno else str(error)
    return AgentUnavailable(f"cannot reach the agent at {path}: {why}", error.errno or 0)
