"""What the reconciler keeps between two runs: its epoch, the last good Meshlets, and a lock so that it runs once.

Losing this folder loses nothing that matters: the epoch also beats what is on the bus and never falls behind the wall clock.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from meshless_core.errors import ConfigError, Problem

__all__ = ["StateFolder", "replace_file"]

_EPOCH: Final = "epoch.json"
_GOOD: Final = "last-good.json"
_LOCK: Final = "lock"

_log = logging.getLogger(__name__)


def replace_file(path: str, content: bytes) -> None:
    """Replace a file atomically: a reader sees the old content or the new.

    Raises:
        OSError: not written; the old content stays.
    """
    os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
    temporary = f"{path}.{os.getpid()}.tmp"
    try:
        with open(temporary, "wb") as file:
            file.write(content)
        os.rename(temporary, path)
    except OSError:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise


class StateFolder:
    """The reconciler's own folder.

    Args:
        path: the folder; made if it is missing.
        clock: seconds since the Unix epoch.
    """

    def __init__(self, path: str | os.PathLike[str], clock: Callable[[], float]) -> None:
        self.path = os.path.abspath(os.fspath(path))
        self._clock = clock
        self._lock: int | None = None
        self._saved: bytes | None = None

    def lock(self) -> None:
        """Make sure that no other reconciler of this machine uses the folder; the kernel lets go when the process ends.

        Raises:
            ConfigError: another one does, or the folder cannot be used.
        """
        lock = os.path.join(self.path, _LOCK)
        try:
            os.makedirs(self.path, exist_ok=True)
            descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise ConfigError([Problem("", f"state folder {self.path} cannot be used: {error.strerror}")]) from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            owner = os.pread(descriptor, 32, 0).decode("ascii", "replace").strip() or "unknown"
            os.close(descriptor)
            message = (
                f"state folder {self.path} is in use by another reconciler (process {owner}): stop it, or use another folder"
            )
            raise ConfigError([Problem("", message)]) from error
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        self._lock = descriptor

    def unlock(self) -> None:
        """Let go of the folder; idempotent."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def next_epoch(self, highest: int) -> int:
        """An epoch higher than every one before, and than `highest`; on disk before it is returned.

        The wall clock (seconds since the Unix epoch) is its floor: if this folder and the bus are lost both, agents that
        remember an earlier epoch still accept the new one.

        Raises:
            ConfigError: it cannot be written.
        """
        epoch = max(self._read_epoch(), highest, int(self._clock()) - 1) + 1
        try:
            replace_file(os.path.join(self.path, _EPOCH), json.dumps({"epoch": epoch}).encode())
        except OSError as error:
            message = f"the epoch cannot be written to {self.path}: {error.strerror}; check the folder's owner and free space"
            raise ConfigError([Problem("", message)]) from error
        return epoch

    def _read_epoch(self) -> int:
        data = self._read(_EPOCH)
        epoch = data.get("epoch") if isinstance(data, dict) else None
        return epoch if type(epoch) is int and 0 <= epoch < 2**53 else 0

    def load_good(self) -> Sequence[Any]:
        """The Meshlets of `save_good`, empty without any."""
        data = self._read(_GOOD)
        return data if isinstance(data, list) else []

    def save_good(self, objects: Sequence[Mapping[str, Any]]) -> None:
        """Keep the last good Meshlets; written only if they changed. A failure is logged: it costs comfort, not state."""
        content = json.dumps(objects, sort_keys=True).encode()
        if content == self._saved:
            return
        try:
            replace_file(os.path.join(self.path, _GOOD), content)
        except OSError as error:
            _log.error("reconciler: last good Meshlets not saved: %s", error)
            return
        self._saved = content

    def _read(self, name: str) -> Any:
        path = os.path.join(self.path, name)
        try:
            with open(path, "rb") as file:
                return json.load(file)
        except FileNotFoundError:
            return None
        except (OSError, ValueError, RecursionError) as error:
            _log.warning("reconciler: %s is not readable and left aside: %s", path, error)
            return None
