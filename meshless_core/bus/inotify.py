"""Linux's inotify as a descriptor an event loop can wait on: which folders' entries changed.

Why our own eighty lines and not watchfiles: the agent has one thread and a memory bound; see ADR 0041. An event is a hint and
nothing else: the reader looks at the files themselves. This module must not interpret what changed beyond its name.

Source: inotify(7).
"""

from __future__ import annotations

import ctypes
import errno
import functools
import os
import struct
from typing import Final

import attrs

__all__ = ["FolderChange", "FolderWatcher"]

_CLOSE_WRITE: Final = 0x8
_MOVED_FROM: Final = 0x40
_MOVED_TO: Final = 0x80
_CREATE: Final = 0x100
_DELETE: Final = 0x200
_DELETE_SELF: Final = 0x400
_MOVE_SELF: Final = 0x800
_Q_OVERFLOW: Final = 0x4000
_IGNORED: Final = 0x8000
_ONLYDIR: Final = 0x1000000
_MASK: Final = _CLOSE_WRITE | _MOVED_FROM | _MOVED_TO | _CREATE | _DELETE | _DELETE_SELF | _MOVE_SELF | _ONLYDIR
_HEADER: Final = struct.Struct("iIII")
_BUFFER_BYTES: Final = 64 * 1024


@functools.cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


@attrs.frozen
class FolderChange:
    """An entry of a watched folder changed.

    Attributes:
        folder: the folder as it was given to `watch`; None if anything may have changed (events were lost, a folder went away).
        name: the entry's name.
    """

    folder: str | None
    name: str


class FolderWatcher:
    """Watches folders, not their sub-folders. Not thread-safe; never blocks.

    Raises:
        OSError: no inotify instance can be had (`fs.inotify.max_user_instances`).
    """

    def __init__(self) -> None:
        self._descriptor: int = _checked(_libc().inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC))
        self._folders: dict[int, str] = {}
        self._watches: dict[str, int] = {}

    def fileno(self) -> int:
        """Readable when `changes` has something to tell."""
        return self._descriptor

    @property
    def folders(self) -> frozenset[str]:
        """Folders watched now; one that was removed or renamed is no longer among them."""
        return frozenset(self._watches)

    def watch(self, folder: str) -> None:
        """Watch the folder that has this path now; one that is watched already stays so, a replaced one is watched anew.

        Raises:
            OSError: it does not exist, is not a folder, or the limit `fs.inotify.max_user_watches` is reached.
        """
        watch = _checked(_libc().inotify_add_watch(self._descriptor, os.fsencode(folder), _MASK), folder)
        if self._watches.get(folder) == watch:
            return
        self.unwatch(folder)
        if (other := self._folders.get(watch)) is not None:  # the same folder under another name
            self._watches.pop(other, None)
        self._folders[watch] = folder
        self._watches[folder] = watch

    def unwatch(self, folder: str) -> None:
        """Stop watching a folder; one that is not watched is no error."""
        watch = self._watches.pop(folder, None)
        if watch is not None and self._folders.pop(watch, None) is not None:
            _libc().inotify_rm_watch(self._descriptor, watch)  # fails only if the kernel was first

    def changes(self) -> list[FolderChange]:
        """Everything that happened since the last call; empty if nothing did."""
        found: list[FolderChange] = []
        while True:
            try:
                data = os.read(self._descriptor, _BUFFER_BYTES)
            except BlockingIOError:
                return found
            at = 0
            while at < len(data):
                watch, mask, _, length = _HEADER.unpack_from(data, at)
                at += _HEADER.size
                name = data[at : at + length].rstrip(b"\0")
                at += length
                if (change := self._change(watch, mask, os.fsdecode(name))) is not None:
                    found.append(change)

    def _change(self, watch: int, mask: int, name: str) -> FolderChange | None:
        if mask & _Q_OVERFLOW:
            return FolderChange(None, "")
        folder = self._folders.get(watch)
        if folder is None:  # late news of a folder we stopped watching
            return None
        if mask & _MOVE_SELF:
            self.unwatch(folder)  # it is elsewhere now: what we were asked for is the path
        elif mask & (_DELETE_SELF | _IGNORED):
            del self._folders[watch], self._watches[folder]
        else:
            return FolderChange(folder, name)
        return FolderChange(None, "")

    def close(self) -> None:
        """Release the descriptor; idempotent."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
            self._folders.clear()
            self._watches.clear()


def _checked(result: int, path: str | None = None) -> int:
    if result >= 0:
        return result
    code = ctypes.get_errno() or errno.EIO
    raise OSError(code, os.strerror(code), path)
