"""An asyncio loop whose selector is the data path's epoll too: one system call wakes for both.

Why: a reactor's epoll inside asyncio's costs, for each wake-up, a look at either, a handle and a context, which is a quarter of
what relaying a small message takes (ADR-0101). Here the selector hands the reactor what is ready of its descriptors while
asyncio waits in `select`, and tells asyncio only about asyncio's own. After each batch asyncio has its turn.

It must not know what a reactor does with an event.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import select
import selectors
from collections.abc import Callable, Container, Iterator, Mapping
from typing import Final, Protocol

__all__ = ["BATCH", "DataPathLoop", "DataPathSelector", "Dispatch", "Ready"]

BATCH: Final = 128
"""Most events taken per system call."""

Ready = list[tuple[int, int]]
"""What epoll reports: descriptors with the `select.EPOLL*` bits that are set."""

Dispatch = Callable[[Ready], Ready]
"""Called with a batch; handles what it knows and returns the rest."""

_READ: Final = selectors.EVENT_READ
_WRITE: Final = selectors.EVENT_WRITE
_IN: Final = select.EPOLLIN
_OUT: Final = select.EPOLLOUT


class _HasFileno(Protocol):
    def fileno(self) -> int: ...


_FileObject = int | _HasFileno


class DataPathSelector(selectors.BaseSelector):
    """Level-triggered epoll for asyncio, shared with reactors (an agent has one).

    What is registered here is asyncio's. A reactor adds its descriptors to `epoll` itself; a descriptor belongs to one of them
    at a time, and the kernel refuses a second registration (`FileExistsError`).

    Attributes:
        epoll: what is waited on.
    """

    def __init__(self) -> None:
        self.epoll = select.epoll()
        self._keys: dict[int, selectors.SelectorKey] = {}
        self._map = _KeysByFile(self._keys)
        self._fresh: set[int] = set()
        self._reactors: tuple[Dispatch, ...] = ()
        self._watched: dict[Dispatch, Container[int]] = {}

    def attach(self, dispatch: Dispatch, watched: Container[int]) -> None:
        """Let a reactor have its events.

        Args:
            dispatch: gets each batch and returns what is not the reactor's.
            watched: the reactor's descriptors, at any time.
        """
        self._reactors += (dispatch,)
        self._watched[dispatch] = watched

    def detach(self, dispatch: Dispatch) -> None:
        """Dispatch there no more; the reactor has taken its descriptors out."""
        self._reactors = tuple(one for one in self._reactors if one != dispatch)
        self._watched.pop(dispatch, None)

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """Wait, let the reactor work, return what is ready of asyncio's descriptors.

        Args:
            timeout: seconds, None for ever, 0 or less for a look; rounded up to the millisecond, as epoll knows no less.
        """
        if timeout is None:
            seconds = -1.0
        elif timeout <= 0:
            seconds = 0.0
        else:
            seconds = math.ceil(timeout * 1e3) * 1e-3
        try:
            ready = self.epoll.poll(seconds, BATCH)
        except InterruptedError:
            return []
        if not ready:
            return []
        self._fresh.clear()
        for dispatch in self._reactors:
            ready = dispatch(ready)
        found: list[tuple[selectors.SelectorKey, int]] = []
        for fd, events in ready:
            key = self._keys.get(fd)
            # A descriptor that a handler registered just now may have the number of one that it closed: not its event.
            if key is None or fd in self._fresh:
                continue
            wanted = key.events & ((_READ if events & ~_OUT else 0) | (_WRITE if events & ~_IN else 0))
            if wanted:
                found.append((key, wanted))
        return found

    def register(self, fileobj: _FileObject, events: int, data: object = None) -> selectors.SelectorKey:
        """See `selectors.BaseSelector.register`."""
        fd = fileobj if isinstance(fileobj, int) else fileobj.fileno()
        if fd < 0:
            raise ValueError(f"invalid descriptor {fd}: closed already?")
        if fd in self._keys:
            raise KeyError(f"descriptor {fd} is registered already")
        if not events or events & ~(_READ | _WRITE):
            raise ValueError(f"invalid events: {events!r}")
        self.epoll.register(fd, _mask(events))
        key = self._keys[fd] = selectors.SelectorKey(fileobj, fd, events, data)
        self._fresh.add(fd)
        return key

    def unregister(self, fileobj: _FileObject) -> selectors.SelectorKey:
        """See `selectors.BaseSelector.unregister`."""
        key = self._keys.pop(_registered(fileobj, self._keys))
        # Who closes first and takes out afterwards may mean a number that has become a reactor's, as when a socket is closed
        # under a `sock_recv` that was cancelled.
        if any(key.fd in watched for watched in self._watched.values()):
            return key
        with contextlib.suppress(OSError):  # closed before: the kernel has forgotten it
            self.epoll.unregister(key.fd)
        return key

    def modify(self, fileobj: _FileObject, events: int, data: object = None) -> selectors.SelectorKey:
        """See `selectors.BaseSelector.modify`."""
        key = self._keys[_registered(fileobj, self._keys)]
        if events != key.events:
            try:
                self.epoll.modify(key.fd, _mask(events))
            except BaseException:
                self.unregister(fileobj)  # closed before: who registers the next descriptor of that number must be able to
                raise
        key = self._keys[key.fd] = selectors.SelectorKey(key.fileobj, key.fd, events, data)
        return key

    def get_map(self) -> Mapping[_FileObject, selectors.SelectorKey]:
        """See `selectors.BaseSelector.get_map`."""
        return self._map

    def close(self) -> None:
        """Close the epoll; nothing that was registered is closed."""
        self._reactors = ()
        self._watched.clear()
        self._keys.clear()
        self.epoll.close()


class DataPathLoop(asyncio.SelectorEventLoop):
    """asyncio's loop on a `DataPathSelector`; a `Reactor` made in it shares its epoll.

    Use it as `asyncio.Runner(loop_factory=DataPathLoop)`.

    Attributes:
        data_path: the selector.
    """

    def __init__(self) -> None:
        self.data_path = DataPathSelector()
        super().__init__(self.data_path)


class _KeysByFile(Mapping[_FileObject, selectors.SelectorKey]):
    """The keys by descriptor, or by an object that has one."""

    def __init__(self, keys: Mapping[int, selectors.SelectorKey]) -> None:
        self._keys = keys

    def __getitem__(self, fileobj: _FileObject) -> selectors.SelectorKey:
        return self._keys[_registered(fileobj, self._keys)]

    def __len__(self) -> int:
        return len(self._keys)

    def __iter__(self) -> Iterator[_FileObject]:
        return iter(self._keys)


def _registered(fileobj: _FileObject, keys: Mapping[int, selectors.SelectorKey]) -> int:
    """The descriptor under which `fileobj` is registered, also if it was closed since; -1 if it is not."""
    if isinstance(fileobj, int):
        return fileobj
    with contextlib.suppress(ValueError):  # a closed file has no number any more
        if (fd := fileobj.fileno()) >= 0:
            return fd
    return next((fd for fd, key in keys.items() if key.fileobj is fileobj), -1)


def _mask(events: int) -> int:
    return (_IN if events & _READ else 0) | (_OUT if events & _WRITE else 0)
