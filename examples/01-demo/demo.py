"""The mesh in a minute: shares, a refusal, failover, an identity, and why.

Starts `meshless dev` on shop.yaml beside this file, dials `http.cart.shop` as the pod `web`, and ends with a table of what was
seen. Exits with 1 if anything was not as promised.
"""

from __future__ import annotations

import collections
import contextlib
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

import meshless_sdk
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

HERE = Path(__file__).parent
SERVICE = "http.cart.shop"
CARTS = (b"v1 cart-v1-0\n", b"v2 cart-v2-0\n", b"v1 cart-reserve-0\n")  # how each pod greets
ORDER = b"a loaf of bread\n"
PATIENCE = 60.0  # seconds; a busy machine is slow, not broken
console = Console()


def meshless(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "meshless_core.cli", *arguments]


@contextlib.contextmanager
def mesh(folder: Path) -> Iterator[Path]:
    """A running mesh; yields its run directory."""
    for name in ("shop.yaml", "cart.py"):
        shutil.copy(HERE / name, folder)
    run = folder / "run"
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    process = subprocess.Popen(
        meshless("dev", str(folder / "shop.yaml"), "--run-dir", str(run)),
        stdout=subprocess.PIPE,
        stderr=(folder / "mesh.log").open("w"),
        text=True,
        env=environment,
    )
    try:
        assert process.stdout is not None
        if process.stdout.readline().strip() != "ready":
            raise SystemExit(f"the mesh did not start:\n{(folder / 'mesh.log').read_text()}")
        yield run
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(PATIENCE)


def socket_of(run: Path, pod: str) -> str:
    return str(run / "pods" / "shop" / pod / "client" / "meshless")


class CutError(Exception):
    """A connection that stood ended too early: what happens when its pod, or an agent it runs through, is killed."""


class GarbledError(Exception):
    """Something else came than was sent. There is no excuse for that."""


def read_line(stream: IO[bytes], *expected: bytes) -> bytes:
    """A line, which has to be one of these; the begin of one and then the end is a cut."""
    line = stream.readline()
    if line in expected:
        return line
    if any(known.startswith(line) for known in expected):
        raise CutError(f"ended after {line!r}")
    raise GarbledError(f"{line!r} instead of {b' or '.join(expected)!r}")


def dial(run: Path, pod: str = "web") -> str:
    """One connection: what the cart said about itself, after an echo came back whole."""
    connection = meshless_sdk.connect(SERVICE, path=socket_of(run, pod), handshake_timeout=PATIENCE)
    connection.settimeout(PATIENCE)
    with connection, connection.makefile("rb") as stream:
        try:
            who = read_line(stream, *CARTS)
            connection.sendall(ORDER)
            read_line(stream, ORDER)
        except (ConnectionResetError, BrokenPipeError) as error:
            raise CutError(error.strerror) from error
        return who.decode().strip()


def shares(run: Path, connections: int, title: str) -> collections.Counter[str]:
    seen: collections.Counter[str] = collections.Counter()
    with Progress(console=console, transient=True) as progress:
        for _ in progress.track(range(connections), description=title):
            seen[dial(run).split()[0]] += 1
    return seen


class Dialing:
    """Four clients that dial without a pause while something is killed, and what became of every connection."""

    def __init__(self, run: Path) -> None:
        self.before: collections.Counter[str] = collections.Counter()
        """How connections ended that were opened before the kill was over: served, cut, cut for no reason, a refusal."""
        self.after: collections.Counter[str] = collections.Counter()
        """The same of those opened later, whom nothing excuses."""
        self.failure: BaseException | None = None
        """What a client did not expect."""
        self._run = run
        self._begun = self._over = False
        self._stop = threading.Event()
        self._lock = threading.Lock()

    def during(self, kill: Callable[[], None], seconds: float) -> Dialing:
        """Dial for a while, kill, and dial on for so many seconds and until many have been served since."""
        threads = [threading.Thread(target=self._client) for _ in range(4)]
        for thread in threads:
            thread.start()
        try:
            self._wait(lambda: self.before["served"] >= 100)
            self._begun = True
            kill()
            self._over = True
            self._stop.wait(seconds)
            self._wait(lambda: self.after["served"] >= 100)
        finally:
            self._stop.set()
            for thread in threads:
                thread.join()
        if self.failure is not None:
            raise self.failure
        return self

    def _client(self) -> None:
        while not self._stop.is_set():
            seen = self.after if self._over else self.before
            try:
                dial(self._run)
                end = "served"
            except meshless_sdk.ConnectError as error:
                end = type(error).__name__
            except CutError:
                end = "cut" if self._begun and seen is self.before else "cut for no reason"
            except BaseException as error:  # noqa: BLE001 - it is raised again, by `during`
                self.failure = error
                self._stop.set()
                return
            with self._lock:
                seen[end] += 1

    def _wait(self, holds: Callable[[], bool]) -> None:
        deadline = time.monotonic() + PATIENCE
        while not holds() and not self._stop.wait(0.01):
            if time.monotonic() > deadline:
                raise SystemExit(f"nobody is served any more; before the kill: {self.before}, after it: {self.after}")

    @property
    def seen(self) -> str:
        """For the table."""
        total = self.before + self.after
        served, cut, unexcused = (total.pop(end, 0) for end in ("served", "cut", "cut for no reason"))
        refused = f"{total.total()} refused" + (f" {dict(total)}" if total else "")
        return f"{served} served, {refused}, {cut + unexcused} cut" + (f", {unexcused} for no reason" if unexcused else "")

    @property
    def kept(self) -> bool:
        """Whether only connections that stood were cut, and every other one was served."""
        return set(self.before + self.after) <= {"served", "cut"}


def kill(pid: int) -> None:
    """Kill a process; it is over when this returns, and so are its connections."""
    descriptor = os.pidfd_open(pid)
    try:
        signal.pidfd_send_signal(descriptor, signal.SIGKILL)
        select.select([descriptor], [], [])
    finally:
        os.close(descriptor)


def pid_of_pod(run: Path, pod: str) -> int:
    """The cart itself, whose connections end with it: its parent, the first process of the pod, has the same environment."""
    parents: dict[int, int] = {}
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            variables = (process / "environ").read_bytes().split(b"\0")
            if f"POD_NAME={pod}".encode() in variables and f"MESHLESS_DIR={run}/pods/shop/{pod}".encode() in variables:
                parents[int(process.name)] = int((process / "stat").read_bytes().rpartition(b")")[2].split()[1])
    for pid, parent in parents.items():
        if parent in parents:
            return pid
    raise SystemExit(f"no process of pod {pod}")


def main() -> int:
    began = time.monotonic()
    results: list[tuple[str, str, bool]] = []
    with tempfile.TemporaryDirectory(prefix="meshless-demo-") as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        with console.status("starting three nodes: agents, reconciler, certificates, pods ..."):
            run = stack.enter_context(mesh(folder))
        console.print(
            f"[bold]three nodes are up[/] after {time.monotonic() - began:.1f} s; web runs on node-a, the cart elsewhere"
        )

        seen = shares(run, 500, "500 connections through weights 90/10")
        share = seen["v2"] / 500
        results.append(
            ("canary 90/10, 500 connections", f"v1 {seen['v1']}, v2 {seen['v2']} ({share:.1%})", abs(share - 0.1) <= 0.01)
        )

        file = folder / "shop.yaml"
        file.write_text(file.read_text().replace("{version: v2, weight: 10}", "{version: v2, weight: 0}"))
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline and "v2" in {dial(run).split()[0] for _ in range(20)}:
            pass
        seen = shares(run, 100, "100 connections after the file was edited: v2 has weight 0")
        results.append(("file edited: v2 weight 0", f"v1 {seen['v1']}, v2 {seen['v2']}", seen["v2"] == 0))

        try:
            refusal = f"was served by {dial(run, 'stranger')}"
        except meshless_sdk.ConnectError as error:
            refusal = f"{error.name} ({error.code})"
        results.append(("stranger dials the cart", refusal, refusal.startswith("ACCESS_DENIED")))

        with console.status("killing a pod while four clients dial ..."):
            dialing = Dialing(run).during(lambda: kill(pid_of_pod(run, "cart-v1-0")), seconds=1.5)
        results.append(("a pod is killed", dialing.seen, dialing.kept))

        agent = int((run / "nodes" / "node-b" / "agent.pid").read_text())
        with console.status("killing an agent while four clients dial ..."):
            dialing = Dialing(run).during(lambda: kill(agent), seconds=2)
        results.append(("the other node's agent is killed", dialing.seen, dialing.kept))

        kill(int((run / "nodes" / "node-a" / "agent.pid").read_text()))
        waited = time.monotonic()
        who = dial(run)
        results.append(
            ("our own agent is killed", f"the next connect waited {time.monotonic() - waited:.1f} s for {who}", True)
        )

        leaf = next((run / "nodes" / "node-a" / "state" / "leaves" / "web.shop").glob("*.crt"))
        shown = subprocess.run(
            meshless("ca", "show", str(leaf), "--output", "json"), capture_output=True, text=True, check=True
        )
        certificate = json.loads(shown.stdout)[0]
        identity = certificate["subject"]
        results.append(
            (
                "the certificate web presents",
                f"{identity}, {certificate['remaining']} left",
                identity == "spiffe://mesh.local/ns/shop/meshlet/web",
            )
        )

        console.print("\n[bold]$ meshless explain shop/web http.cart.shop[/]")
        explained = subprocess.run(meshless("explain", "--run-dir", str(run), "shop/web", SERVICE), check=False)
        results.append(("explain", "the chain above: who decided what, and why", explained.returncode == 0))

    table = Table(title="what was seen", title_justify="left")
    table.add_column("promise")
    table.add_column("seen", overflow="fold")
    table.add_column("")
    for promise, what, kept in results:
        table.add_row(promise, what, "[green]kept[/]" if kept else "[red]broken[/]")
    console.print()
    console.print(table)
    console.print("cut: a connection ends with its pod, or with an agent it runs through; what is opened after that is served")
    console.print(f"{time.monotonic() - began:.0f} s in all; nothing is left running")
    return 0 if all(kept for *_, kept in results) else 1


if __name__ == "__main__":
    sys.exit(main())
