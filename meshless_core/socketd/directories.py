"""One folder and one listener per pod, in the form that needs no root.

    <root>/<namespace>/<pod>/client/meshless      bound and listening before the pod starts
    <root>/<namespace>/<pod>/server/              the application's sockets
    <root>/<namespace>/.<pod>.uid                 whose folder this is, out of the pod's reach

A socketd that died or was replaced finds the folders of the pods that are still there and takes them over: the applications'
sockets stay, and the client socket is replaced atomically.

All binds go through `/proc/self/fd/<folder>/...`, so paths longer than the 107 bytes of `sun_path` work. Nothing here follows
a symlink that a pod could have made.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import os
import shutil
import socket
import stat
from collections.abc import Collection
from pathlib import Path
from typing import Final

import attrs

from meshless_core.documents import PodPlacement
from meshless_core.errors import SocketDirectoryError
from meshless_core.types import PodRef

__all__ = ["CLIENT_SOCKET_NAME", "LISTEN_BACKLOG", "ParkedPod", "PodDirectories"]

logger = logging.getLogger(__name__)

CLIENT_SOCKET_NAME: Final = "meshless"
_NEW_SOCKET_NAME: Final = ".meshless.new"
_OWNER_SUFFIX: Final = ".uid"
LISTEN_BACKLOG: Final = 4096  # the kernel cuts it to net.core.somaxconn; connects wait here while an agent restarts
_O_FOLDER: Final = os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


@attrs.define
class ParkedPod:
    """A pod whose listener socketd holds."""

    placement: PodPlacement
    listener: socket.socket
    server_folder: int  # descriptor, O_PATH

    def close(self) -> None:
        """Close both descriptors."""
        self.listener.close()
        os.close(self.server_folder)


class PodDirectories:
    """Creates, keeps and removes the pods' folders and listeners under one root folder."""

    def __init__(self, root: Path, *, socket_mode: int = 0o666) -> None:
        self._root = root
        self._socket_mode = socket_mode
        self._claim: int | None = None

    @property
    def root(self) -> Path:
        """The folder that holds `<namespace>/<pod>/`."""
        return self._root

    def claim(self) -> None:
        """Make sure that no other socketd uses the root folder; the kernel lets go when the process ends.

        Two of them would take each other's pods over: connects would wait at a listener that no agent has.

        Raises:
            SocketDirectoryError: another one does, or the folder cannot be used.
        """
        try:
            self._root.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self._root, os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise SocketDirectoryError(f"the pods' folder {self._root} cannot be used: {error.strerror}") from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(descriptor)
            raise SocketDirectoryError(
                f"the pods' folder {self._root} is in use by another socketd: stop it, or use another folder"
            ) from error
        self._claim = descriptor

    def let_go(self) -> None:
        """Let another socketd have the root folder. Idempotent."""
        if self._claim is not None:
            os.close(self._claim)
            self._claim = None

    def path(self, pod: PodRef) -> Path:
        """The pod's folder: what the pod sees as `/meshlet`."""
        return self._root / pod.namespace / pod.name

    def create(self, placement: PodPlacement) -> ParkedPod:
        """Make the pod's folders and its listener.

        Folders of the same pod, of an earlier socketd, are taken over with the applications' sockets in them; whatever a
        previous pod of the same name left is removed.

        Raises:
            SocketDirectoryError: the folder or socket cannot be made; names the path and the reason.
        """
        folder = self.path(placement.pod)
        try:
            if not self._is_of(placement):
                self._make(placement)
            listener = self._listen(folder / "client")
            try:
                server_folder = os.open(folder / "server", _O_FOLDER | os.O_PATH)
            except OSError:
                listener.close()
                raise
        except OSError as error:
            raise SocketDirectoryError(
                f"cannot make the socket folder {folder} of pod {placement.pod}: {error.strerror}; "
                "check that socketd's run folder is writable and not full"
            ) from error
        return ParkedPod(placement, listener, server_folder)

    def remove(self, parked: ParkedPod) -> None:
        """Close the listener and delete the pod's folder. A folder that is gone already is fine."""
        parked.close()
        self._remove_pod(parked.placement.pod)

    def sweep(self, pods: Collection[PodRef]) -> None:
        """Delete the folders of all other pods: what an earlier socketd left of pods that ended meanwhile.

        Only for who owns everything under the root.

        Args:
            pods: those that are there.
        """
        for owner in self._root.glob(f"*/.*{_OWNER_SUFFIX}"):
            pod = PodRef(owner.parent.name, owner.name.removeprefix(".").removesuffix(_OWNER_SUFFIX))
            if pod not in pods:
                self._remove_pod(pod)

    def _owner(self, pod: PodRef) -> Path:
        return self._root / pod.namespace / f".{pod.name}{_OWNER_SUFFIX}"

    def _is_of(self, placement: PodPlacement) -> bool:
        folder = self.path(placement.pod)
        try:
            owner = self._owner(placement.pod).read_text(encoding="utf-8")
        except (OSError, ValueError):
            return False
        folders = (folder, folder / "client", folder / "server")
        return owner == placement.uid and all(path.is_dir() and not path.is_symlink() for path in folders)

    def _make(self, placement: PodPlacement) -> None:
        folder = self.path(placement.pod)
        folder.parent.mkdir(parents=True, exist_ok=True)
        if folder.is_symlink() or folder.exists():
            _remove(folder)
        folder.mkdir(mode=0o755)
        (folder / "client").mkdir(mode=0o755)
        (folder / "server").mkdir(mode=0o755)
        self._owner(placement.pod).write_text(placement.uid, encoding="utf-8")  # last: half-made folders are nobody's

    def _remove_pod(self, pod: PodRef) -> None:
        folder = self.path(pod)
        try:
            self._owner(pod).unlink(missing_ok=True)
            _remove(folder)
            folder.parent.rmdir()
        except FileNotFoundError:
            pass
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                logger.warning("cannot remove the socket folder %s: %s", folder, error.strerror)

    def _listen(self, folder: Path) -> socket.socket:
        descriptor = os.open(folder, _O_FOLDER)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        try:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(_NEW_SOCKET_NAME, dir_fd=descriptor)
            listener.bind(f"/proc/self/fd/{descriptor}/{_NEW_SOCKET_NAME}")
            _set_mode(_NEW_SOCKET_NAME, descriptor, self._socket_mode)
            listener.listen(LISTEN_BACKLOG)
            # in place of an earlier socketd's without a gap; and under its name only when it can be connected to
            os.rename(_NEW_SOCKET_NAME, CLIENT_SOCKET_NAME, src_dir_fd=descriptor, dst_dir_fd=descriptor)
        except OSError:
            listener.close()
            raise
        finally:
            os.close(descriptor)
        return listener


def _set_mode(name: str, folder: int, mode: int) -> None:
    """Change the mode of a socket. Not by its name: the pod of a folder that is taken over may have put a symlink there."""
    descriptor = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
    try:
        if not stat.S_ISSOCK(os.fstat(descriptor).st_mode):
            raise OSError(errno.ENOTSOCK, "another file took the place of the new socket")
        os.chmod(f"/proc/self/fd/{descriptor}", mode)
    finally:
        os.close(descriptor)


def _remove(folder: Path) -> None:
    """Delete a folder tree without following symlinks (`shutil.rmtree` is symlink-safe on Linux)."""
    if folder.is_symlink():
        folder.unlink()
    else:
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(folder)
