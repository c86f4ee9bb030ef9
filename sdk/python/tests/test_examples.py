"""The examples work: programs of their own, through a real mesh."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from meshless_sdk.pytest_plugin import Mesh

EXAMPLES = Path(__file__).parents[3] / "examples"
pytestmark = pytest.mark.slow


@pytest.fixture
def mesh(meshless_mesh: Callable[[str], Mesh]) -> Mesh:
    return meshless_mesh((EXAMPLES / "10-dial" / "shop.yaml").read_text("utf-8"))


def environment(mesh: Mesh, pod: str) -> dict[str, str]:
    return {**os.environ, "MESHLESS_DIR": mesh.pod("shop", pod)}


@contextmanager
def serving(mesh: Mesh, example: str) -> Iterator[None]:
    program = subprocess.Popen(
        [sys.executable, str(EXAMPLES / example)], env=environment(mesh, "cart"), stdout=subprocess.PIPE, text=True
    )
    with program:
        while not os.path.exists(mesh.server("shop", "cart", "http")):
            assert program.poll() is None
        yield
        program.send_signal(signal.SIGTERM)
        assert program.communicate(timeout=30)[0] == "cut 0\n"
    assert program.returncode == 0


def run(mesh: Mesh, example: str) -> str:
    command = [sys.executable, str(EXAMPLES / example)]
    return subprocess.run(command, env=environment(mesh, "web"), check=True, capture_output=True, text=True).stdout


@pytest.mark.parametrize("server", ["12-serve-with-threads/thread_server.py", "13-serve-with-asyncio/asyncio_server.py"])
def test_dialling_echoes_and_is_refused(mesh: Mesh, server: str) -> None:
    with serving(mesh, server):
        assert run(mesh, "10-dial/dial.py") == "echoed: a loaf of bread\nrefused: ACCESS_DENIED final\n"


@pytest.mark.parametrize(
    ("server", "kind"), [("14-serve-asgi/asgi_server.py", "ASGI"), ("15-serve-wsgi/wsgi_server.py", "WSGI")]
)
def test_every_http_library_reaches_either_kind_of_application(mesh: Mesh, server: str, kind: str) -> None:
    with serving(mesh, server):
        seen = run(mesh, "11-http-clients/clients.py").splitlines()
    assert seen == [f"{name}: hello from {kind}" for name in ("httpx", "requests", "urllib3", "httpx, async", "aiohttp")]


def test_the_tests_of_an_application_pass() -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-c", os.devnull, "--rootdir=.", "."]
    done = subprocess.run(command, cwd=EXAMPLES / "16-test-an-application", capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert "4 passed" in done.stdout
