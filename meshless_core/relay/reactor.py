"""The data path's event loop: bare epoll handlers beside asyncio's callbacks.

Why: asyncio spends several microseconds per callback (a handle, a context, a queue), more than moving a small message costs. So
the descriptors of the data path are never asyncio's. In a `DataPathLoop`, which is what an agent runs, both wait on one epoll;
in any other loop the reactor has an epoll of its own, which asyncio watches. One wake-up serves batches until nothing is
ready, or until the budget is spent and the control path gets its turn.

It must not block, and it must not know what its handlers do.
"""

from __future__ import annotations

import asyncio
import logging
import select
import time
from collections.abc import Callable
from typing import Final

from meshless_core.relay.loop import BATCH, DataPathLoop, Ready
from meshless_core.relay.pipes import PipePool

__all__ = ["BUDGET", "SCRATCH_BYTES", "Handler", "OnError", "Reactor"]

BUDGET: Final = 0.002
"""Seconds the data path may run before the control path gets its turn: what a new connection waits at most behind busy ones."""

SCRATCH_BYTES: Final = 208 * 1024
"""Bytes of the read buffer all connections of a reactor share; the most one connection can be left holding (ADR-0061). Three
frames of the tunnel, and a TLS record more, so that what is received in one piece can be decrypted in one piece (ADR-0064)."""

Handler = Callable[[int], None]
"""Called with the `select.EPOLL*` bits that are set."""

OnError = Callable[[Exception], None]
"""Told that a handler raised, after its descriptor was dropped."""

_log = logging.getLogger(__name__)


class Reactor:
    """Calls the handlers of ready descriptors in batches. Level-triggered. Lives in one asyncio loop, belongs to its thread.

    Attributes:
        now: `time.monotonic()` in seconds at the start of the present batch: good enough for idle times, and free.
        scratch: buffer a handler may use until it returns; its content is nobody's afterwards.
        pipes: for handlers that splice.
        loop: the asyncio loop, for timers.
        orphans: called by `close`, for what its owner has let go of while it had a last word to deliver.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        *,
        budget: float = BUDGET,
        scratch_bytes: int = SCRATCH_BYTES,
    ) -> None:
        """Start watching.

        Args:
            loop: the loop to live in; the reactor is driven by it until `close`.
            budget: seconds one turn may last, see `BUDGET`.
            scratch_bytes: size of `scratch`.
        """
        self.loop = loop
        self.now = time.monotonic()
        self.scratch = memoryview(bytearray(scratch_bytes))
        self.pipes = PipePool()
        self._budget = budget
        self._handlers: dict[int, Handler] = {}
        self._on_error: dict[int, OnError] = {}
        self._changed: set[int] = set()
        self.orphans: set[Callable[[], None]] = set()
        self._closed = False
        if isinstance(loop, DataPathLoop):
            self._epoll = loop.data_path.epoll
            loop.data_path.attach(self._dispatch, self._handlers)
        else:
            self._epoll = select.epoll()
            loop.add_reader(self._epoll.fileno(), self._turn)

    def add(self, fd: int, events: int, handler: Handler, on_error: OnError | None = None) -> None:
        """Watch a descriptor.

        Args:
            fd: the descriptor; its owner calls `remove` before closing it.
            events: `select.EPOLLIN`, `EPOLLOUT` or both; errors and hang-ups are reported always.
            handler: called with the events that are there; a handler that raises loses its descriptor.
            on_error: told when that happened, so that the owner can end what it was doing.

        Raises:
            OSError: the kernel does not watch it (closed, already watched, not a socket or pipe).
        """
        self._epoll.register(fd, events)
        self._handlers[fd] = handler
        if on_error is not None:
            self._on_error[fd] = on_error
        self._changed.add(fd)

    def modify(self, fd: int, events: int, handler: Handler | None = None) -> None:
        """Change the events watched for, and the handler if one is given; an event that was already fetched is not told."""
        self._epoll.modify(fd, events)
        self._changed.add(fd)
        if handler is not None:
            self._handlers[fd] = handler

    def remove(self, fd: int) -> None:
        """Stop watching; its handler is not called again, not even for an event that was already fetched. Idempotent."""
        if self._handlers.pop(fd, None) is None:
            return
        self._on_error.pop(fd, None)
        try:
            self._epoll.unregister(fd)
        except OSError as error:  # its owner closed it first; the kernel has forgotten it already
            _log.debug("descriptor %d was closed before it was removed: %s", fd, error)

    def forget(self, fd: int) -> None:
        """Like `remove`, for an owner that closes the descriptor at once: closing takes it out of the epoll by itself.

        Only if nobody else holds the same open file (a duplicate, a copy sent elsewhere): that would keep it there.
        """
        self._handlers.pop(fd, None)
        self._on_error.pop(fd, None)

    def close(self) -> None:
        """End the orphans, forget every other descriptor (its owner closes it) and leave the loop. Idempotent."""
        if self._closed:
            return
        for end in list(self.orphans):
            end()
        self._closed = True
        if isinstance(self.loop, DataPathLoop):
            for fd in list(self._handlers):
                self.remove(fd)
            self.loop.data_path.detach(self._dispatch)
            self._epoll = select.epoll()  # what is added too late must not stay in the loop's, where nobody would serve it
        else:
            self.loop.remove_reader(self._epoll.fileno())
        self._epoll.close()
        self._handlers.clear()
        self._on_error.clear()
        self.pipes.close()

    def __len__(self) -> int:
        return len(self._handlers)

    def _turn(self) -> None:
        """Serve what is ready, called by a loop that knows nothing of the reactor's descriptors but that some are."""
        if ready := self._epoll.poll(0, BATCH):
            self._dispatch(ready)

    def _dispatch(self, ready: Ready) -> Ready:
        """Serve batches until nothing is ready, the budget is spent, or something is ready that is asyncio's: returns that."""
        others = self._serve(ready)
        deadline = self.now + self._budget
        while not others and not self._closed and time.monotonic() < deadline:
            if not (ready := self._epoll.poll(0, BATCH)):
                break
            others = self._serve(ready)
        return others

    def _serve(self, ready: Ready) -> Ready:
        """Call the handlers of a batch; returns what belongs to none."""
        handlers, changed = self._handlers, self._changed
        self.now = time.monotonic()
        # A descriptor added while this batch runs may reuse the number of one that was closed in it, and one that was modified
        # may not want what it wanted: what was fetched for that number is not its event. Level-triggered: a real event of it
        # comes again with the next batch.
        changed.clear()
        others: Ready = []
        for fd, events in ready:
            handler = handlers.get(fd)
            if handler is None:
                others.append((fd, events))
            elif fd not in changed:
                try:
                    handler(events)
                except Exception as error:  # noqa: BLE001 - one connection's bug must not stop the others
                    self._drop(fd, handler, error)
                except asyncio.CancelledError as error:  # no task is above a handler: it would end the loop
                    bug = RuntimeError("a handler of the data path raised CancelledError")
                    bug.__cause__ = error
                    self._drop(fd, handler, bug)
        return others

    def _drop(self, fd: int, handler: Handler, error: Exception) -> None:
        """Stop serving a descriptor whose handler raised, and say so."""
        _log.error("relay handler of descriptor %d failed, the descriptor is dropped", fd, exc_info=error)
        if self._handlers.get(fd) is not handler:
            return  # it had removed itself before it failed
        on_error = self._on_error.get(fd)
        self.remove(fd)
        if on_error is not None:
            try:
                on_error(error)
            except (Exception, asyncio.CancelledError) as another:  # noqa: BLE001 - nothing above us catches it
                _log.error("the owner of descriptor %d could not be told of that", fd, exc_info=another)
