"""The storm: clients that do everything clients do, and faults of every kind, with a record of all of it.

What happened is judged afterwards, in `chaos_verdict`; here nothing is decided but what happens next, from one seed.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import random
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import attrs
import meshless_sdk

from tests.mesh.exchange import (
    GREETING,
    HEADER,
    MAGIC,
    SECONDS,
    Order,
    ShortError,
    StuckError,
    WrongBytesError,
    read,
    receive,
    receive_end,
    receive_exactly,
    send,
)
from tests.mesh.running_mesh import RunningMesh, gone

MAX_CONN = 5
CONFIG = """
agent: {handshake_timeout: 1s, tunnel_idle: 2s}
"""
NODE_OF = {"cart-near": "node-a", "cart-v1": "node-b", "cart-v2": "node-c", "bank": "node-c"}
"""Deployment -> node."""

_HTTP_MALFORMED = b"HTTP/1.1 400"
"""How the code MALFORMED_REQUEST begins in the words of `handshake_http`."""

_MESHLETS = """
apiVersion: meshless.dev/v1
kind: Meshlet
metadata: {namespace: shop, name: web}
spec:
  client:
    - {namespace: shop, meshlet: cart, service: http}
    - {namespace: shop, meshlet: cart, service: quiet}
    - {namespace: shop, meshlet: bank, service: http}
---
apiVersion: meshless.dev/v1
kind: Meshlet
metadata: {namespace: shop, name: stranger}
spec: {}
---
apiVersion: meshless.dev/v1
kind: Meshlet
metadata: {namespace: shop, name: cart}
spec:
  server:
    selector: {app: cart}
    services: [{name: http, maxConn: %(max_conn)d}, {name: quiet, idleTimeout: 1s}]
    canary: [{version: v1, weight: %(v1)d}, {version: v2, weight: %(v2)d}]
---
apiVersion: meshless.dev/v1
kind: Meshlet
metadata: {namespace: shop, name: bank}
spec:
  server:
    selector: {app: bank}
    services: [{name: http, allow: [{namespace: shop, meshlet: %(allowed)s}]}]
"""
_CLIENT = """---
apiVersion: v1
kind: Pod
metadata: {namespace: shop, name: %s, labels: {meshless/meshlet: %s}}
spec: {nodeName: %s}
"""
_SERVER = """---
apiVersion: apps/v1
kind: Deployment
metadata: {namespace: shop, name: %(name)s}
spec:
  replicas: %(replicas)d
  selector: {matchLabels: {deployment: %(name)s}}
  template:
    metadata: {labels: {deployment: %(name)s, app: %(app)s, meshless/meshlet: %(app)s, version: %(version)s}}
    spec:
      nodeName: %(node)s
      containers: [{name: main, image: none, command: [python, -m, tests.mesh.chaos_server, %(services)s]}]
"""


@attrs.define
class World:
    """What the YAML file says."""

    v1: int = 50
    v2: int = 50
    allowed: str = "web"
    replicas: dict[str, int] = attrs.field(factory=lambda: {"cart-near": 1, "cart-v1": 1, "cart-v2": 1, "bank": 1})

    def text(self) -> str:
        """The whole file."""
        parts = [_MESHLETS % {"max_conn": MAX_CONN, "v1": self.v1, "v2": self.v2, "allowed": self.allowed}]
        for pod, meshlet, node in (("web-0", "web", "node-a"), ("web-1", "web", "node-b"), ("odd", "stranger", "node-a")):
            parts.append(_CLIENT % (pod, meshlet, node))
        for name, replicas in self.replicas.items():
            app = name.partition("-")[0]
            version = "v2" if name == "cart-v2" else "v1"
            services = "http, quiet" if app == "cart" else "http"
            values = {"name": name, "replicas": replicas, "app": app, "version": version, "services": services}
            parts.append(_SERVER % {**values, "node": NODE_OF[name]})
        return "".join(parts)


@attrs.frozen
class Fault:
    """Something we did. Times are of the monotonic clock, which all processes share."""

    kind: Literal["agent", "pod", "edit"]
    what: str
    began: float
    ended: float
    pid: int = 0


@attrs.define
class Attempt:
    """One connection, as its client saw it."""

    number: int
    service: str
    pod: str
    doing: str
    began: float
    ended: float = 0.0
    result: str = ""
    """`complete`, `cut`, `left`, a reply code's name, `silent`, or `short: ...`, `error: ...`, `wrong: ...`, `stuck: ...`."""
    server: str = ""
    server_pid: int = 0


class Storm:
    """A running storm.

    Args:
        mesh: made with `World().text()` and `CONFIG`.
        seed: decides everything that is ours to decide.
        survivor: node whose agent is never killed.
    """

    def __init__(self, mesh: RunningMesh, seed: int, survivor: str) -> None:
        self.mesh = mesh
        self.survivor = survivor
        self.attempts: list[Attempt] = []
        self.faults: list[Fault] = []
        self.bugs: list[str] = []
        self.world = World()
        self._chance = random.Random(seed)
        self._numbers = itertools.count(1)
        self._crashes = False
        self._stop = threading.Event()

    # --- clients -----------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def clients(self, count: int) -> Iterator[None]:
        """So many clients at work; at the end every one has finished what it was doing."""
        self._stop.clear()
        threads = [threading.Thread(target=self._work, args=(self._chance.random(),)) for _ in range(count)]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self._stop.set()
            for thread in threads:
                thread.join()

    def _work(self, seed: float) -> None:
        chance = random.Random(seed)
        deeds = (
            [self.talk] * 60 + [self.leave] * 6 + [self.stall] * 4 + [self.intrude] * 6 + [self.dawdle] * 3 + [self.knock] * 4
        )
        while not self._stop.is_set():
            try:
                chance.choice(deeds)(chance)
            except Exception as error:  # noqa: BLE001 - a client that died would be missed in the verdict
                self.bugs.append(f"{type(error).__name__}: {error}")
                return

    def talk(self, chance: random.Random, *, order: Order | None = None, service: str = "", pod: str = "") -> Attempt:
        """An exchange: small, large, slow, in any order of the ends; sometimes one that crashes the server."""
        usual = [Order.ACKNOWLEDGED, Order.CLIENT_FIRST, Order.SERVICE_FIRST, Order.BOTH] * 20
        unusual = [Order.LEAVE, Order.LEAVE, Order.CRASH if self._crashes else Order.LEAVE]
        order = chance.choice(usual + unusual) if order is None else order
        sizes = [chance.randrange(0, 300), chance.randrange(0, 70_000), chance.randrange(0, 3_000_000)]
        up, down = chance.choices(sizes, [60, 30, 10], k=2)
        pause = 0.005 if chance.random() < 0.05 else 0.0
        service = service or chance.choice(["http.cart.shop"] * 5 + ["http.bank.shop"])
        attempt = self._attempt(service, pod or chance.choice(["web-0", "web-1"]), order.name.lower())
        with self._judged(attempt), self._dial(attempt) as end:
            self._greet(attempt, end)
            end.sendall(HEADER.pack(MAGIC, attempt.number, up, down, order))
            attempt.result = _exchange(end, attempt.number, up, down, order, pause)
        return attempt

    def leave(self, chance: random.Random) -> None:
        """Connect and leave: at once, before the reply, or before a word."""
        attempt = self._attempt("http.cart.shop", chance.choice(["web-0", "web-1"]), "leave")
        with self._judged(attempt):
            match chance.randrange(3):
                case 0:
                    self._dial(attempt).close()
                case 1:
                    self._raw(attempt, b"\x01\x0ehttp.cart.shop").close()
                case _:
                    self._raw(attempt, b"").close()
            attempt.result = "left"

    def stall(self, chance: random.Random) -> None:
        """A client that begins a request and never finishes it: has to be told TIMEOUT."""
        attempt = self._attempt("http.cart.shop", chance.choice(["web-0", "web-1"]), "stall")
        with self._judged(attempt), self._raw(attempt, b"\x01\x0eht") as end:
            reply = b""
            with contextlib.suppress(ConnectionResetError):  # killed with our bytes unread: as silent as an end-of-file
                while part := read(end, 2 - len(reply)):
                    reply += part
            attempt.result = _name_of(reply)

    def dawdle(self, chance: random.Random) -> None:
        """A client that is served and says nothing: the idle timeout of the service has to end it."""
        attempt = self._attempt("quiet.cart.shop", chance.choice(["web-0", "web-1"]), "dawdle")
        with self._judged(attempt), self._dial(attempt) as end:
            self._greet(attempt, end)
            with contextlib.suppress(ConnectionResetError):
                receive_end(end)
            attempt.result = "cut"

    def intrude(self, chance: random.Random) -> None:
        """A client that may use nothing, asking for what exists and for what does not."""
        attempt = self._attempt(chance.choice(["http.cart.shop", "http.bank.shop", "http.no.shop"]), "odd", "intrude")
        with self._judged(attempt), self._dial(attempt):
            attempt.result = "complete"

    def knock(self, chance: random.Random) -> None:
        """Not a request at all."""
        attempt = self._attempt("", chance.choice(["web-0", "web-1"]), "knock")
        request = chance.choice([b"GET / HTTP/1.1\r\n\r\n", b"\x01\x00", b"\x01\x03a.b", b"\xff" * 300])
        enough = len(_HTTP_MALFORMED) if request.startswith(b"GET") else 2  # each protocol refuses in its own words
        with self._judged(attempt), self._raw(attempt, request) as end:
            reply = b""
            with contextlib.suppress(ConnectionResetError):
                while part := read(end, enough - len(reply)):
                    reply += part
            attempt.result = _name_of(reply)

    def _attempt(self, service: str, pod: str, doing: str) -> Attempt:
        attempt = Attempt(next(self._numbers), service, pod, doing, time.monotonic())
        self.attempts.append(attempt)
        return attempt

    @contextlib.contextmanager
    def _judged(self, attempt: Attempt) -> Iterator[None]:
        try:
            yield
        except meshless_sdk.ConnectError as refused:
            attempt.result = refused.name
        except meshless_sdk.AgentUnavailable as error:
            attempt.result = "silent" if not error.errno else f"error: {error}"
        except meshless_sdk.HandshakeTimeout as error:
            attempt.result = f"stuck: {error}"
        except WrongBytesError as error:
            attempt.result = f"wrong: {error}"
        except ShortError as error:
            attempt.result = f"short: {error}"
        except StuckError as error:
            attempt.result = f"stuck: {error}"
        except TimeoutError:
            attempt.result = "stuck: sending"
        except OSError as error:
            attempt.result = f"error: {error.strerror or error}"
        finally:
            attempt.ended = time.monotonic()

    def _dial(self, attempt: Attempt) -> socket.socket:
        path = self.mesh.client_path(attempt.pod)
        end = meshless_sdk.connect(attempt.service, path=path, connect_timeout=SECONDS, handshake_timeout=SECONDS)
        end.settimeout(SECONDS)
        return end

    def _raw(self, attempt: Attempt, request: bytes) -> socket.socket:
        end = socket.socket(socket.AF_UNIX)
        try:
            end.settimeout(SECONDS)
            end.connect(self.mesh.client_path(attempt.pod))
            with contextlib.suppress(BrokenPipeError):  # answered before it was read: the reply is there
                end.sendall(request)
        except BaseException:
            end.close()
            raise
        return end

    def _greet(self, attempt: Attempt, end: socket.socket) -> None:
        pod, attempt.server_pid = GREETING.unpack(receive_exactly(end, GREETING.size))
        attempt.server = pod.rstrip(b"\0").decode()

    # --- faults ------------------------------------------------------------------------------------------------------

    def rage(self, seconds: float) -> None:
        """Faults of every kind, in random order, for so long."""
        kinds: list[Callable[[], None]] = [self._kill_agent, self._kill_pod, self._edit, self._edit, self._spoil]
        self._crashes = True
        deadline = time.monotonic() + seconds
        turn: list[Callable[[], None]] = []
        while time.monotonic() < deadline:
            if not turn:
                turn = kinds.copy()
                self._chance.shuffle(turn)
            turn.pop()()
            self._stop.wait(self._chance.uniform(0.1, 0.9))  # nothing sets it now: the pace of the storm

    def calm(self) -> None:
        """No more faults, and the file as it was at the beginning."""
        self._crashes = False
        self.world = World()
        self.mesh.edit(self.world.text())

    def _kill_agent(self) -> None:
        node = self._chance.choice([node for node in ("node-a", "node-b", "node-c") if node != self.survivor])
        began = time.monotonic()
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it has not come back from the last time yet
            pid = self.mesh.agent(node).kill()
            self.faults.append(Fault("agent", node, began, time.monotonic(), pid))

    def _kill_pod(self) -> None:
        alive = [row for row in self.log("start") if not gone(row["pid"])]
        if not alive:
            return
        row = self._chance.choice(alive)
        began = time.monotonic()
        with contextlib.suppress(ProcessLookupError):
            os.kill(row["pid"], signal.SIGKILL)
        self.faults.append(Fault("pod", row["pod"], began, time.monotonic(), row["pid"]))

    def _edit(self) -> None:
        world, chance = self.world, self._chance
        match chance.randrange(3):
            case 0:
                world.v1, world.v2 = chance.choice([(90, 10), (50, 50), (100, 0), (0, 100), (1, 99)])
            case 1:
                world.allowed = "nobody" if world.allowed == "web" else "web"
            case _:
                name = chance.choice(["cart-v1", "cart-v2", "bank"])
                world.replicas[name] = chance.choice([n for n in (0, 1, 2) if n != world.replicas[name]])
        began = time.monotonic()
        self.mesh.edit(world.text())
        self.faults.append(Fault("edit", f"{world.v1}/{world.v2} {world.allowed} {world.replicas}", began, time.monotonic()))

    def _spoil(self) -> None:
        """A file half written: has to change nothing."""
        began = time.monotonic()
        text = self.world.text()
        self.mesh.file.write_text(text[: self._chance.randrange(len(text) // 2, len(text))].rstrip() + "\n  - {")
        self.faults.append(Fault("edit", "half a file", began, time.monotonic()))

    # --- what servers wrote ------------------------------------------------------------------------------------------

    def log(self, *events: str) -> list[dict[str, Any]]:
        """Lines of all servers' logs of these events."""
        rows = []
        for path in sorted(Path(self.mesh.folder / "servers").iterdir()):
            rows += [json.loads(line) for line in path.read_text().splitlines()]
        return [row for row in rows if row["event"] in events]


def _exchange(end: socket.socket, number: int, up: int, down: int, order: Order, pause: float) -> str:
    """The client's part; returns the result if nothing raised."""
    match order:
        case Order.ACKNOWLEDGED:
            send(end, number, "u", up)
            receive(end, number, "d", down, pause=pause)
            end.sendall(b"!")
            end.shutdown(socket.SHUT_WR)
            receive_end(end)
        case Order.CLIENT_FIRST:
            send(end, number, "u", up)
            end.shutdown(socket.SHUT_WR)
            receive(end, number, "d", down, pause=pause)
            receive_end(end)
        case Order.SERVICE_FIRST:
            receive(end, number, "d", down, pause=pause)
            receive_end(end)
            send(end, number, "u", up)
            end.shutdown(socket.SHUT_WR)
        case Order.BOTH:
            sender = threading.Thread(target=_send_and_end, args=(end, number, up))
            sender.start()
            try:
                receive(end, number, "d", down, pause=pause)
                receive_end(end)
            finally:
                sender.join()
        case Order.CRASH:
            send(end, number, "u", up)
            receive_end(end)
            return "cut"
        case Order.LEAVE:
            send(end, number, "u", up // 2)
            return "left"
    return "complete"


def _send_and_end(end: socket.socket, number: int, size: int) -> None:
    with contextlib.suppress(OSError, StuckError):  # whoever does not get it says so
        send(end, number, "u", size)
        end.shutdown(socket.SHUT_WR)


def _name_of(reply: bytes) -> str:
    """The name of a raw reply's code."""
    if len(reply) < 2:
        return "silent" if not reply else f"wrong: half a reply {reply!r}"
    if reply == _HTTP_MALFORMED:
        return meshless_sdk.MalformedRequest.name
    names = {cls.code: cls.name for cls in meshless_sdk.ConnectError.__subclasses__()}
    return names.get(reply[1], f"wrong: reply {reply!r}")
