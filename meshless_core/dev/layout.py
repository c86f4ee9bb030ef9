"""Where everything of a dev mesh lies in its run directory. The CLI's `check`, `explain` and `connections` read it too.

<run-dir>/
meshless-dev.json             marker with the supervisor's process id; only a folder with it is ever cleaned
meshless.yaml                 the configuration in force, as the agents read it
ca/  bus/  status.json        certificate authority, documents, the reconciler's conditions
pods/<namespace>/<pod>/       what the pod sees as /meshlet: client/meshless, server/<service>
nodes/<node>/                 agent.pid, admin.sock, socketd.sock, issuer.sock, access.log, state/
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import attrs

from meshless_core.errors import ConfigError, Problem

__all__ = ["NodeLayout", "RunLayout"]

_MARKER = "meshless-dev.json"


@attrs.frozen
class NodeLayout:
    """Paths of one node."""

    directory: Path

    @property
    def name(self) -> str:
        """The node's name."""
        return self.directory.name

    @property
    def agent_pid(self) -> Path:
        """Process id of the agent."""
        return self.directory / "agent.pid"

    @property
    def admin(self) -> Path:
        """The agent's admin socket."""
        return self.directory / "admin.sock"

    @property
    def socketd(self) -> Path:
        """Socketd's control socket for this node's agent."""
        return self.directory / "socketd.sock"

    @property
    def issuer(self) -> Path:
        """The issuer's socket for this node."""
        return self.directory / "issuer.sock"

    @property
    def access_log(self) -> Path:
        """One line per connection."""
        return self.directory / "access.log"

    @property
    def state(self) -> Path:
        """The agent's state_dir."""
        return self.directory / "state"


class RunLayout:
    """The run directory of one dev mesh.

    Args:
        directory: the folder; absolute or relative to the working directory.
    """

    def __init__(self, directory: str | os.PathLike[str]) -> None:
        self.directory = Path(directory).absolute()
        self._lock: IO[str] | None = None
        self._made = False

    @property
    def config(self) -> Path:
        """The configuration in force."""
        return self.directory / "meshless.yaml"

    @property
    def authority(self) -> Path:
        """The certificate authority's folder."""
        return self.directory / "ca"

    @property
    def bus(self) -> Path:
        """The documents."""
        return self.directory / "bus"

    @property
    def reconciler_state(self) -> Path:
        """What the reconciler keeps."""
        return self.directory / "reconciler"

    @property
    def status(self) -> Path:
        """The reconciler's conditions."""
        return self.directory / "status.json"

    @property
    def pods(self) -> Path:
        """The pods' folders."""
        return self.directory / "pods"

    def node(self, name: str) -> NodeLayout:
        """Paths of a node."""
        return NodeLayout(self.directory / "nodes" / name)

    def nodes(self) -> Iterator[NodeLayout]:
        """The nodes there are on disk."""
        folder = self.directory / "nodes"
        if folder.is_dir():
            for entry in sorted(folder.iterdir()):
                yield NodeLayout(entry)

    def acquire(self) -> None:
        """Make the folder ours, and empty but for the marker.

        Raises:
            ConfigError: it is in use by another mesh, or holds something that is not ours.
        """
        directory = self.directory
        try:
            self._made = not directory.exists()
            # Ours alone: who reaches a pod's socket is that pod, and other users of the machine are none of them.
            directory.mkdir(parents=True, exist_ok=True, mode=0o700)
            marker = directory / _MARKER
            if not marker.exists() and any(directory.iterdir()):
                raise self._problem("is not empty and no run directory of a dev mesh: choose another --run-dir")
            lock = open(marker, "a+", encoding="utf-8")  # noqa: SIM115 - the lock lasts as long as the mesh
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                # A mesh that just ended may have removed the file we locked: then the folder is not ours.
                if os.fstat(lock.fileno()).st_nlink == 0:
                    raise BlockingIOError
            except BaseException:
                lock.close()
                raise
            self._lock = lock
        except BlockingIOError:
            raise self._problem("is in use by another mesh: stop that one or choose another --run-dir") from None
        except OSError as error:
            raise self._problem(f"cannot be used: {error.strerror}") from error
        self._clear()
        self._lock.seek(0)
        self._lock.truncate()
        json.dump({"pid": os.getpid()}, self._lock)
        self._lock.flush()

    def release(self) -> None:
        """Leave nothing behind: empty the folder, and remove it if we made it. Does nothing if it was never acquired."""
        if self._lock is None:
            return
        self._clear()
        (self.directory / _MARKER).unlink(missing_ok=True)
        self._lock.close()
        self._lock = None
        if self._made:
            self.directory.rmdir()

    def _clear(self) -> None:
        for entry in self.directory.iterdir():
            if entry.name == _MARKER:
                continue
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry)
            else:
                entry.unlink()

    def _problem(self, message: str) -> ConfigError:
        return ConfigError([Problem("", f"run directory {self.directory} {message}")])
