"""Plugins that misbehave, in a mesh of processes: a no while it runs, and at the start an error a newcomer can act on."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import meshless_sdk
import pytest

from meshless_core.config import DEFAULT_PLUGINS
from tests.mesh.running_mesh import RunningMesh, until

MOODY = '''
"""An authorizer of a stranger's: what it does depends on the service that is asked for."""
import asyncio, time
import attrs
from meshless_core import AuthorizerSpec, Decision, Verdict, hookimpl

@attrs.frozen
class Options:
    pass

class Moody:
    def __init__(self, options):
        pass
    async def authorize(self, request):
        match request.target.service:
            case "raise": raise RuntimeError("moody today")
            case "exit": raise SystemExit(3)
            case "cancel": raise asyncio.CancelledError
            case "hang": await asyncio.sleep(3600)
            case "block": time.sleep(2)
            case "nonsense": return True
            case "late":
                await asyncio.sleep(2)
        return Decision(Verdict.ALLOW, "moody", "why not")

@hookimpl
def meshless_register_authorizer():
    return AuthorizerSpec(api=1, options=Options, create=Moody)
'''
MOODS = ("raise", "exit", "cancel", "hang", "block", "nonsense", "late")

HANDSHAKES = [name for name in DEFAULT_PLUGINS if name.startswith("handshake_")]
"""The one kind of which the default set has several: a mesh works without any one of them, but not without all."""

OBJECTS = """
apiVersion: meshless.dev/v1
kind: Meshlet
metadata: {namespace: shop, name: web}
spec: {client: [CLIENT]}
---
apiVersion: meshless.dev/v1
kind: Meshlet
metadata: {namespace: shop, name: cart}
spec: {server: {selector: {app: cart}, services: [SERVER]}}
---
apiVersion: v1
kind: Pod
metadata: {namespace: shop, name: web-0, labels: {meshless/meshlet: web}}
spec: {nodeName: node-a}
---
apiVersion: v1
kind: Pod
metadata: {namespace: shop, name: cart-0, labels: {meshless/meshlet: cart, app: cart}}
spec: {nodeName: node-a}
""".replace("CLIENT", ", ".join(f"{{namespace: shop, meshlet: cart, service: {name}}}" for name in (*MOODS, "fine"))).replace(
    "SERVER", ", ".join(f"{{name: {name}}}" for name in (*MOODS, "fine"))
)


def install(folder: Path, module: str, text: str, plugin: str) -> None:
    """A distribution as pip leaves it: the module and its `.dist-info`."""
    (folder / f"{module}.py").write_text(text)
    info = folder / f"{module}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module.replace('_', '-')}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[meshless.plugins]\n{plugin} = {module}\n")


def plugins(*names: str) -> str:
    return "plugins:\n" + "".join(f"  {name}: {{}}\n" for name in names)


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningMesh]:
    folder = tmp_path_factory.mktemp("moody")
    site = folder / "site"
    site.mkdir()
    install(site, "acme_moody", MOODY, "moody")
    config = "agent: {authorize_timeout: 300ms}\n" + plugins(*DEFAULT_PLUGINS, "moody")
    with RunningMesh(folder, OBJECTS, config=config, environment={"PYTHONPATH": str(site)}) as running:
        yield running


def served(mesh: RunningMesh) -> socket.socket | None:
    """A connection to the service it has nothing against; None while it denies that too."""
    try:
        return mesh.dial("fine.cart.shop", "web-0")
    except meshless_sdk.AccessDenied:
        return None


@pytest.mark.slow
@pytest.mark.parametrize("mood", MOODS)
def test_an_authorizer_that_fails_means_no_stops_no_data_and_the_agent_lives(mesh: RunningMesh, mood: str) -> None:
    agent = mesh.agent("node-a")
    pid = agent.pid
    with mesh.listen("cart-0", "fine") as listener, mesh.listen("cart-0", mood):
        live = until(partial(served, mesh), "a connection before it fails")
        service, _ = listener.accept()
        with live, service:
            with pytest.raises(meshless_sdk.AccessDenied):
                mesh.dial(f"{mood}.cart.shop", "web-0")
            service.settimeout(30)
            live.sendall(b"still here")
            assert service.recv(10) == b"still here"
        until(partial(served, mesh), "a connection after it failed").close()
    assert agent.pid == pid
    [*_, refusal] = until(lambda: [e for e in agent.access_log() if e.get("service") == f"{mood}.cart.shop"], "the refusal")
    assert refusal["code"] == "ACCESS_DENIED"
    assert "moody" in refusal["detail"]


# --- at the start ----------------------------------------------------------------------------------------------------


def start(folder: Path, config: str, site: Path | None = None) -> tuple[int, str]:
    """Exit code and error output of a `meshless dev` that does not start."""
    (folder / "objects.yaml").write_text(OBJECTS)
    (folder / "meshless.yaml").write_text(config)
    environment = {**os.environ, **({"PYTHONPATH": str(site)} if site else {})}
    arguments = ["dev", "objects.yaml", "--run-dir", "run", "--config", "meshless.yaml"]
    done = subprocess.run(
        [sys.executable, "-m", "meshless_core.cli", *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert done.stdout == "", "it must not say ready"
    assert "Traceback" not in done.stderr
    assert not (folder / "run").exists(), "nothing is left behind"
    return done.returncode, done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in DEFAULT_PLUGINS if name not in HANDSHAKES])
def test_a_plugin_taken_out_of_the_configuration_is_named_with_the_line_to_add(tmp_path: Path, name: str) -> None:
    code, text = start(tmp_path, plugins(*(plugin for plugin in DEFAULT_PLUGINS if plugin != name)))
    assert code == 1
    assert name in text
    assert "add" in text


@pytest.mark.slow
def test_without_any_handshake_the_usual_one_is_named_with_the_line_to_add(tmp_path: Path) -> None:
    code, text = start(tmp_path, plugins(*(plugin for plugin in DEFAULT_PLUGINS if plugin not in HANDSHAKES)))
    assert code == 1
    assert "no handshake plugin is enabled" in text
    assert "add one, for example `handshake_v1: {}`" in text


@pytest.mark.slow
def test_renamed_plugins_are_all_named_at_once_with_what_was_meant(tmp_path: Path) -> None:
    code, text = start(tmp_path, plugins(*(f"{plugin}x" for plugin in DEFAULT_PLUGINS)))
    assert code == 1
    for plugin in DEFAULT_PLUGINS:
        assert f"'{plugin}x'" in text
        assert f"did you mean '{plugin}'" in text


@pytest.mark.slow
@pytest.mark.parametrize("name", ["policy_declared", "canary_weighted", "transport_tls", "discovery_file"])
def test_a_plugin_that_is_broken_is_named_with_its_distribution_the_error_and_the_cure(tmp_path: Path, name: str) -> None:
    site = tmp_path / "site"
    package = site / f"meshless_{name}"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise ImportError('libwhatever.so is missing')\n")
    code, text = start(tmp_path, plugins(*DEFAULT_PLUGINS), site)
    assert code == 1
    assert f"meshless-{name.replace('_', '-')}" in text
    assert "libwhatever.so is missing" in text
    assert "reinstall" in text
