"""What of the agent's settings and of its state folder is one worker's."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path
from typing import Final

import attrs

from meshless_core.config import AgentSettings

__all__ = ["pods_socket", "tidy_state", "worker_directory", "worker_settings"]

logger = logging.getLogger(__name__)

_PREFIX: Final = "worker-"
_SINGLE: Final = ("leaves", "documents")


def worker_directory(state_dir: str | Path, index: int) -> Path:
    """Where a worker keeps its leaves, its documents and its sockets."""
    return Path(state_dir) / f"{_PREFIX}{index}"


def pods_socket(state_dir: str | Path, index: int) -> Path:
    """Where the supervisor hands a worker its pods: what socketd's control socket is to an agent of one process."""
    return worker_directory(state_dir, index) / "socketd.sock"


def worker_settings(settings: AgentSettings, index: int) -> AgentSettings:
    """The settings of one worker: bounds of the whole agent are divided, rounded up; the state folder and admin are its own."""

    def share(bound: int) -> int:
        return -(-bound // settings.workers)

    return attrs.evolve(
        settings,
        max_connections=share(settings.max_connections),
        max_handshakes_per_pod=share(settings.max_handshakes_per_pod),
        max_tunnels_unauthenticated=share(settings.max_tunnels_unauthenticated),
        max_tunnels_idle=share(settings.max_tunnels_idle),
        state_dir=str(worker_directory(settings.state_dir, index)),
        admin=None,
    )


def tidy_state(state_dir: str | Path, workers: int) -> None:
    """Delete what another number of workers left, so that no private key lies about that nobody renews or removes.

    Args:
        state_dir: the agent's state folder; may be missing.
        workers: how many there are now; 1 means that the agent itself uses the folder.
    """
    folder = Path(state_dir)
    if not folder.is_dir():
        return
    keep = {f"{_PREFIX}{index}" for index in range(workers)} if workers > 1 else set(_SINGLE)
    for entry in folder.iterdir():
        ours = entry.name in _SINGLE or (entry.name.startswith(_PREFIX) and entry.name.removeprefix(_PREFIX).isdigit())
        if not ours or entry.name in keep or entry.is_symlink() or not entry.is_dir():
            continue
        logger.info("removing %s: it belongs to another number of workers", entry)
        try:
            shutil.rmtree(entry)
        except OSError as error:
            logger.error("state of another number of workers stays in %s: %s; remove it by hand", entry, error.strerror)
