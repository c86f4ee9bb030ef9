"""A TCP port of loopback that stays ours while nobody listens on it.

Why: a port that was only looked up can be gone before the agent listens on it, and while an agent is being restarted anybody's
outgoing connection may get it. A socket that is bound and does not listen keeps it from both, and lets an agent, which binds
with SO_REUSEADDR as servers do, listen on it (Linux, ip(7) and socket(7)).
"""

from __future__ import annotations

import socket

__all__ = ["ReservedPort"]


class ReservedPort:
    """A free port of 127.0.0.1, reserved until `release`.

    Attributes:
        address: `127.0.0.1:<port>`.

    Raises:
        OSError: no port or no descriptor is left.
    """

    def __init__(self) -> None:
        self._holder = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        try:
            self._holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self._holder.bind(("127.0.0.1", 0))
        except OSError:
            self._holder.close()
            raise
        self.address = f"127.0.0.1:{self._holder.getsockname()[1]}"

    def release(self) -> None:
        """Let others have it. Idempotent."""
        self._holder.close()
