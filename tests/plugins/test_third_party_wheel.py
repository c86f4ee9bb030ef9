"""A stranger's plugin: its own folder, built as a wheel, installed beside the core's wheel into a fresh environment, loaded."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[2]

PYPROJECT = """\
[build-system]
requires = ["hatchling>=1.27"]
build-backend = "hatchling.build"

[project]
name = "acme-quarantine"
version = "3.1"
dependencies = ["meshless"]

[project.entry-points."meshless.plugins"]
acme_quarantine = "acme_quarantine"
"""

MODULE = '''\
"""Puts a namespace into quarantine."""
import attrs
from meshless_core import AuthorizerSpec, Decision, Verdict, hookimpl

@attrs.frozen
class Options:
    namespace: str = "quarantine"

class Quarantine:
    def __init__(self, options: Options) -> None:
        self._namespace = options.namespace

    async def authorize(self, request):
        if request.source.namespace == self._namespace:
            return Decision(Verdict.DENY, "quarantine", f"namespace {self._namespace} is in quarantine")
        return Decision(Verdict.ABSTAIN, "quarantine", "not in quarantine")

@hookimpl
def meshless_register_authorizer() -> AuthorizerSpec:
    return AuthorizerSpec(api=1, options=Options, create=Quarantine)
'''

ASK = """
import asyncio
from meshless_core import AuthorizationRequest, MeshletRef, ServiceId
from meshless_core.config import load_config
from meshless_core.plugins import load_plugins
((name, authorizer),) = load_plugins(load_config("meshless.yaml")).authorizers()
request = AuthorizationRequest(MeshletRef("lab", "a"), None, ServiceId("s", "m", "n"), True, True, None, "client")
print(name, asyncio.run(authorizer.authorize(request)).reason)
"""


def run(*command: str | Path, cwd: Path) -> str:
    done = subprocess.run([str(part) for part in command], cwd=cwd, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_example_keeps_the_promised_size() -> None:
    assert len(PYPROJECT.splitlines()) <= 12
    assert len(MODULE.splitlines()) <= 25


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_a_wheel_from_another_folder_is_loaded_in_a_fresh_environment(tmp_path: Path) -> None:
    uv = Path(sys.executable).with_name("uv")
    assert uv.exists(), "uv belongs to the development environment: run make setup"
    plugin = tmp_path / "elsewhere" / "acme_quarantine"
    plugin.mkdir(parents=True)
    (plugin.parent / "pyproject.toml").write_text(PYPROJECT)
    (plugin / "__init__.py").write_text(MODULE)
    core = tmp_path / "core"
    core.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(PROJECT / name, core)
    shutil.copytree(PROJECT / "meshless_core", core / "meshless_core", ignore=shutil.ignore_patterns("__pycache__"))
    # The build back end comes from uv's cache, where `make setup` put it; the libraries from the running environment.
    for folder in (plugin.parent, core):
        run(
            uv,
            "build",
            "--quiet",
            "--wheel",
            "--python",
            sys.executable,
            "--out-dir",
            tmp_path / "wheels",
            folder,
            cwd=tmp_path,
        )
    run(uv, "venv", "--quiet", "--python", sys.executable, tmp_path / "fresh", cwd=tmp_path)
    python = tmp_path / "fresh" / "bin" / "python"
    wheels = sorted((tmp_path / "wheels").glob("*.whl"))
    assert [wheel.name.split("-")[0] for wheel in wheels] == ["acme_quarantine", "meshless"]
    run(uv, "pip", "install", "--quiet", "--offline", "--no-deps", "--python", python, *wheels, cwd=tmp_path)
    site = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=tmp_path).strip())
    (site / "libraries.pth").write_text(sysconfig.get_path("purelib") + "\n")

    where = run(python, "-c", "import meshless_core; print(meshless_core.__file__)", cwd=tmp_path)
    assert where.startswith(str(site)), "the core under test is the wheel's"
    (tmp_path / "meshless.yaml").write_text("plugins:\n  acme_quarantine: {namespace: lab}\n  handshake_v1: {}\n")
    meshless = tmp_path / "fresh" / "bin" / "meshless"
    listed = json.loads(
        run(meshless, "plugins", "--config", "meshless.yaml", "--role", "none", "--output", "json", cwd=tmp_path)
    )
    assert listed[0] == {
        "kind": "authorizer",
        "name": "acme_quarantine",
        "distribution": "acme-quarantine",
        "version": "3.1",
        "order": 1,
        "options": {"namespace": "lab"},
    }
    (tmp_path / "one.yaml").write_text("plugins: {acme_quarantine: {}}\n")
    assert run(python, "-c", ASK.replace("meshless.yaml", "one.yaml"), cwd=tmp_path) == "acme_quarantine not in quarantine\n"
    (tmp_path / "one.yaml").write_text("plugins: {acme_quarantine: {namespace: lab}}\n")
    assert "namespace lab is in quarantine" in run(python, "-c", ASK.replace("meshless.yaml", "one.yaml"), cwd=tmp_path)
