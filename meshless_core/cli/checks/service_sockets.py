"""Judges the sockets that the pods of a dev mesh should listen on, without touching them.

The agent's own check, at each connection, is `meshless_core.agent.service_socket`; this one looks before anybody connects.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from meshless_core.cli.checks.finding import Finding
from meshless_core.cli.checks.listening import listening_inodes

__all__ = ["check_sockets"]

_KINDS: Final = {
    stat.S_IFLNK: "a symlink, which is never followed",
    stat.S_IFIFO: "a FIFO",
    stat.S_IFDIR: "a directory",
    stat.S_IFREG: "a regular file",
}


def check_sockets(status: Mapping[str, Any], pods: Path) -> Iterator[Finding]:
    """One finding per service of each pod of an agent.

    Args:
        status: the agent's answer to `/status`.
        pods: the folder with `<namespace>/<pod>/server/`.
    """
    wanted = [(pod["namespace"], pod["name"], service) for pod in status["pods"] for service in pod["services"]]
    if not wanted:
        return
    try:
        listening = listening_inodes()
    except OSError as error:
        listening = None
        message = f"cannot tell whether anybody listens: {error.strerror or error}"
        yield Finding.warning("sockets", status["node"], message, "run the check where the pods run")
    for namespace, name, service in wanted:
        subject = f"{namespace}/{name} {service}"
        path = pods / namespace / name / "server" / service
        yield _check(subject, path, f"{namespace}/{name}", listening)


def _check(subject: str, path: Path, pod: str, listening: frozenset[int] | None) -> Finding:
    start = f"start the server of pod {pod}, or provide it with 'meshless listen --pod-dir {path.parent.parent} {path.name}'"
    try:
        found = os.lstat(path)
    except OSError as error:
        if error.errno != errno.ENOENT:
            message = f"{path} cannot be looked at: {error.strerror}"
            return Finding.problem("sockets", subject, message, "run the check as the user who runs the mesh")
        if not path.parent.is_dir():
            fix = "stop the mesh and start it again: somebody removed the folder"
            return Finding.problem("sockets", subject, f"the pod's folder {path.parent} is gone", fix)
        return Finding.problem("sockets", subject, f"{path} does not exist", start)
    if not stat.S_ISSOCK(found.st_mode):
        kind = _KINDS.get(stat.S_IFMT(found.st_mode), "no socket")
        fix = f"remove it and let the server of pod {pod} listen on a Unix socket there"
        return Finding.problem("sockets", subject, f"{path} is {kind}", fix)
    if listening is not None and found.st_ino & 0xFFFFFFFF not in listening:
        return Finding.problem("sockets", subject, f"{path} is dead: nobody listens on it", start)
    if not os.access(path, os.W_OK, effective_ids=True):
        mode = stat.S_IMODE(found.st_mode)
        return Finding.problem(
            "sockets", subject, f"{path} has mode {mode:04o}, which keeps the agent out", "set mode 0666 on it"
        )
    return Finding.ok("sockets", subject, "the application listens")
