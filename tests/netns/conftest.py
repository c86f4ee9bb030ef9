"""Two nodes in two network namespaces, run by the commands of `docs/how-to/run-the-parts-yourself.md` as they stand.

Only names and folders of the page are replaced, so that several runs do not meet; settings are added to its configuration so
that nothing has to be waited for. Everything is made by the fixture and gone after it.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sysconfig
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any, Final, TypeVar

import pytest
import yaml

from meshless_core.types import ReplyCode

_T = TypeVar("_T")

PAGE: Final = Path(__file__).resolve().parents[2] / "docs" / "how-to" / "run-the-parts-yourself.md"
_BLOCK: Final = re.compile(r'^```\w+ title="([^"]+)"\n(.*?)^```$', re.MULTILINE | re.DOTALL)
_CLONE_NEWNET: Final = 0x40000000
_PR_SET_PDEATHSIG: Final = 1
_LONGEST: Final = 30.0  # seconds
_libc = ctypes.CDLL(None, use_errno=True)

SETTINGS: Final = {
    "agent": {"endpoint_timeout": "400ms", "connect_timeout": "1500ms", "ejection_base": "50ms", "drain_timeout": "0s"},
}
OPTIONS: Final = {"transport_tls": {"dead_peer_timeout": 4}}

MORE_OBJECTS: Final = """
---
apiVersion: meshless.dev/v1
kind: Meshlet
metadata: {namespace: shop, name: db}
spec: {server: {services: [{name: sql}], canary: [{version: v1, weight: 99}, {version: v2, weight: 1}]}}
---
apiVersion: v1
kind: Pod
metadata: {namespace: shop, name: db-0, labels: {meshless/meshlet: db, version: v1}}
spec: {nodeName: node-b, containers: [{name: main}]}
---
apiVersion: v1
kind: Pod
metadata: {namespace: shop, name: db-1, labels: {meshless/meshlet: db, version: v2}}
spec: {nodeName: node-a, containers: [{name: main}]}
---
apiVersion: v1
kind: Pod
metadata: {namespace: shop, name: web-1, labels: {meshless/meshlet: web}}
spec: {nodeName: node-b, containers: [{name: main}]}
"""


def lacking() -> str:
    """What these tests need and the machine does not have; empty if all is there."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    missing = [name for name in ("ip", "curl") if shutil.which(name) is None]
    if missing:
        return f"missing programs: {', '.join(missing)} (Debian: iproute2, curl)"
    probe = subprocess.run(["unshare", "--net", "true"], capture_output=True, text=True, check=False)
    return f"network namespaces cannot be made here: {probe.stderr.strip()}" if probe.returncode else ""


def wait_until(condition: Callable[[], _T], what: str, timeout: float = _LONGEST) -> _T:
    """Return the first true value of `condition`, which looks at another process, so that there is no event to wait for."""
    deadline = time.monotonic() + timeout
    while not (found := condition()):
        assert time.monotonic() < deadline, f"waited {timeout:g} s in vain: {what}"
        time.sleep(0.01)
    return found


class Network:
    """The mesh of the page."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._prefix = f"mn{os.getpid()}"
        self.a, self.b = f"{self._prefix}-a", f"{self._prefix}-b"
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._logs: dict[str, IO[bytes]] = {}
        self._services = contextlib.ExitStack()
        text = PAGE.read_text(encoding="utf-8").replace("node-", f"{self._prefix}-")
        for part in ("etc", "run", "var/lib"):
            (folder / part / "meshless").mkdir(parents=True)
            text = text.replace(f"/{part}/meshless", str(folder / part / "meshless"))
        self._blocks = dict(_BLOCK.findall(text))
        self.environment = {
            **os.environ,
            "PATH": f"{sysconfig.get_path('scripts')}:{os.environ['PATH']}",
            "MESHLESS_LOG_LEVEL": "info",
            "MESHLESS_LOG_FORMAT": "json",
        }

    # --- life --------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Do what the page says, from top to bottom."""
        self.shell("network")
        for name in (self.a, self.b):
            # the kernel's own chatter (neighbour discovery) would be in every capture
            quiet = ["ip", "netns", "exec", name, "sysctl", "-qw", "net.ipv6.conf.all.disable_ipv6=1"]
            subprocess.run(quiet, check=True, env=self.environment)
        config, objects = (
            next(title for title in self._blocks if title.endswith(name)) for name in ("meshless.yaml", "shop.yaml")
        )
        content = yaml.safe_load(self._blocks[config]) | SETTINGS
        content["plugins"] |= OPTIONS
        Path(config).write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
        text = self._blocks[objects].replace("service: http}]", "service: http}, {namespace: shop, meshlet: db, service: sql}]")
        assert "meshlet: db" in text, "the page's objects have changed: adapt this test"
        Path(objects).write_text(text + MORE_OBJECTS.replace("node-", f"{self._prefix}-"), encoding="utf-8")
        self.shell("authority")
        for title in ("reconciler", self.a, self.b):
            for command in self._blocks[title].replace("\\\n", " ").splitlines():
                self._spawn(shlex.split(command))
        self.wait_ready()

    def stop(self) -> None:
        """Leave nothing behind."""
        self._services.close()
        self.end_all()
        for log in self._logs.values():
            log.close()
        for name in (self.a, self.b):
            subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)
        shutil.rmtree(self.folder)

    def shell(self, title: str) -> subprocess.CompletedProcess[bytes]:
        """Run a block of the page as it stands."""
        return subprocess.run(
            ["sh", "-euc", self._blocks[title]], check=True, capture_output=True, timeout=_LONGEST, env=self.environment
        )

    def end_all(self) -> dict[str, int]:
        """SIGTERM to every process; how each of them ended."""
        for process in self._processes.values():
            process.terminate()
        for process in self._processes.values():
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        return {name: process.returncode for name, process in self._processes.items()}

    @contextlib.contextmanager
    def running(self, title: str) -> Iterator[subprocess.Popen[bytes]]:
        """The command of a block of the page while the block of the test runs, its output in a pipe."""
        command = shlex.split(self._blocks[title].replace("\\\n", " "))
        with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, env=self.environment) as process:
            try:
                yield process
            finally:
                process.kill()

    def _spawn(self, command: list[str]) -> None:
        words = command[command.index("meshless") + 1 :]
        name = words[0] if words[0] == "reconciler" else f"{words[0]} {words[words.index('--node') + 1]}"
        log = self._logs[name] = open(self.folder / f"{name.replace(' ', '-')}.log", "wb")  # noqa: SIM115 - closed by stop
        self._processes[name] = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=self.environment,
            start_new_session=True,
            preexec_fn=lambda: _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL),
        )

    def wait_ready(self) -> None:
        """Return when the page says that agents are ready, and every pod's sockets are there."""

        def ready() -> bool:
            for name, process in self._processes.items():
                assert process.poll() is None, f"{name} ended with {process.returncode}: {self.log(name)}"
            try:
                self.shell("ready")
            except subprocess.CalledProcessError:
                return False
            pods = ((self.a, "web-0"), (self.a, "db-1"), (self.b, "cart-0"), (self.b, "db-0"), (self.b, "web-1"))
            return all((self.pod(node, pod) / "client" / "meshless").is_socket() for node, pod in pods)

        wait_until(ready, "agents are ready")

    # --- looking -----------------------------------------------------------------------------------------------------

    def log(self, name: str) -> str:
        """What a process has logged so far, for example `agent <node>`."""
        return (self.folder / f"{name.replace(' ', '-')}.log").read_text(encoding="utf-8")

    def metric(self, node: str, name: str, **labels: str) -> float:
        """The sum of a metric's samples that have these labels."""
        admin = str(self.folder / "run" / "meshless" / node / "admin.sock")
        text = subprocess.run(
            ["curl", "--silent", "--fail", "--unix-socket", admin, "http://agent/metrics"],
            check=True,
            capture_output=True,
            text=True,
            timeout=_LONGEST,
        ).stdout
        wanted = [f'{key}="{value}"' for key, value in labels.items()]
        samples = [line for line in text.splitlines() if re.match(rf"{name}[{{ ]", line)]
        return sum(float(line.rpartition(" ")[2]) for line in samples if all(label in line for label in wanted))

    def pod(self, node: str, name: str) -> Path:
        """A pod's folder."""
        return self.folder / "run" / "meshless" / node / "pods" / "shop" / name

    # --- doing -------------------------------------------------------------------------------------------------------

    def ip(self, node: str, *arguments: str) -> None:
        """Change a namespace's network."""
        subprocess.run(["ip", "-n", node, *arguments], check=True, capture_output=True)

    def cable(self, node: str, state: str) -> None:
        """Pull (`down`) or plug (`up`) a node's end of the cable."""
        self.ip(node, "link", "set", "veth-a" if node == self.a else "veth-b", state)

    def inside(self, node: str, function: Callable[[], _T]) -> _T:
        """Run `function` in a thread that is inside the namespace: descriptors it makes stay there."""
        outcome: list[_T] = []

        def enter() -> None:
            with open(f"/run/netns/{node}", "rb") as namespace:
                if _libc.setns(namespace.fileno(), _CLONE_NEWNET):
                    raise OSError(ctypes.get_errno(), "setns")
            outcome.append(function())

        thread = threading.Thread(target=enter)
        thread.start()
        thread.join(_LONGEST)
        (value,) = outcome
        return value

    def open(self, node: str, pod: str = "web-0", service: str = "http.cart.shop") -> tuple[socket.socket, ReplyCode]:
        """Dial; the client socket and the reply."""
        client = socket.socket(socket.AF_UNIX)
        client.settimeout(_LONGEST)
        client.connect(str(self.pod(node, pod) / "client" / "meshless"))
        client.sendall(bytes((1, len(service))) + service.encode())
        reply = receive_exactly(client, 2)
        assert reply[0] == 1
        return client, ReplyCode(reply[1])

    def dial(self, node: str, pod: str = "web-0", service: str = "http.cart.shop") -> socket.socket:
        """An established connection."""
        client, code = self.open(node, pod, service)
        assert code is ReplyCode.OK
        return client

    def serve(self, node: str, pod: str, service: str, handler: Callable[[socket.socket], None]) -> None:
        """Provide a service until `stop`, each connection in a thread of its own, which may end with the connection's error."""
        listener = socket.socket(socket.AF_UNIX)
        path = self.pod(node, pod) / "server" / service
        path.unlink(missing_ok=True)
        listener.bind(str(path))
        listener.listen(128)

        def handle(connection: socket.socket) -> None:
            with connection, contextlib.suppress(ConnectionError):
                handler(connection)

        def accept() -> None:
            with contextlib.suppress(OSError):  # the listener was closed
                while True:
                    threading.Thread(target=handle, args=(listener.accept()[0],), daemon=True).start()

        thread = threading.Thread(target=accept)
        thread.start()
        self._services.callback(thread.join)
        self._services.callback(listener.close)
        self._services.callback(listener.shutdown, socket.SHUT_RDWR)


def receive_exactly(connection: socket.socket, size: int) -> bytes:
    """Exactly `size` bytes."""
    data = b""
    while len(data) < size:
        part = connection.recv(size - len(data))
        assert part, f"ended after {len(data)} of {size} bytes"
        data += part
    return data


def echo(connection: socket.socket) -> None:
    """Send back what comes."""
    while data := connection.recv(65536):
        connection.sendall(data)


@pytest.fixture(scope="module")
def network() -> Iterator[Network]:
    """The mesh of the page with its services up; no connection has been made yet."""
    if reason := lacking():
        pytest.skip(reason)
    made = Network(Path(tempfile.mkdtemp(prefix="meshless-netns-")))
    try:
        made.start()
        made.serve(made.b, "cart-0", "http", echo)
        made.serve(made.b, "db-0", "sql", lambda connection: connection.sendall(b"v1"))
        made.serve(made.a, "db-1", "sql", lambda connection: connection.sendall(b"v2"))
        yield made
    finally:
        made.stop()


@pytest.fixture
def tools() -> Mapping[str, Any]:
    """What tests need beside the network."""
    return {"wait_until": wait_until, "receive_exactly": receive_exactly}
