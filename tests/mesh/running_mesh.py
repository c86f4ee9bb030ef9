"""A mesh as users have it: `meshless dev` and its agents as processes, driven and inspected from outside.

Everything here polls a condition with a deadline; nothing waits for a time to pass.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlencode

import meshless_sdk

SECONDS = 30.0
"""How long anything may take before a test gives up on it."""

_T = TypeVar("_T")


def until(
    condition: Callable[[], _T | None],
    what: str | Callable[[], str],
    seconds: float = SECONDS,
    clock: Callable[[], float] = time.monotonic,
) -> _T:
    """Poll until `condition` is true, for so many seconds of `clock`; returns its value.

    Raises:
        AssertionError: it did not become true in time, with `what` was waited for.
    """
    deadline = clock() + seconds
    while True:
        last = clock() > deadline  # before the look: one that was late itself has seen nothing late
        if value := condition():
            return value
        if last:
            raise AssertionError(f"not within {seconds:g} s: {what() if callable(what) else what}")
        time.sleep(0.01)


def raise_open_files() -> int:
    """Allow as many open files as the system lets us; children inherit it. Returns how many."""
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


class AgentView:
    """One node's agent, seen from outside: its admin socket and `/proc`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.name = folder.name

    @property
    def pid(self) -> int:
        """The agent's process id, as it says itself."""
        return int((self.folder / "agent.pid").read_text())

    def get(self, path: str, **query: str) -> tuple[int, bytes]:
        """A GET at the admin socket.

        Raises:
            OSError: no agent answers.
        """
        target = f"{path}?{urlencode(query)}" if query else path
        with socket.socket(socket.AF_UNIX) as admin:
            admin.settimeout(SECONDS)
            admin.connect(str(self.folder / "admin.sock"))
            admin.sendall(f"GET {target} HTTP/1.1\r\nHost: agent\r\nConnection: close\r\n\r\n".encode())
            answer = b""
            while data := admin.recv(1 << 20):
                answer += data
        head, _, body = answer.partition(b"\r\n\r\n")
        if not body and not head:
            raise ConnectionResetError("the agent closed without an answer")
        return int(head.split()[1]), body

    def json(self, path: str, **query: str) -> Any:
        """The JSON body of a GET that has to succeed."""
        status, body = self.get(path, **query)
        assert status == 200, body
        return json.loads(body)

    @property
    def ready(self) -> bool:
        """Whether connections can be made."""
        try:
            return self.get("/readyz")[0] == 200
        except OSError:
            return False

    def connections(self) -> list[dict[str, Any]]:
        """The table of live connections."""
        rows: list[dict[str, Any]] = self.json("/connections")
        return rows

    def metric(self, name: str, **labels: str) -> float:
        """Sum of a metric over all series with these labels."""
        total = 0.0
        for line in self.get("/metrics")[1].decode().splitlines():
            series, _, value = line.rpartition(" ")
            if series.partition("{")[0] == name and all(f'{key}="{text}"' in series for key, text in labels.items()):
                total += float(value)
        return total

    def descriptors(self) -> list[str]:
        """What each open descriptor is: `socket`, `pipe`, a path."""
        kinds = []
        folder = f"/proc/{self.pid}/fd"
        for number in os.listdir(folder):
            with contextlib.suppress(FileNotFoundError):  # closed meanwhile
                kinds.append(os.readlink(f"{folder}/{number}").partition(":")[0])
        return sorted(kinds)

    def resident_bytes(self) -> int:
        """Memory the agent occupies."""
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) * 1024
        raise AssertionError(f"the agent of {self.name} is gone")

    def access_log(self) -> list[dict[str, Any]]:
        """Its access log so far; a line may appear a moment after its connection ended."""
        path = self.folder / "access.log"
        text = path.read_text() if path.exists() else ""
        return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]

    def kill(self) -> int:
        """SIGKILL; returns when the process is gone. The supervisor starts another one."""
        pid = self.pid
        handle = os.pidfd_open(pid)
        try:
            signal.pidfd_send_signal(handle, signal.SIGKILL)
            until(lambda: gone(pid), f"agent {self.name} died")
        finally:
            os.close(handle)
        return pid


def gone(pid: int) -> bool:
    """Whether a process has ended; a zombie has."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


class RunningMesh:
    """A `meshless dev` process.

    Args:
        folder: gets the YAML file, the log and the run directory.
        objects: the YAML text.
        config: text of `meshless.yaml`, empty for none.
        environment: added to the environment.
        files: further files in the folder, by name.
    """

    def __init__(
        self,
        folder: Path,
        objects: str,
        *,
        config: str = "",
        environment: Mapping[str, str] | None = None,
        files: Mapping[str, str] | None = None,
    ) -> None:
        self.folder = folder
        self.run = folder / "run"
        self.file = folder / "objects.yaml"
        self.log = folder / "mesh.log"
        self.edit(objects)
        for name, text in (files or {}).items():
            (folder / name).write_text(text)
        arguments = ["dev", str(self.file), "--run-dir", str(self.run)]
        if config:
            (folder / "meshless.yaml").write_text(config)
            arguments += ["--config", str(folder / "meshless.yaml")]
        self._arguments = arguments
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        self._environment = {**os.environ, "PATH": path, **(environment or {})}
        self._process: subprocess.Popen[str] | None = None

    @property
    def pid(self) -> int:
        """The supervisor's process id."""
        assert self._process is not None
        return self._process.pid

    def launch(self) -> subprocess.Popen[str]:
        """Start the process and do not wait for it."""
        with open(self.log, "a") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "meshless_core.cli", *self._arguments],
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env=self._environment,
            )
        return self._process

    def start(self) -> None:
        """Start, and return when dialling works."""
        process = self.launch()
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line == "ready\n", f"the mesh did not start:\n{self.log.read_text()}"

    def stop(self) -> None:
        """End it as Ctrl-C does; checks that nothing is left."""
        process, self._process = self._process, None
        if process is None:
            return
        pids = [process.pid, *descendants(process.pid)] if process.poll() is None else []
        process.send_signal(signal.SIGINT)
        try:
            code = process.wait(SECONDS)
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
            assert process.stdout is not None
            process.stdout.close()
        assert code == 0, f"exit code {code}:\n{self.log.read_text()[-5000:]}"
        until(lambda: all(map(gone, pids)), lambda: f"gone: {[pid for pid in pids if not gone(pid)]}")
        assert not self.run.exists(), f"left behind: {sorted(self.run.rglob('*'))}"

    def edit(self, objects: str) -> None:
        """Replace the YAML file, at once and whole."""
        temporary = self.folder / ".objects.new"
        temporary.write_text(objects)
        temporary.rename(self.file)

    def agent(self, node: str) -> AgentView:
        """A node's agent."""
        return AgentView(self.run / "nodes" / node)

    @property
    def agents(self) -> dict[str, AgentView]:
        """All agents."""
        return {path.name: AgentView(path) for path in sorted((self.run / "nodes").iterdir())}

    def pod(self, name: str) -> Path:
        """A pod's folder."""
        return self.run / "pods" / "shop" / name

    def client_path(self, pod: str) -> str:
        """Where a pod dials."""
        return str(self.pod(pod) / "client" / "meshless")

    def dial(self, service: str, pod: str) -> socket.socket:
        """An established connection."""
        connection = meshless_sdk.connect(service, path=self.client_path(pod))
        connection.settimeout(SECONDS)
        return connection

    def listen(self, pod: str, service: str = "http") -> socket.socket:
        """Listen as a pod."""
        listener = meshless_sdk.listen(service, path=str(self.pod(pod) / "server" / service))
        listener.settimeout(SECONDS)
        return listener

    def __enter__(self) -> RunningMesh:
        try:
            self.start()
        except BaseException:
            if self._process is not None:
                self._process.kill()
                self._process.wait()
                assert self._process.stdout is not None
                self._process.stdout.close()
            raise
        return self

    def __exit__(self, *_exception: object) -> None:
        self.stop()


def descendants(pid: int) -> Iterator[int]:
    """All processes a process started, theirs included."""
    try:
        tasks = os.listdir(f"/proc/{pid}/task")
    except FileNotFoundError:
        return
    for task in tasks:
        with contextlib.suppress(FileNotFoundError):
            for child in map(int, Path(f"/proc/{pid}/task/{task}/children").read_text().split()):
                yield child
                yield from descendants(child)
