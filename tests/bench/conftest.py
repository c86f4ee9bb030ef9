from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.load_program import Load, build
from bench.processes import Process, free_port, wait_until_accepting
from bench.programs import CC


@pytest.fixture(scope="session")
def load(tmp_path_factory: pytest.TempPathFactory) -> Load:
    if CC.find() is None:
        pytest.skip("no C compiler: apt-get install gcc libc6-dev")
    return build(install=False, say=lambda _: None, binary=tmp_path_factory.mktemp("bin") / "load")


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder with a short path: a Unix socket's address has room for 107 bytes."""
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        yield Path(name)


@pytest.fixture(params=["unix", "tcp"])
def served(request: pytest.FixtureRequest, load: Load, folder: Path) -> Iterator[str]:
    """The address of a running `load serve`."""
    address = f"unix:{folder}/server" if request.param == "unix" else f"tcp:127.0.0.1:{free_port()}"
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(Process("load serve", load.serve_command(address), folder / "log"))
        wait_until_accepting(address, server)
        yield address
