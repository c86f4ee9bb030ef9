"""The socket that a dial returns: an ordinary one that knows which connection it is and holds its lease."""

from __future__ import annotations

import socket

TYPE_CHECKING = False  # importing typing costs as much as all the rest
if TYPE_CHECKING:
    from typing import SupportsIndex

    from meshless_sdk.leases import Lease
    from meshless_sdk.wire_v2 import Details

__all__ = ["MeshSocket"]


class MeshSocket(socket.socket):
    """A connection to a service; everything a `socket.socket` can, and what the agent said about it.

    If the agent handed the connection over, the lease ends when the last of this socket, its `dup`s and `makefile`s is closed.
    After `detach`, and after `ssl` wrapped it, the lease ends within a second of the descriptor being closed in this process.
    A descriptor passed to another process, or copied with `os.dup` or `socket.fromfd`, is out of sight: keep the socket open as
    long as it is used, or dial with `receive_descriptors=False`.

    Attributes:
        service_id: what was dialled.
        connection_id: the connection in the logs of both agents, hexadecimal; empty with an agent that speaks version 1 only.
        version: the chosen version of the service; empty if it has none.
        endpoint: the chosen pod, `<namespace>/<pod>`; empty if the agent did not say.
        handshake_version: 2, or 1 with an agent that speaks version 1 only: wishes were not told then.
    """

    __slots__ = ("_lease", "connection_id", "endpoint", "handshake_version", "service_id", "version")

    def __init__(
        self,
        family: int = socket.AF_UNIX,
        type: int = socket.SOCK_STREAM,  # noqa: A002 - the name of the base class
        proto: int = 0,
        fileno: int | None = None,
    ) -> None:
        super().__init__(family, type, proto, fileno)
        self._lease: Lease | None = None
        self.service_id = ""
        self.connection_id = ""
        self.version = ""
        self.endpoint = ""
        self.handshake_version = 1

    @property
    def handed_over(self) -> bool:
        """Whether the bytes go to the service directly, without passing through the agent."""
        return self._lease is not None

    @property
    def draining(self) -> bool:
        """Whether the agent asked to finish soon, or is gone; only a connection that was handed over is told."""
        return self._lease is not None and self._lease.draining

    @property
    def revoked(self) -> bool:
        """Whether the agent took the permission back; this socket has been shut down then."""
        return self._lease is not None and self._lease.revoked

    def describe(self, service_id: str, details: Details | None) -> None:
        """Note what the agent said; None if it speaks version 1 only."""
        self.service_id = service_id
        if details is not None:
            self.handshake_version = 2
            self.connection_id = details.connection_id
            self.version = details.version
            self.endpoint = details.endpoint

    def hold(self, lease: Lease) -> None:
        """Keep `lease` open as long as this socket."""
        lease.hold(self)
        self._lease = lease

    def dup(self) -> MeshSocket:
        """A second socket for the same connection; the lease ends when both are closed."""
        copy = super().dup()
        assert isinstance(copy, MeshSocket)
        for name in ("service_id", "connection_id", "version", "endpoint", "handshake_version"):
            setattr(copy, name, getattr(self, name))
        if self._lease is not None:
            copy.hold(self._lease)
        return copy

    def detach(self) -> int:
        """The bare descriptor; this object is closed. The lease ends within a second of the descriptor being closed."""
        if self._lease is None:
            return super().detach()
        return self._lease.detach(self, super().detach)

    def _real_close(self) -> None:
        # What `close` calls once no makefile is open; ssl.SSLSocket hooks in here too.
        if self._lease is None:
            super()._real_close()  # type: ignore[misc] # typeshed leaves it out
        else:
            self._lease.release(self, super()._real_close)  # type: ignore[misc] # as above

    def __reduce_ex__(self, protocol: SupportsIndex) -> str:
        raise TypeError("a connection to a service cannot be pickled; dial in the other process")
