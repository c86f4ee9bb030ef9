"""The data path's event loop: a bare epoll inside asyncio's."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

Handler = Callable[[int], None]


class Reactor:
    """Calls handlers of ready descriptors in batches. Lives in, and is driven by, one asyncio loop."""

    now: float

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        raise NotImplementedError

    def add(self, fd: int, events: int, handler: Handler) -> None:
        """Watch `fd`."""
        raise NotImplementedError

    def modify(self, fd: int, events: int) -> None:
        """Change what is watched."""
        raise NotImplementedError

    def remove(self, fd: int) -> None:
        """Watch no more."""
        raise NotImplementedError

    def close(self) -> None:
        """Forget every descriptor (without closing them) and leave the loop."""
        raise NotImplementedError
