"""Go programs beside a mesh of real parts: the fixture that `tests/agent` has."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def _of_agent_tests() -> object:
    # by path: with importlib import mode a conftest has no name that could be imported
    spec = importlib.util.spec_from_file_location("sdk_go_mesh", ROOT / "tests" / "agent" / "conftest.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


_mesh = _of_agent_tests()
make_mesh = _mesh.make_mesh  # type: ignore[attr-defined]  # a fixture, loaded by path
shop = _mesh.shop  # type: ignore[attr-defined]  # a fixture, loaded by path


@pytest.fixture(scope="session")
def go() -> tuple[str, dict[str, str]]:
    """The go command and an environment in which it downloads nothing."""
    found = shutil.which("go")
    if found is None:
        pytest.skip("needs the go command, 1.21 or newer (Debian 12 has an older one); sh .ci/install-go .venv brings one")
    return found, {**os.environ, "GOPROXY": "off", "GOTOOLCHAIN": "local", "GOFLAGS": "-mod=mod", "GOWORK": "off"}


@pytest.fixture(scope="session")
def programs(go: tuple[str, dict[str, str]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the example's `client` and `server`, built."""
    command, environment = go
    folder = tmp_path_factory.mktemp("go")
    built = subprocess.run(
        [command, "build", "-race", "-o", str(folder), "./client", "./server"],
        cwd=ROOT / "examples" / "20-go",
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert built.returncode == 0, built.stderr
    return folder
