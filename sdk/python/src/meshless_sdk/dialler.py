"""Dial with wishes, retries and a deadline, blocking or with asyncio.

Both ways share everything but the waiting: what to send, what a reply means and when to try again are data from `wire_v2` and
`retrying`. The asyncio half is imported by its first use only.
"""

from __future__ import annotations

import array
import os
import socket
import time
from collections.abc import Callable

from meshless_sdk.dialling import connect_to_agent, limit_waiting, receive, send
from meshless_sdk.errors import AgentUnavailable, HandshakeTimeout, MeshlessError, ProtocolError, UnsupportedVersion
from meshless_sdk.mesh_socket import MeshSocket
from meshless_sdk.paths import client_socket_path
from meshless_sdk.retrying import Retry, Schedule
from meshless_sdk.wire import Reply, encode_request
from meshless_sdk.wire_v2 import ExtendedReply, encode_extended_request

TYPE_CHECKING = False  # importing typing costs as much as all the rest
if TYPE_CHECKING:
    import asyncio
    from typing import Final

__all__ = ["Call", "Dialer", "take_descriptor"]

_FALL_BACK_SECONDS: Final = 60.0
"""How long a path is remembered to have no version 2: agents are upgraded."""

_HEAD_START: Final = 0.1
"""Seconds, at most a tenth, by which the agent's deadline is earlier than ours, so that we learn its reason."""

_without_version_2: dict[str, float] = {}
_without_leases: set[int] = set()
"""This process, if it cannot watch leases."""

_DEFAULT: Final[float] = -1.0


class Dialer:
    """How to dial: immutable, to be shared by threads, tasks and child processes.

        dialer = Dialer(deadline=3, sticky_key=b"customer 4711")
        with dialer.connect("http.cart.shop") as connection:
            ...

    An agent that speaks version 1 of the handshake only is talked to in version 1: its connections have no connection id, and
    the wishes (sticky key, version pin, traceparent, descriptors) are not told.
    """

    __slots__ = (
        "_connect_timeout",
        "_deadline",
        "_handshake_timeout",
        "_on_drain",
        "_path",
        "_receive_descriptors",
        "_retry",
        "_sticky_key",
        "_traceparent",
        "_version_pin",
        "_wait_for_agent",
    )

    def __init__(
        self,
        *,
        path: str | None = None,
        connect_timeout: float | None = 5.0,
        handshake_timeout: float | None = 15.0,
        deadline: float | None = 30.0,
        retry: Retry | None = None,
        wait_for_agent: float = 10.0,
        sticky_key: bytes | None = None,
        version_pin: str | None = None,
        traceparent: str | Callable[[], str | None] | None = None,
        receive_descriptors: bool = True,
        on_drain: Callable[[str], object] | None = None,
    ) -> None:
        """Set the defaults of every dial.

        Args:
            path: the agent's socket; `client/meshless` in `$MESHLESS_DIR`, or in `/meshlet` without that variable, if None.
            connect_timeout: seconds of one try to wait until the agent takes the connection, None for ever.
            handshake_timeout: seconds of one try to wait for the reply after that, None for ever. The agent is told.
            deadline: seconds a dial may take with all its tries and pauses, None for ever.
            retry: how often and after which pauses to try again after an error that is `retryable`; `Retry()` if None.
            wait_for_agent: seconds to wait for an agent to listen, because a pod may start before its socket is there. Waiting
                is no try of `retry`.
            sticky_key: 1 to 64 bytes; dials with the same key get the same version while the weights stay.
            version_pin: the version to get if it has a weight and a ready pod.
            traceparent: W3C trace context for the agents' traces; a function is called for every try.
            receive_descriptors: let the agent hand over the service's own socket if it is on this node, so that no proxy is in
                the data path; see `MeshSocket`. Switch it off for a socket that is to be passed to another process.
            on_drain: called with a text when a connection that was handed over should finish soon; in a thread of its own.

        Raises:
            InvalidArgument: a wish that no agent would take.
        """
        encode_extended_request(
            "a.b.c",
            traceparent=traceparent if isinstance(traceparent, str) else None,
            sticky_key=sticky_key,
            version_pin=version_pin,
        )
        self._path = path
        self._connect_timeout = connect_timeout
        self._handshake_timeout = handshake_timeout
        self._deadline = deadline
        self._retry = Retry() if retry is None else retry
        self._wait_for_agent = wait_for_agent
        self._sticky_key = sticky_key
        self._version_pin = version_pin
        self._traceparent = traceparent
        self._receive_descriptors = receive_descriptors
        self._on_drain = on_drain

    def connect(
        self,
        service_id: str,
        *,
        deadline: float | None = _DEFAULT,
        sticky_key: bytes | None = None,
        version_pin: str | None = None,
    ) -> MeshSocket:
        """Dial a service; blocks.

        Args:
            service_id: `<service>.<meshlet>.<namespace>`.
            deadline: instead of the dialer's.
            sticky_key: instead of the dialer's.
            version_pin: instead of the dialer's.

        Returns:
            A connected, blocking stream socket without a timeout. Nothing behind the handshake has been read.

        Raises:
            InvalidArgument: the service id or a wish cannot be; nothing was sent.
            AgentUnavailable: no agent took the connection, or it went away before it replied.
            HandshakeTimeout: no reply in time.
            ConnectError: the agent refused; one subclass per reply code.
            ProtocolError: what answered is not an agent.
            OSError: this process has no descriptors or memory left for a socket.
        """
        call = self.call(service_id, deadline, sticky_key, version_pin)
        while True:
            try:
                return _connect_once(call)
            except MeshlessError as error:
                pause = call.pause_after(error, time.monotonic())
                if pause is None:
                    raise
            time.sleep(pause)

    async def open_socket(
        self,
        service_id: str,
        *,
        deadline: float | None = _DEFAULT,
        sticky_key: bytes | None = None,
        version_pin: str | None = None,
    ) -> MeshSocket:
        """Dial a service with asyncio; like `connect`, but the socket is non-blocking. Cancelling it leaves nothing open."""
        from meshless_sdk import asyncio_dialler  # late on purpose: it imports asyncio

        return await asyncio_dialler.open_socket(self.call(service_id, deadline, sticky_key, version_pin))

    async def open_connection(
        self,
        service_id: str,
        *,
        deadline: float | None = _DEFAULT,
        sticky_key: bytes | None = None,
        version_pin: str | None = None,
        limit: int = 2**16,
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Dial a service with asyncio; like `connect`, but returns streams. Cancelling it leaves nothing open.

        Args:
            service_id: `<service>.<meshlet>.<namespace>`.
            deadline: instead of the dialer's.
            sticky_key: instead of the dialer's.
            version_pin: instead of the dialer's.
            limit: bytes the reader buffers at most, as in `asyncio.open_connection`.
        """
        from meshless_sdk import asyncio_dialler  # late on purpose: it imports asyncio

        return await asyncio_dialler.open_connection(self.call(service_id, deadline, sticky_key, version_pin), limit)

    def call(
        self,
        service_id: str,
        deadline: float | None = _DEFAULT,
        sticky_key: bytes | None = None,
        version_pin: str | None = None,
    ) -> Call:
        """One dial, to be driven by `connect` and its kind."""
        return Call(
            service_id,
            path=client_socket_path() if self._path is None else self._path,
            connect_timeout=self._connect_timeout,
            handshake_timeout=self._handshake_timeout,
            schedule=Schedule(
                time.monotonic(),
                retry=self._retry,
                deadline=self._deadline if deadline == _DEFAULT else deadline,
                wait_for_agent=self._wait_for_agent,
                random=_uniform,
            ),
            sticky_key=self._sticky_key if sticky_key is None else sticky_key,
            version_pin=self._version_pin if version_pin is None else version_pin,
            traceparent=self._traceparent,
            receive_descriptors=self._receive_descriptors,
            on_drain=self._on_drain,
        )


class Call:
    """One dial with all its tries: what to say, what was said, when to go on. Does no I/O.

    Attributes:
        service_id: what is dialled.
        path: the agent's socket.
        reply: collects the reply of the current try.
    """

    def __init__(
        self,
        service_id: str,
        *,
        path: str,
        connect_timeout: float | None,
        handshake_timeout: float | None,
        schedule: Schedule,
        sticky_key: bytes | None,
        version_pin: str | None,
        traceparent: str | Callable[[], str | None] | None,
        receive_descriptors: bool,
        on_drain: Callable[[str], object] | None,
    ) -> None:
        self.service_id = service_id
        self.path = path
        self.reply: Reply | ExtendedReply = Reply(service_id)
        self._connect_timeout = connect_timeout
        self._handshake_timeout = handshake_timeout
        self._schedule = schedule
        self._sticky_key = sticky_key
        self._version_pin = version_pin
        self._traceparent = traceparent
        self._receive_descriptors = receive_descriptors and os.getpid() not in _without_leases
        self.on_drain = on_drain
        encode_request(service_id)  # a bad name is found before anything waits

    def connect_timeout(self, now: float) -> float | None:
        """Seconds this try may wait for the agent to take the connection."""
        return self._schedule.left(now, self._connect_timeout)

    def handshake_timeout(self, now: float) -> float | None:
        """Seconds this try may wait for the reply."""
        return self._schedule.left(now, self._handshake_timeout)

    def begin(self, timeout: float | None, now: float) -> bytes:
        """The request of a new try, whose reply is waited for `timeout` seconds."""
        forget_at = _without_version_2.get(self.path)
        if forget_at is not None and now < forget_at:
            self.reply = Reply(self.service_id)
            return encode_request(self.service_id)
        self.reply = ExtendedReply(self.service_id, accepts_descriptor=self._receive_descriptors)
        traceparent = self._traceparent
        return encode_extended_request(
            self.service_id,
            deadline=None if timeout is None else max(0.001, timeout - min(_HEAD_START, timeout / 10)),
            traceparent=traceparent() if callable(traceparent) else traceparent,
            sticky_key=self._sticky_key,
            version_pin=self._version_pin,
            accepts_descriptor=self._receive_descriptors,
        )

    def pause_after(self, error: MeshlessError, now: float) -> float | None:
        """Seconds to wait before the next try, None to give up and raise `error`."""
        reply = self.reply
        if isinstance(error, UnsupportedVersion) and isinstance(reply, ExtendedReply) and reply.is_version_1:
            _without_version_2[self.path] = now + _FALL_BACK_SECONDS
            return 0.0
        if isinstance(error, _LeaseNotWatchedError):
            self._receive_descriptors = False
            _without_leases.add(os.getpid())
            return 0.0
        return self._schedule.pause_after(error, now)

    @property
    def expects_descriptor(self) -> bool:
        """Whether the service's socket comes behind the reply."""
        return isinstance(self.reply, ExtendedReply) and self.reply.details.descriptor_follows

    def established(self, connection: MeshSocket, descriptor: int | None) -> MeshSocket:
        """The socket to return: `connection`, or the one that was handed over, of which `connection` becomes the lease."""
        details = self.reply.details if isinstance(self.reply, ExtendedReply) else None
        if descriptor is None:
            connection.describe(self.service_id, details)
            return connection
        from meshless_sdk.leases import Lease  # late on purpose: it imports threading

        try:
            service = MeshSocket(-1, -1, -1, descriptor)  # the kernel says what it is
        except OSError as error:
            socket.close(descriptor)
            raise ProtocolError(f"the agent handed over something that is no socket for {self.service_id}") from error
        try:
            if service.type != socket.SOCK_STREAM:
                raise ProtocolError(f"the agent handed over a socket that is no stream for {self.service_id}")
            service.hold(Lease(connection, self.on_drain))
        except (RuntimeError, AttributeError) as error:  # no thread can start, or green ones took epoll away
            service.close()
            raise _LeaseNotWatchedError(f"leases cannot be watched in this process: {error}") from error
        except BaseException:
            service.close()
            raise
        service.describe(self.service_id, details)
        return service

    def late(self, timeout: float | None) -> HandshakeTimeout:
        """The error for a reply that did not come within `timeout` seconds."""
        seconds = "none" if timeout is None else f"{timeout:.3g}"
        return HandshakeTimeout(f"the agent did not reply for {self.service_id} within {seconds} s; retry")


class _LeaseNotWatchedError(MeshlessError):
    """This process cannot have handed-over connections: dial again without offering it. Never leaves `Dialer`."""


def _uniform() -> float:
    # The module random imports hashlib, and with it OpenSSL: more than all of this package. This needs no care after a fork.
    return int.from_bytes(os.urandom(6), "big") / 2**48


def take_descriptor(connection: socket.socket) -> int:
    """Read the byte that brings the service's socket, and return its descriptor.

    Raises:
        AgentUnavailable: the agent went away first.
        ProtocolError: something else came; nothing of it stays open.
    """
    room = socket.CMSG_SPACE(8 * array.array("i").itemsize)
    try:
        data, control, flags, _ = connection.recvmsg(1, room, socket.MSG_CMSG_CLOEXEC)
    except ConnectionResetError:
        data, control, flags = b"", [], 0
    received = array.array("i")
    for level, kind, content in control:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            received.frombytes(content[: len(content) - len(content) % received.itemsize])
    if data == b"\0" and len(received) == 1 and not flags & socket.MSG_CTRUNC:
        return received[0]
    for descriptor in received:
        socket.close(descriptor)
    if not data:
        raise AgentUnavailable("the agent closed the connection before it handed over the service's socket; retry")
    raise ProtocolError("the agent did not hand over exactly one descriptor; check that the path is the socket of an agent")


def _connect_once(call: Call) -> MeshSocket:
    connection = MeshSocket()
    descriptor: int | None = None
    try:
        connection.settimeout(None)  # the application may have set another default
        connect_to_agent(connection, call.path, call.connect_timeout(time.monotonic()))
        now = time.monotonic()
        timeout = call.handshake_timeout(now)
        until = None if timeout is None else now + timeout
        unsent = call.begin(timeout, now)
        try:
            while call.reply.wanted:
                limit_waiting(connection, until)
                if unsent:
                    send(connection, unsent)
                    unsent = b""
                call.reply.receive_data(receive(connection, call.reply.wanted))
            if call.expects_descriptor:
                limit_waiting(connection, until)
                descriptor = take_descriptor(connection)
        except TimeoutError as error:
            if isinstance(error, MeshlessError):
                raise  # the agent's own timeout is a TimeoutError too
            raise call.late(timeout) from error
        service = call.established(connection, descriptor)
        service.settimeout(None)
    except BaseException:  # also KeyboardInterrupt: nobody else knows the socket
        connection.close()
        raise
    return service
