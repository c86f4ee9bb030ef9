"""Runs one program and ends when it ends, together with everything it started: what the first process of a container does.

Why a process: a daemon that left its session belongs to no group that could be signalled, and when its parent ends the kernel
gives it to the nearest subreaper above (prctl(2), PR_SET_CHILD_SUBREAPER). This is that subreaper, one for each program, so
what comes here is this program's and nobody else's. It also reaps what nobody waits for.

Started by its path with `python -I -S`, which takes some milliseconds: standard library only, nothing of the mesh.

    first_process.py <status descriptor> <program> <argument>...

The status descriptor is closed when the program runs; if it cannot be started it brings the errno, as text. SIGUSR1, which the
kernel sends too when the parent is gone, ends everything at once. All other signals are for the program.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import signal
import sys
from collections.abc import Iterator
from typing import Final, NoReturn

__all__ = ["END"]

END: Final = signal.SIGUSR1
"""Tells a first process to end everything."""

_PR_SET_PDEATHSIG: Final = 1
_PR_SET_CHILD_SUBREAPER: Final = 36
_IGNORED_BY_PYTHON: Final = (signal.SIGPIPE, signal.SIGXFSZ)
_CANNOT_RUN: Final = 127  # as shells say it


def main(status: int, argv: list[str]) -> NoReturn:
    """Run the program; ends the process as the program ended."""
    prctl = ctypes.CDLL(None).prctl
    prctl(_PR_SET_CHILD_SUBREAPER, 1)
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    program = os.fork()
    if not program:
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        _become(status, argv)
    os.close(status)
    _end_as(_wait(program))


def _become(status: int, argv: list[str]) -> NoReturn:
    os.set_inheritable(status, False)
    for number in _IGNORED_BY_PYTHON:
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    try:
        os.execvp(argv[0], argv)  # noqa: S606 - what we are for
    except OSError as error:
        os.write(status, str(error.errno).encode())
    os._exit(_CANNOT_RUN)


def _wait(program: int) -> int:
    """Reap until the program has ended, or everything shall; then end what is left. Returns the program's wait status."""
    ended: int | None = None
    while ended is None:
        if signal.sigwait((signal.SIGCHLD, END)) == END:
            with contextlib.suppress(ProcessLookupError):
                os.kill(program, signal.SIGKILL)
            ended = os.waitpid(program, 0)[1]
        while ended is None:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == program:
                ended = status
            elif not pid:
                break
    _end_the_rest()
    return ended


def _end_the_rest() -> None:
    """Kill our children until there are none: those of one that ended are ours next."""
    spared: set[int] = set()
    while True:
        children = set(_children()) - spared
        for pid in children:
            try:
                os.kill(pid, signal.SIGKILL)
            except PermissionError:  # it has become another user's: nothing we can do, and nothing to wait for
                spared.add(pid)
        if not children - spared:
            return
        with contextlib.suppress(ChildProcessError):
            os.waitpid(-1, 0)


def _children() -> Iterator[int]:
    me = os.getpid()
    for name in os.listdir("/proc"):
        if name.isdigit():
            with contextlib.suppress(FileNotFoundError, ProcessLookupError), open(f"/proc/{name}/stat", "rb") as stat:
                if int(stat.read().rpartition(b")")[2].split()[1]) == me:
                    yield int(name)


def _end_as(status: int) -> NoReturn:
    code = os.waitstatus_to_exitcode(status)
    if code >= 0:
        os._exit(code)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a core file of the program is enough
    number = -code
    if number != signal.SIGKILL:
        signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, (number,))
    os._exit(128 + number)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:])
