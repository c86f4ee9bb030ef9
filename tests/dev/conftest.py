"""A mesh as its user has it: `meshless dev` as a process, a file that is edited, sockets that are dialled."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import meshless_sdk
import pytest

LONGEST = 40.0

SERVER = """\
import json, os, socket, sys
path = os.path.join(os.environ["MESHLESS_DIR"], "server", sys.argv[1])
if os.path.lexists(path):
    os.unlink(path)
listener = socket.socket(socket.AF_UNIX)
listener.bind(path)
listener.listen(512)
print("serving", sys.argv[1], flush=True)
names = ("VERSION", "MESHLESS_DIR", "POD_NAME", "POD_NAMESPACE")
about = json.dumps({"pid": os.getpid(), "cwd": os.getcwd(), **{name: os.environ.get(name) for name in names}}).encode()
held = []
while True:
    connection, _ = listener.accept()
    connection.sendall(about + b"\\n")
    if sys.argv[1] == "hold":
        held.append(connection)
    else:
        connection.close()
"""


def meshlets(canary: str = "{version: v1, weight: 90}, {version: v2, weight: 10}") -> str:
    return f"""\
apiVersion: meshless.dev/v1
kind: Meshlet
metadata: {{namespace: shop, name: web}}
spec:
  client:
    - {{namespace: shop, meshlet: cart, service: http}}
    - {{namespace: shop, meshlet: till, service: hold}}
---
apiVersion: meshless.dev/v1
kind: Meshlet
metadata: {{namespace: shop, name: cart}}
spec:
  server:
    selector: {{app: cart}}
    services: [{{name: http}}]
    canary: [{canary}]
---
apiVersion: meshless.dev/v1
kind: Meshlet
metadata: {{namespace: shop, name: till}}
spec:
  server: {{selector: {{app: till}}, services: [{{name: hold}}]}}
"""


def pod(name: str, node: str, meshlet: str, service: str = "", version: str = "", *, command: str = "") -> str:
    labels = f"app: {meshlet}, meshless/meshlet: {meshlet}" + (f", version: {version}" if version else "")
    if service:
        command = f"[{sys.executable}, -S, server.py, {service}]"
    command = command and f", command: {command}"
    return f"""\
---
apiVersion: v1
kind: Pod
metadata: {{namespace: shop, name: {name}, labels: {{{labels}}}}}
spec:
  nodeName: {node}
  containers: [{{name: main{command}, env: [{{name: VERSION, value: "{version}"}}]}}]
"""


PODS = (
    pod("web", "node-a", "web")
    + pod("cart-v1", "node-a", "cart", "http", "v1")
    + pod("cart-v2", "node-b", "cart", "http", "v2")
    + pod("till", "node-b", "till", "hold")
)


class Mesh:
    """One `meshless dev` process."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        self.folder = folder
        self.run = folder / "run"
        self.file = folder / "shop.yaml"
        self._lines: list[str] = []
        self._changed = threading.Condition()
        environment = {name: value for name, value in os.environ.items() if not name.startswith("MESHLESS_")}
        self.process = subprocess.Popen(
            [*MESHLESS, "--log-format=json", "dev", str(self.file), "--run-dir", str(self.run), *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
            cwd=folder,
            start_new_session=True,
        )
        self._readers = [
            threading.Thread(target=self._read, args=(stream, prefix))
            for stream, prefix in ((self.process.stdout, "out: "), (self.process.stderr, "err: "))
        ]
        for reader in self._readers:
            reader.start()

    def _read(self, stream: Any, prefix: str) -> None:
        with stream:
            for line in stream:
                with self._changed:
                    self._lines.append(prefix + line.rstrip("\n"))
                    self._changed.notify_all()

    def wait_for(self, pattern: str, *, after: int = 0) -> str:
        """The first line (`out: ...` or `err: ...`) that matches; `after` is the number of lines to skip."""

        def found() -> str | None:
            return next((line for line in self._lines[after:] if re.search(pattern, line)), None)

        with self._changed:
            assert self._changed.wait_for(lambda: found() or self.ended, LONGEST), f"no {pattern!r} in\n" + self.output
            line = found()
        assert line is not None, f"ended without {pattern!r}:\n{self.output}"
        return line

    @property
    def ended(self) -> bool:
        return not any(reader.is_alive() for reader in self._readers)

    @property
    def output(self) -> str:
        return "\n".join(self._lines)

    @property
    def seen(self) -> int:
        return len(self._lines)

    def wait(self) -> int:
        """Exit status, once it has ended by itself and said everything."""
        code = self.process.wait(LONGEST)
        for reader in self._readers:
            reader.join(LONGEST)
        return code

    def interrupt(self) -> int:
        self.process.send_signal(signal.SIGINT)
        return self.wait()

    def close(self) -> None:
        if self.process.poll() is None:
            self.interrupt()
        self.wait()

    def edit(self, text: str) -> None:
        """Replace the file as an editor does."""
        beside = self.folder / ".shop.yaml.new"
        beside.write_text(text, encoding="utf-8")
        beside.rename(self.file)

    def dial(self, service: str = "http.cart.shop", pod: str = "web") -> dict[str, Any]:
        """One connection: what the server says about itself."""
        path = str(self.run / "pods" / "shop" / pod / "client" / "meshless")
        try:
            with meshless_sdk.connect(service, path=path) as connection, connection.makefile("rb") as stream:
                about: dict[str, Any] = json.loads(stream.readline())
        except OSError as error:
            raise AssertionError(f"{error!r}\n{self.output}") from error
        return about

    def dial_until(self, wanted: Callable[[dict[str, Any]], bool], **how: str) -> dict[str, Any]:
        """Dial until the answer is as wanted; every dial has to succeed."""
        deadline = time.monotonic() + LONGEST
        while True:
            about = self.dial(**how)
            if wanted(about):
                return about
            assert time.monotonic() < deadline, f"still {about}\n{self.output}"

    def cli(self, *arguments: str) -> tuple[int, str, str]:
        done = subprocess.run(
            [*MESHLESS, *arguments, "--run-dir", str(self.run)], capture_output=True, text=True, timeout=LONGEST, check=False
        )
        return done.returncode, done.stdout, done.stderr

    def agent_pid(self, node: str) -> int:
        return int((self.run / "nodes" / node / "agent.pid").read_text())


MESHLESS = [sys.executable, "-m", "meshless_core.cli"]


def processes_of(run: Path) -> dict[int, str]:
    """Process id and command line of what runs for a run directory: agents name it, pods have it in their environment."""
    found = {}
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            command = (entry / "cmdline").read_bytes()
            if os.fsencode(run) in command or b"MESHLESS_DIR=" + os.fsencode(run) in (entry / "environ").read_bytes():
                found[int(entry.name)] = command.replace(b"\0", b" ").decode()
    return found


def until(holds: Callable[[], Any], what: str) -> None:
    """Return once `holds()`; what is watched lives in other processes, so there is no event to wait for."""
    deadline = time.monotonic() + LONGEST
    pause = threading.Event()
    while not holds():
        assert time.monotonic() < deadline, f"still not: {what}"
        pause.wait(0.02)


def prepare(folder: Path) -> Path:
    (folder / "server.py").write_text(SERVER, encoding="utf-8")
    (folder / "shop.yaml").write_text(meshlets() + PODS, encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    """A mesh of two nodes that is ready, one for the tests of a module."""
    running = Mesh(prepare(tmp_path_factory.mktemp("mesh")))
    try:
        running.wait_for("^out: ready$")
        yield running
    finally:
        running.close()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a mesh's file that is not running yet."""
    return prepare(tmp_path)


@pytest.fixture
def start(folder: Path) -> Iterator[Callable[..., Mesh]]:
    """Start meshes in `folder`; what still runs at the end of the test is interrupted."""
    started: list[Mesh] = []

    def run(*arguments: str) -> Mesh:
        started.append(Mesh(folder, *arguments))
        return started[-1]

    yield run
    for each in started:
        each.close()


class Helpers:
    """What test modules need of this file; importlib mode gives them no way to import it."""

    processes_of = staticmethod(processes_of)
    until = staticmethod(until)
    meshlets = staticmethod(meshlets)
    pod = staticmethod(pod)
    pods = PODS


@pytest.fixture(scope="session")
def helpers() -> type[Helpers]:
    return Helpers
