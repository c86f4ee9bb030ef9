"""Payloads by topic as files: `<root>/<segment>/.../<segment>.json`, each replaced atomically.

Used by the directory bus and by the agents' last known good state. The folder is not trusted more than any bus: what is read is
bounded, is a regular file, and never reached through a link in the last step. Topic segments are DNS labels, so no topic can
leave the folder and no file can clash with a folder. Small local files: the calls block for microseconds, on purpose.
"""

from __future__ import annotations

import contextlib
import logging
import os
import stat
from collections.abc import Iterator
from typing import Final

from meshless_core.documents_codec import MAX_DOCUMENT_BYTES, check_topic
from meshless_core.errors import BusError, InvalidNameError

__all__ = ["SUFFIX", "Signature", "TopicFiles"]

SUFFIX: Final = ".json"
_MKDIR_ATTEMPTS: Final = 32

Signature = tuple[int, int, int, int]
"""Identity of a file's content as the file system tells it: device, inode, size, change time in nanoseconds."""

_log = logging.getLogger(__name__)


class TopicFiles:
    """Reads and replaces the files of topics below one folder.

    Args:
        root: the folder; made by the first `write`.
        fsync: force each file to the disk before it replaces the old one. Off by default: a document that a power cut tears
            fails its digest, and the reconciler writes it again.
    """

    def __init__(self, root: str, *, fsync: bool = False) -> None:
        self.root = os.path.abspath(root)
        self._fsync = fsync
        self._written = 0

    def path(self, topic: str) -> str:
        """File of a topic.

        Raises:
            InvalidNameError: not a topic.
        """
        return os.path.join(self.root, *check_topic(topic).split("/")) + SUFFIX

    def topic(self, path: str) -> str | None:
        """Topic of a file below the root, None if the name is not one of ours (a temporary file, a stranger's)."""
        relative = os.path.relpath(path, self.root)
        if not relative.endswith(SUFFIX):
            return None
        try:
            return check_topic(relative.removesuffix(SUFFIX))
        except InvalidNameError:
            return None

    def write(self, topic: str, payload: bytes) -> None:
        """Replace a topic's file: a reader sees the old content or the new, never a part.

        Raises:
            BusError: not written; the old content stays.
        """
        target = self.path(topic)
        folder = os.path.dirname(target)
        self._written += 1
        # Not ending in the suffix: readers and `topics` never see it. Process and number keep writers apart.
        temporary = os.path.join(folder, f".{os.path.basename(target)}.{os.getpid()}.{self._written}.tmp")
        try:
            descriptor = self._create(temporary)
            try:
                with open(descriptor, "wb", closefd=True) as file:
                    file.write(payload)
                    if self._fsync:
                        file.flush()
                        os.fsync(file.fileno())
                os.rename(temporary, target)
            except BaseException:
                with contextlib.suppress(OSError):
                    os.unlink(temporary)
                raise
            if self._fsync:
                _fsync_folder(folder)
        except OSError as error:
            raise BusError(f"cannot write {target}: {error.strerror}; check the folder's owner and free space") from error

    def _create(self, temporary: str) -> int:
        # A delete of the folder's last topic may remove the folder between our two calls: then make it again.
        for attempt in range(_MKDIR_ATTEMPTS):
            try:
                os.makedirs(os.path.dirname(temporary), mode=0o755, exist_ok=True)
                return os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
            except (FileNotFoundError, FileExistsError):  # the second: makedirs saw it exist, and then it was gone
                if attempt == _MKDIR_ATTEMPTS - 1:
                    raise
        raise AssertionError("unreachable: the last attempt raises")

    def delete(self, topic: str) -> None:
        """Remove a topic's file and the folders that became empty; a topic without a file is no error.

        Raises:
            BusError: not removed.
        """
        target = self.path(topic)
        try:
            os.unlink(target)
        except (FileNotFoundError, NotADirectoryError):
            return
        except OSError as error:
            raise BusError(f"cannot delete {target}: {error.strerror}; check the folder's owner") from error
        folder = os.path.dirname(target)
        while folder != self.root:
            try:
                os.rmdir(folder)
            except OSError:  # not empty, or another process was first: both are fine
                return
            folder = os.path.dirname(folder)

    def read(self, topic: str) -> tuple[Signature, bytes] | None:
        """Content of a topic's file with its signature, None without one.

        At most `MAX_DOCUMENT_BYTES` + 1 bytes are read, so that a file that is too large is refused by the codec.

        Raises:
            BusError: there is a file, but it cannot be read.
        """
        path = self.path(topic)
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise BusError(f"cannot read {path}: {error.strerror}; it has to be a file this process may read") from error
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise BusError(f"cannot read {path}: it is not a regular file; remove it")
            content = b""
            while len(content) <= MAX_DOCUMENT_BYTES and (more := os.read(descriptor, MAX_DOCUMENT_BYTES + 1 - len(content))):
                content += more
        except OSError as error:
            raise BusError(f"cannot read {path}: {error.strerror}") from error
        finally:
            os.close(descriptor)
        return _signature(status), content

    def signature(self, topic: str) -> Signature | None:
        """Signature of a topic's file without reading it, None without a file."""
        try:
            return _signature(os.lstat(self.path(topic)))
        except OSError:
            return None

    def topics(self) -> Iterator[str]:
        """Every topic that has a file.

        Raises:
            BusError: a folder cannot be read.
        """
        for folder, _, names in os.walk(self.root, onerror=_unreadable):
            for name in names:
                topic = self.topic(os.path.join(folder, name))
                if topic is not None:
                    yield topic


def _signature(status: os.stat_result) -> Signature:
    return status.st_dev, status.st_ino, status.st_size, status.st_ctime_ns


def _unreadable(error: OSError) -> None:
    if isinstance(error, FileNotFoundError):  # not made yet, or removed while we walked
        return
    raise BusError(f"cannot read {error.filename}: {error.strerror}; check the folder's owner") from error


def _fsync_folder(folder: str) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
