"""Starts and stops the processes of a path and reads what they cost from /proc.

Must not leave a process behind: each one leads a process group of its own, and the whole group is stopped.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import attrs

from bench.errors import PathUnavailableError

__all__ = ["Memory", "Process", "cpu_seconds_of", "free_port", "memory_of", "pinned", "tree_of", "wait_until_accepting"]

_TICKS = os.sysconf("SC_CLK_TCK")
_STOP_SECONDS = 10.0
_START_SECONDS = 20.0
_POLL_SECONDS = 0.02
_LOG_TAIL = 600


class Process:
    """A running program with its output in a log file; a context manager that stops its whole process group."""

    def __init__(self, name: str, command: Sequence[str], log: Path, environment: dict[str, str] | None = None) -> None:
        self.name = name
        self.log = log
        with log.open("wb") as output:
            self._popen = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=os.environ | (environment or {}),
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        """The process id."""
        return self._popen.pid

    def check(self) -> None:
        """Raise if the process has ended.

        Raises:
            PathUnavailableError: it has; the message carries the end of its output.
        """
        status = self._popen.poll()
        if status is not None:
            raise PathUnavailableError(f"{self.name} ended with status {status}: {self.tail() or 'it said nothing'}")

    def tail(self) -> str:
        """The end of what the process has printed, on one line."""
        return " / ".join(self.log.read_text(errors="replace")[-_LOG_TAIL:].split("\n")).strip(" /")

    def stop(self) -> None:
        """End the process group: politely, then by force. Does nothing if it is gone."""
        if self._popen.poll() is None:
            self._popen.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._popen.wait(_STOP_SECONDS)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self._popen.wait()

    def __enter__(self) -> Process:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def wait_until_accepting(address: str, process: Process) -> None:
    """Wait until something accepts at `address` (`unix:/path` or `tcp:host:port`).

    Raises:
        PathUnavailableError: the process ended, or nothing accepts within 20 seconds.
    """
    deadline = time.monotonic() + _START_SECONDS
    while True:
        process.check()
        with contextlib.suppress(OSError), _connect(address):
            return
        if time.monotonic() > deadline:
            raise PathUnavailableError(
                f"{process.name} does not accept at {address} after {_START_SECONDS:.0f} s: {process.tail()}"
            )
        time.sleep(_POLL_SECONDS)  # between two looks; the deadline above bounds them


def _connect(address: str) -> socket.socket:
    kind, _, rest = address.partition(":")
    if kind == "unix":
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            connection.connect(rest)
        except OSError:
            connection.close()
            raise
        return connection
    host, _, port = rest.rpartition(":")
    return socket.create_connection((host, int(port)), timeout=1)


def free_port() -> int:
    """A TCP port of 127.0.0.1 that nobody uses at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@attrs.frozen
class Memory:
    """Memory of some processes, bytes. `proportional` counts a page shared by n processes as 1/n (PSS)."""

    resident: int
    proportional: int


def tree_of(roots: Sequence[int]) -> list[int]:
    """The processes `roots` and all their living descendants."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            fields = _stat(int(entry.name))
            if fields is not None:
                children.setdefault(int(fields[1]), []).append(int(entry.name))
    found: list[int] = []
    queue = list(dict.fromkeys(roots))
    while queue:
        pid = queue.pop()
        found.append(pid)
        queue.extend(children.get(pid, ()))
    return sorted(set(found))


def _stat(pid: int) -> list[str] | None:
    """The fields of /proc/<pid>/stat behind the name (proc(5): state, ppid, ...); None if the process is gone."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return text.rpartition(")")[2].split()


def cpu_seconds_of(pids: Sequence[int]) -> float:
    """CPU used by these processes and the children they have waited for (proc(5): utime, stime, cutime, cstime)."""
    ticks = 0
    for pid in pids:
        fields = _stat(pid)
        if fields is not None:
            ticks += sum(map(int, fields[11:15]))
    return ticks / _TICKS


def memory_of(pids: Sequence[int]) -> Memory:
    """Memory of these processes, from smaps_rollup. A process that has gone counts nothing."""
    resident = proportional = 0
    for pid in pids:
        try:
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        except (FileNotFoundError, ProcessLookupError):
            continue
        sizes = {name: int(rest.split()[0]) * 1024 for name, _, rest in (line.partition(":") for line in lines[1:])}
        resident += sizes.get("Rss", 0)
        proportional += sizes.get("Pss", 0)
    return Memory(resident, proportional)


@contextlib.contextmanager
def pinned(cpus: frozenset[int] | None) -> Iterator[None]:
    """Let processes started inside run on `cpus` only (affinity is inherited); None leaves everything as it is."""
    if cpus is None:
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cpus)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
