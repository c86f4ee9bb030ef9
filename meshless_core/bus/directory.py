"""The bus of one machine: documents are files in a folder, replaced atomically and watched. No broker.

Works between processes: a writer renames complete files into place, readers watch the folders of exactly the topics they want.
Level-based: a change notice only says where to look, and a slow rescan finds what no notice told (a network file system, a
lost event). This module must not look into documents.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
from collections.abc import AsyncGenerator
from typing import Final

from meshless_core.bus.inotify import FolderWatcher
from meshless_core.bus.pending import Pending
from meshless_core.bus.topic_files import SUFFIX, Signature, TopicFiles
from meshless_core.errors import BusError
from meshless_core.hookspecs import BusUpdate

__all__ = ["DirectoryBus"]

_POLL_WITHOUT_NOTICES: Final = 0.2  # seconds between two looks if the kernel gives us no inotify
_NO_NOTICES: Final = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOSPC, errno.ENOSYS)
_log = logging.getLogger(__name__)


class DirectoryBus:
    """Documents as files below `path`.

    Args:
        path: the folder. Made by the first `publish`; readers wait until it is there.
        fsync: force each document to the disk before it replaces the old one.
        rescan: seconds between two looks at all files that need no change notice.
    """

    def __init__(self, path: str, *, fsync: bool = False, rescan: float = 5.0) -> None:
        self._files = TopicFiles(path, fsync=fsync)
        self._fsync = fsync
        self._rescan = rescan

    @property
    def path(self) -> str:
        """The folder, absolute."""
        return self._files.root

    async def publish(self, topic: str, payload: bytes | None) -> None:
        """Replace a topic's file; None removes it. See `Bus.publish`.

        Raises:
            BusError: not written; the old content stays.
            InvalidNameError: not a topic.
        """
        if payload is None:
            self._files.delete(topic)
        elif self._fsync:
            await asyncio.to_thread(self._files.write, topic, payload)  # a disk's flush takes milliseconds
        else:
            self._files.write(topic, payload)

    async def subscribe(self, topics: frozenset[str]) -> AsyncGenerator[BusUpdate, None]:
        """Yield present contents, then changes. See `Bus.subscribe`.

        Raises:
            BusError: the folder is there but cannot be watched or read.
            InvalidNameError: not a topic.
        """
        reader = _Reader(self._files, topics)
        interval = reader.start(self._rescan)
        try:
            while True:
                try:
                    async with asyncio.timeout(interval):
                        topic = await reader.pending.next()
                except TimeoutError:
                    reader.scan()
                    continue
                if reader.failure is not None:
                    raise reader.failure
                update = reader.read(topic)
                if update is not None:
                    yield update
        finally:
            reader.close()

    async def topics(self) -> frozenset[str]:
        """All topics that have a file.

        Raises:
            BusError: a folder cannot be read.
        """
        return frozenset(self._files.topics())


class _Reader:
    """One subscription: which files to look at again, and what was last told of each."""

    def __init__(self, files: TopicFiles, topics: frozenset[str]) -> None:
        self.pending = Pending()
        self.failure: BusError | None = None
        self._files = files
        self._topics = topics
        self._folders = frozenset(os.path.dirname(files.path(topic)) for topic in topics)
        self._told: dict[str, Signature] = {}
        self._warned: dict[str, str] = {}
        self._watcher: FolderWatcher | None = None

    def start(self, rescan: float) -> float:
        """Watch and look once; returns the seconds between two scans."""
        try:
            self._watcher = FolderWatcher()
            asyncio.get_running_loop().add_reader(self._watcher.fileno(), self._on_notice)
            self._arm()
        except OSError as error:
            self.close()
            if error.errno not in _NO_NOTICES:
                raise BusError(
                    f"bus directory: cannot watch {error.filename or self._files.root}: {error.strerror}; check owner and mode"
                ) from error
            _log.warning(
                "bus directory %s: no change notices (%s), looking every %s s instead; raise fs.inotify.max_user_instances or "
                "max_user_watches",
                self._files.root,
                error.strerror,
                _POLL_WITHOUT_NOTICES,
            )
            rescan = min(rescan, _POLL_WITHOUT_NOTICES)
        # Look after arming: what changes from here on gives a notice.
        for topic in sorted(self._topics):
            self.pending.add(topic)
        return rescan

    def close(self) -> None:
        if self._watcher is not None:
            asyncio.get_running_loop().remove_reader(self._watcher.fileno())
            self._watcher.close()
            self._watcher = None

    def scan(self) -> None:
        """Look at every topic, whatever was or was not noticed."""
        if self._watcher is not None:
            try:
                self._arm()
            except OSError as error:
                self._fail(f"cannot watch {error.filename or self._files.root}: {error.strerror}")
        for topic in self._topics:
            if self._files.signature(topic) != self._told.get(topic):
                self.pending.add(topic)

    def read(self, topic: str) -> BusUpdate | None:
        """What to tell of a topic now, None if it is as it was told."""
        try:
            found = self._files.read(topic)
        except BusError as error:
            # One unreadable file must not hold up the others; what was told of it stays in force.
            if self._warned.get(topic) != str(error):
                self._warned[topic] = str(error)
                _log.warning("bus directory: %s", error)
            return None
        if found is None:
            return BusUpdate(topic, None) if self._told.pop(topic, None) is not None else None
        signature, content = found
        if self._told.get(topic) == signature:
            return None
        self._told[topic] = signature
        return BusUpdate(topic, content)

    def _arm(self) -> None:
        """Watch the folder of each topic, or its nearest ancestor that exists; nothing else."""
        assert self._watcher is not None
        watched: set[str] = set()
        for folder in self._folders:
            self._watch(self._watcher, folder, watched)
        for folder in self._watcher.folders - watched:
            self._watcher.unwatch(folder)

    def _watch(self, watcher: FolderWatcher, folder: str, watched: set[str]) -> None:
        if folder in watched:
            return
        for ancestor_is_watched in (False, True):
            try:
                watcher.watch(folder)
            except (FileNotFoundError, NotADirectoryError):
                if not ancestor_is_watched:
                    # Then once more: it may have been made before its ancestor was watched.
                    self._watch(watcher, os.path.dirname(folder), watched)
            else:
                watched.add(folder)
                return

    def _on_notice(self) -> None:
        assert self._watcher is not None
        everything = False
        for change in self._watcher.changes():
            if change.folder is not None and change.name.endswith(SUFFIX):
                topic = self._files.topic(os.path.join(change.folder, change.name))
                if topic in self._topics:
                    self.pending.add(topic)
            elif not change.name.startswith("."):  # a folder came or went, or notices were lost
                everything = True
        if everything:
            self.scan()

    def _fail(self, message: str) -> None:
        self.failure = BusError(f"bus directory: {message}; check the folder's owner and mode")
        with contextlib.suppress(StopIteration):
            self.pending.add(next(iter(self._topics)))
