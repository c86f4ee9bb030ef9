"""Files that hold keys and certificates: private, whole, replaced in one step.

Why: a key that others can read, or half a certificate after a crash, must not be able to come about. This module knows
nothing about certificates. It must never put the content of a file into a message.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import stat

from meshless_core.errors import IdentityError

__all__ = ["make_private_directory", "read_private", "read_public", "write_atomically", "write_private"]

_MAX_FILE_BYTES = 256 * 1024


def make_private_directory(path: str) -> None:
    """Create `path` (and its parents) with mode 0700; tighten it if it exists with a looser mode.

    Raises:
        IdentityError: not a directory, not ours, or not creatable.
    """
    try:
        os.makedirs(path, mode=0o700, exist_ok=True)
        found = os.stat(path)
        if stat.S_IMODE(found.st_mode) & 0o077:
            os.chmod(path, 0o700)
    except OSError as error:
        raise IdentityError(
            f"cannot make the private directory {path}: {error.strerror}; check its owner and parents"
        ) from error


def write_private(path: str, data: bytes, *, durable: bool = False) -> None:
    """Write a secret atomically with mode 0600. See `write_atomically`."""
    write_atomically(path, data, mode=0o600, durable=durable)


def write_atomically(path: str, data: bytes, *, mode: int = 0o644, durable: bool = False) -> None:
    """Replace `path` in one step: readers see the old content or the new one, never a part.

    Args:
        path: file to replace.
        data: the whole new content, bytes.
        mode: permission bits; they hold from the first instant, whatever the umask.
        durable: also wait until it is on the disk (for what cannot be made again).

    Raises:
        IdentityError: the file cannot be written.
    """
    directory, name = os.path.split(path)
    temporary = os.path.join(directory, f".{name}.{secrets.token_hex(6)}")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            with open(descriptor, "wb") as file:
                file.write(data)
                file.flush()
                os.fchmod(descriptor, mode)
                if durable:
                    os.fsync(descriptor)
            os.replace(temporary, path)
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary)
            raise
        if durable:
            _sync_directory(directory)
    except OSError as error:
        raise IdentityError(f"cannot write {path}: {error.strerror}; check the owner and free space of {directory}") from error


def read_private(path: str) -> bytes:
    """Read a secret; refuse one that anybody but its owner could have read or replaced.

    Raises:
        IdentityError: missing, not a plain file, too large, readable by group or others, or owned by another user.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        with open(descriptor, "rb") as file:
            found = os.fstat(descriptor)
            if not stat.S_ISREG(found.st_mode):
                raise IdentityError(f"{path} is not a plain file, so it cannot be a private key; put the key itself there")
            if stat.S_IMODE(found.st_mode) & 0o077:
                mode = stat.S_IMODE(found.st_mode)
                raise IdentityError(
                    f"{path} has mode {mode:04o}, others may have read the key; replace the key, or run chmod 600 on it"
                )
            if found.st_uid not in (os.geteuid(), 0):
                raise IdentityError(
                    f"{path} belongs to uid {found.st_uid}, not to us (uid {os.geteuid()}); chown it or replace it"
                )
            return _read_bounded(file.read(_MAX_FILE_BYTES + 1), path)
    except OSError as error:
        raise IdentityError(f"cannot read {path}: {error.strerror}") from error


def read_public(path: str) -> bytes:
    """Read a file that holds no secret.

    Raises:
        IdentityError: missing, unreadable, or larger than 256 KiB.
    """
    try:
        with open(path, "rb") as file:
            return _read_bounded(file.read(_MAX_FILE_BYTES + 1), path)
    except OSError as error:
        raise IdentityError(f"cannot read {path}: {error.strerror}") from error


def _read_bounded(data: bytes, path: str) -> bytes:
    if len(data) > _MAX_FILE_BYTES:
        raise IdentityError(f"{path} is larger than {_MAX_FILE_BYTES} bytes, so it is no key or certificate of ours")
    return data


def _sync_directory(path: str) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
