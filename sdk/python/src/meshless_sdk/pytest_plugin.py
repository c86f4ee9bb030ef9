"""Fixtures for applications' tests: a fake agent in the process, and a small real mesh.

    def test_checkout(meshless_agent):                 # FakeAgent: what is dialled, and what is heard, is a script
        meshless_agent.refuse("sql.db.shop", "NO_ENDPOINT")

    def test_through_the_mesh(meshless_mesh):          # `meshless dev`: real agents, policy and certificates
        mesh = meshless_mesh(SHOP_YAML)
        with meshless_sdk.connect("http.cart.shop", path=mesh.client("shop", "web")) as connection:
            ...

pytest loads this by its entry point wherever `meshless-sdk` is installed, so it imports next to nothing. The mesh needs the
distribution `meshless` in the same environment.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from meshless_sdk.testing import FakeAgent

__all__ = ["Mesh", "meshless_agent", "meshless_mesh"]

_START_SECONDS = 45.0
_STOP_SECONDS = 30.0


class Mesh:
    """A running `meshless dev`.

    Attributes:
        directory: its run directory; `pods/<namespace>/<pod>` is what a pod has as `/meshlet`.
    """

    def __init__(self, directory: str) -> None:
        self.directory = directory

    def pod(self, namespace: str, pod: str) -> str:
        """A pod's folder: what to set `MESHLESS_DIR` to for a program that plays the pod."""
        return os.path.join(self.directory, "pods", namespace, pod)

    def client(self, namespace: str, pod: str) -> str:
        """The agent's socket in a pod: the `path` of a dial."""
        return os.path.join(self.pod(namespace, pod), "client", "meshless")

    def server(self, namespace: str, pod: str, service: str) -> str:
        """The socket of a pod's server: the `path` to listen on."""
        return os.path.join(self.pod(namespace, pod), "server", service)


@pytest.fixture
def meshless_agent() -> Iterator[FakeAgent]:
    """A `meshless_sdk.testing.FakeAgent`; `MESHLESS_DIR` names its folder during the test."""
    from meshless_sdk.testing import FakeAgent

    with FakeAgent() as agent:
        yield agent


@pytest.fixture(scope="session")
def meshless_mesh() -> Iterator[Callable[[str], Mesh]]:
    """Start a real mesh from the text of a YAML file with Meshlets and Pods, as for `meshless dev`.

    The same text gives the same mesh, which runs until the end of the session: starting one takes seconds.
    """
    running: dict[str, tuple[Mesh, subprocess.Popen[str]]] = {}
    with tempfile.TemporaryDirectory(prefix="meshless-") as folder:

        def start(text: str) -> Mesh:
            if text not in running:
                running[text] = _start(tempfile.mkdtemp(prefix="", dir=folder), text)
            return running[text][0]

        yield start
        for _, process in running.values():
            process.send_signal(signal.SIGINT)
        for _, process in running.values():
            process.communicate(timeout=_STOP_SECONDS)


def _start(folder: str, text: str) -> tuple[Mesh, subprocess.Popen[str]]:
    file, run, log = (os.path.join(folder, name) for name in ("mesh.yaml", "run", "mesh.log"))
    with open(file, "w", encoding="utf-8") as stream:
        stream.write(text)
    command = [sys.executable, "-m", "meshless_core.cli", "dev", file, "--run-dir", run]
    path = f"{os.path.dirname(sys.executable)}{os.pathsep}{os.environ.get('PATH', '')}"
    with open(log, "w", encoding="utf-8") as stream:
        environment = {**os.environ, "PATH": path}
        process = subprocess.Popen(  # noqa: S603 - our own command line, run by this interpreter
            command, stdout=subprocess.PIPE, stderr=stream, text=True, env=environment
        )
    assert process.stdout is not None
    giving_up = threading.Timer(_START_SECONDS, process.kill)
    giving_up.start()
    try:
        ready = process.stdout.readline().strip() == "ready"
    except BaseException:  # the test run was interrupted: nobody else knows the mesh
        process.kill()
        raise
    finally:
        giving_up.cancel()
    if not ready:
        process.kill()
        process.communicate()
        with open(log, encoding="utf-8") as stream:
            said = stream.read()
        pytest.fail(f"the mesh did not start in time; is the distribution meshless installed beside meshless-sdk?\n{said}")
    wrong = _problems(os.path.join(run, "status.json"))
    if wrong:
        process.send_signal(signal.SIGINT)  # it runs, and has agents to end
        process.communicate(timeout=_STOP_SECONDS)
        pytest.fail("the text of the mesh is wrong:\n" + "\n".join(wrong))
    return Mesh(run), process


def _problems(status: str) -> list[str]:
    """What the reconciler leaves out of the mesh, which would be a refusal that nobody understands later."""
    with open(status, encoding="utf-8") as stream:
        problems = json.load(stream)["problems"]
    return [f"{problem['path']}: {problem['message']}" for problem in problems]
