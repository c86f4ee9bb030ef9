"""How a mesh begins and ends, seen from outside: what is refused, what is said, what is left behind."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow

FAILING = """
import attrs
from meshless_core import AuthorizerSpec, Decision, Verdict, hookimpl

@attrs.frozen
class Options:
    pass

class Abstain:
    def __init__(self, options):
        pass
    def authorize_inline(self, request):
        return Decision(Verdict.ABSTAIN, "broken", "says nothing")

{code}

@hookimpl
def meshless_register_authorizer():
    return AuthorizerSpec(api=1, options=Options, create=create)
"""


DAEMON = """\
import os, time
if os.fork():
    time.sleep(1000)
os.setsid()
if os.fork():
    os._exit(0)
print("daemon", os.getpid(), flush=True)
time.sleep(1000)
"""


def test_ctrl_c_ends_every_process_and_removes_everything(start: Callable[..., Any], folder: Path, helpers: Any) -> None:
    (folder / "daemon.py").write_text(DAEMON)
    with (folder / "shop.yaml").open("a") as file:
        file.write(helpers.pod("daemon", "node-a", "web", command=f"[env, -i, {sys.executable}, -S, daemon.py]"))
    mesh = start()
    daemon = int(mesh.wait_for("daemon [0-9]+$").split()[-1])  # without an environment that says where it comes from
    mesh.wait_for("^out: ready$")
    commands = [command for command in helpers.processes_of(mesh.run).values() if "first_process.py" not in command]
    assert sum(" agent " in command for command in commands) == 2
    assert sum("server.py" in command for command in commands) == 3
    before = {entry.name for entry in folder.iterdir()} - {"run"}
    assert mesh.interrupt() == 0
    assert not helpers.processes_of(mesh.run)
    assert not os.path.exists(f"/proc/{daemon}")
    assert {entry.name for entry in folder.iterdir()} == before
    assert "Traceback" not in mesh.output


def test_when_the_supervisor_is_killed_nothing_survives_it_and_the_next_start_cleans_up(
    start: Callable[..., Any], helpers: Any
) -> None:
    mesh = start()
    mesh.wait_for("^out: ready$")
    mesh.process.kill()
    assert mesh.wait() == -signal.SIGKILL
    helpers.until(lambda: not helpers.processes_of(mesh.run), "all children dead")
    assert mesh.run.is_dir()
    again = start()
    again.wait_for("^out: ready$")
    assert again.dial()["POD_NAMESPACE"] == "shop"


def test_a_folder_that_is_not_ours_is_refused_and_left_alone(start: Callable[..., Any], folder: Path) -> None:
    (folder / "run").mkdir()
    (folder / "run" / "thesis.txt").write_text("years of work")
    mesh = start()
    assert mesh.wait() == 1
    assert "is not empty" in mesh.output
    assert "choose another --run-dir" in mesh.output
    assert [entry.name for entry in (folder / "run").iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize(
    ("config", "texts"),
    [
        ("agent: {conect_timeout: 5s}\n", ["meshless.yaml:1", "conect_timeout", "connect_timeout"]),
        ("agent: {max_connections: 0}\nmesh: {trust_domain: A B}\n", ["max_connections", "trust domain"]),
        ("plugins: {transport_tlss: {}}\n", ["transport_tlss"]),
        ("plugins: {discovery_file: {}, bus_directory: {}}\n", ["transport"]),
        ("plugins: {handshake_v1: {}, policy_declared: {}, canary_weighted: {}, transport_tls: {}}\n", ["discovery_file"]),
    ],
)
def test_a_bad_configuration_is_an_error_that_names_it_and_leaves_nothing(
    start: Callable[..., Any], folder: Path, config: str, texts: list[str]
) -> None:
    (folder / "meshless.yaml").write_text(config)
    mesh = start("--config", str(folder / "meshless.yaml"))
    assert mesh.wait() == 1
    assert "error: " in mesh.output
    for text in texts:
        assert text in mesh.output
    assert "Traceback" not in mesh.output
    assert not mesh.run.exists()


def test_a_plugin_that_cannot_be_imported_is_an_error_that_names_its_distribution(
    start: Callable[..., Any], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = folder / "site"
    info = site / "broken_plugin-1.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: broken-plugin\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[meshless.plugins]\nbroken = broken_plugin\n")
    (site / "broken_plugin.py").write_text("raise RuntimeError('the dog ate it')\n")
    (folder / "meshless.yaml").write_text("plugins: {discovery_file: {}, bus_directory: {}, broken: {}}\n")
    monkeypatch.setenv("PYTHONPATH", str(site))
    mesh = start("--config", str(folder / "meshless.yaml"))
    assert mesh.wait() == 1
    assert "broken-plugin" in mesh.output
    assert "the dog ate it" in mesh.output
    assert not mesh.run.exists()


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("def create(options): raise RuntimeError('no database')", "create failed with RuntimeError: no database"),
        ("class create(Abstain):\n    async def start(self): raise OSError('no route')", "start failed: OSError: no route"),
    ],
)
def test_a_plugin_that_fails_in_the_agents_ends_the_mesh_and_names_its_distribution(
    start: Callable[..., Any], folder: Path, monkeypatch: pytest.MonkeyPatch, code: str, said: str
) -> None:
    site = folder / "site"
    info = site / "broken_plugin-1.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: broken-plugin\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[meshless.plugins]\nbroken = broken_plugin\n")
    (site / "broken_plugin.py").write_text(FAILING.format(code=code))
    (folder / "meshless.yaml").write_text(
        "agent: {connect_timeout: 10s}\n\nplugins:\n  handshake_v1: {}\n  broken: {}\n  policy_declared: {}\n"
        "  canary_weighted: {}\n  transport_tls: {}\n  discovery_file: {}\n  bus_directory: {}\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(site))
    mesh = start("--config", str(folder / "meshless.yaml"))
    assert mesh.wait() == 1
    assert f"{folder / 'meshless.yaml'}:5: $.plugins.broken: plugin broken of broken-plugin 1: {said}" in mesh.output
    assert "cannot start: what it said last is shown above" in mesh.output
    assert not mesh.run.exists()


@pytest.mark.parametrize(
    ("text", "said"),
    [("kind: [", "shop.yaml"), ("kind: Meshlet\nkind: Meshlet\n", "shop.yaml:2")],
)
def test_a_file_that_cannot_be_read_at_the_start_ends_it_with_file_and_line(
    start: Callable[..., Any], folder: Path, text: str, said: str
) -> None:
    (folder / "shop.yaml").write_text(text)
    mesh = start()
    assert mesh.wait() == 1
    assert said in mesh.output
    assert "Traceback" not in mesh.output
    assert not mesh.run.exists()


def test_a_file_without_pods_is_ready_and_says_what_is_missing(start: Callable[..., Any], folder: Path) -> None:
    (folder / "shop.yaml").write_text(
        "apiVersion: meshless.dev/v1\nkind: Meshlet\nmetadata: {namespace: shop, name: web}\nspec: {client: []}\n"
    )
    mesh = start()
    mesh.wait_for("belongs to a meshlet")
    assert "no pod in" in mesh.output
    assert mesh.interrupt() == 0


def test_a_file_that_does_not_exist_is_wrong_usage(start: Callable[..., Any], folder: Path) -> None:
    os.unlink(folder / "shop.yaml")
    mesh = start()
    assert mesh.wait() == 2
    assert "shop.yaml" in mesh.output


def test_an_invalid_meshlet_at_the_start_is_shown_and_the_others_are_served(start: Callable[..., Any], folder: Path) -> None:
    text = (folder / "shop.yaml").read_text()
    bad = "---\napiVersion: meshless.dev/v1\nkind: Meshlet\nmetadata: {namespace: shop, name: bad}\nspec: {serverr: {}}\n"
    (folder / "shop.yaml").write_text(text + bad)
    mesh = start()
    mesh.wait_for("^out: ready$")
    line = mesh.wait_for("serverr")
    assert "shop.yaml:" in line
    assert mesh.dial()["POD_NAMESPACE"] == "shop"
    code, out, _ = mesh.cli("check")
    assert code == 1
    assert "serverr" in out
