"""The mesh in a minute: shares, a refusal, failover, an identity, and why.

Starts `meshless dev` on shop.yaml beside this file, dials `http.cart.shop` as the pod `web`, and ends with a table of what was
seen. Exits with 1 if anything was not as promised.
"""

from __future__ import annotations

import collections
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import meshless_sdk
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

HERE = Path(__file__).parent
SERVICE = "http.cart.shop"
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
        process.wait(30)


def socket_of(run: Path, pod: str) -> str:
    return str(run / "pods" / "shop" / pod / "client" / "meshless")


def dial(run: Path, pod: str = "web") -> str:
    """One connection: what the cart said about itself, after an echo came back whole."""
    with meshless_sdk.connect(SERVICE, path=socket_of(run, pod)) as connection, connection.makefile("rwb") as stream:
        who = stream.readline().decode().strip()
        stream.write(b"a loaf of bread\n")
        stream.flush()
        if stream.readline() != b"a loaf of bread\n":
            raise AssertionError(f"{who} garbled the order")
        return who


def shares(run: Path, connections: int, title: str) -> collections.Counter[str]:
    seen: collections.Counter[str] = collections.Counter()
    with Progress(console=console, transient=True) as progress:
        for _ in progress.track(range(connections), description=title):
            seen[dial(run).split()[0]] += 1
    return seen


def keep_dialing(run: Path, during: Callable[[], None], seconds: float) -> tuple[int, collections.Counter[str]]:
    """Dial without a pause on four threads while something happens: how often it worked, and the codes of what did not."""
    served, refused, stop = [0], collections.Counter[str](), threading.Event()

    def client() -> None:
        while not stop.is_set():
            try:
                dial(run)
                served[0] += 1
            except meshless_sdk.ConnectError as error:
                refused[type(error).__name__] += 1

    threads = [threading.Thread(target=client) for _ in range(4)]
    for thread in threads:
        thread.start()
    time.sleep(seconds / 4)  # the clients dial meanwhile: before it happens ...
    during()
    time.sleep(seconds * 3 / 4)  # ... and after
    stop.set()
    for thread in threads:
        thread.join()
    return served[0], refused


def pid_of_pod(run: Path, pod: str) -> int:
    for environ in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):
            variables = environ.read_bytes().split(b"\0")
            if f"POD_NAME={pod}".encode() in variables and f"MESHLESS_DIR={run}/pods/shop/{pod}".encode() in variables:
                return int(environ.parent.name)
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
        deadline = time.monotonic() + 5
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
            served, refused = keep_dialing(run, lambda: os.kill(pid_of_pod(run, "cart-v1-0"), signal.SIGKILL), 2)
        results.append(
            ("a pod is killed", f"{served} served, {sum(refused.values())} refused {dict(refused) or ''}", not refused)
        )

        agent = int((run / "nodes" / "node-b" / "agent.pid").read_text())
        with console.status("killing an agent while four clients dial ..."):
            served, refused = keep_dialing(run, lambda: os.kill(agent, signal.SIGKILL), 3)
        results.append(
            (
                "the other node's agent is killed",
                f"{served} served, {sum(refused.values())} refused {dict(refused) or ''}",
                not refused,
            )
        )
        agent = int((run / "nodes" / "node-a" / "agent.pid").read_text())
        os.kill(agent, signal.SIGKILL)
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
    console.print(f"{time.monotonic() - began:.0f} s in all; nothing is left running")
    return 0 if all(kept for *_, kept in results) else 1


if __name__ == "__main__":
    sys.exit(main())
