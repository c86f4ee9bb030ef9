from __future__ import annotations

import json
import time
from typing import Any

import pytest
from click.testing import CliRunner

from meshless_core.cli.main import main
from meshless_core.config import Config, config_to_yaml
from meshless_core.identity import CertificateAuthority
from meshless_core.reconciler.status import ReconcilerStatus


def status(node: str, **changed: Any) -> dict[str, Any]:
    return {
        "node": node,
        "trust_domain": "mesh.local",
        "tunnel_address": "127.0.0.1:4000",
        "ready": True,
        "not_ready": [],
        "draining": False,
        "socketd_connected": True,
        "connections": 0,
        "documents": {"source": "bus", "connected": True, "age_seconds": 5.0, "topics": 4, "behind": [], "rejected": {}},
        "pods": [],
        "identities": [],
        "limits": {"max_connections": 10, "open_files": 1024},
        "plugins": [],
        **changed,
    }


@pytest.fixture
def run(admin: Any) -> Any:
    """A run directory as a dev mesh leaves it, with one node."""
    (admin.run / "meshless.yaml").write_text(config_to_yaml(Config()))
    CertificateAuthority.create(admin.run / "ca", "mesh.local")
    (admin.run / "status.json").write_bytes(ReconcilerStatus(generation=1, updated=time.time()).to_json())
    admin.serve("node-a", {"/status": status("node-a")})
    return admin


def check(*arguments: str) -> tuple[int, str]:
    done = CliRunner().invoke(main, ["check", *arguments])
    return done.exit_code, done.stdout


def findings(run: Any) -> tuple[int, str, list[tuple[str, str]]]:
    """Exit code, result, and area and subject of what is not in order."""
    code, out = check("--run-dir", str(run.run), "--output", "json")
    report = json.loads(out)
    return code, report["result"], [(row["area"], row["subject"]) for row in report["findings"] if row["result"] != "ok"]


def test_a_mesh_in_order_is_0_and_says_so(run: Any) -> None:
    assert findings(run) == (0, "ok", [])
    code, out = check("--run-dir", str(run.run))
    assert (code, out.splitlines()[-1]) == (0, "everything is in order")
    assert out.split()[:5] == ["AREA", "SUBJECT", "RESULT", "MESSAGE", "FIX"]


def test_warnings_are_0_and_problems_are_1(run: Any) -> None:
    run.serve("node-a", {"/status": status("node-a", limits={"max_connections": 1000, "open_files": 1024})})
    assert findings(run) == (0, "warning", [("limits", "node-a")])
    run.serve("node-a", {"/status": status("node-a", socketd_connected=False)})
    assert findings(run) == (1, "problem", [("socketd", "node-a")])
    assert check("--run-dir", str(run.run))[1].splitlines()[-1] == "1 problem"


def test_an_agent_that_does_not_answer_is_a_problem_and_the_others_are_checked(run: Any) -> None:
    run.silent("node-b")
    assert findings(run) == (1, "problem", [("agent", "node-b")])


def test_a_missing_socket_is_found_through_the_pods_that_the_agent_has(run: Any) -> None:
    pods = [{"namespace": "shop", "name": "cart-0", "services": ["http"]}]
    run.serve("node-a", {"/status": status("node-a", pods=pods)})
    assert findings(run) == (1, "problem", [("sockets", "shop/cart-0 http")])


def test_a_run_directory_in_pieces_is_reported_piece_by_piece(run: Any) -> None:
    (run.run / "meshless.yaml").write_text("agent: 5\n")
    (run.run / "status.json").unlink()
    (run.run / "ca" / "bundle.pem").unlink()
    areas = ["run directory", "reconciler", "roots"]
    assert findings(run) == (1, "problem", list(zip(areas, ["meshless.yaml", "status.json", "bundle.pem"], strict=True)))


def test_agents_named_by_address_are_checked_without_a_run_directory(admin: Any) -> None:
    first = admin.serve("node-a", {"/status": status("node-a")})
    second = admin.serve("node-b", {"/status": status("node-b", trust_domain="other.local")})
    assert check("--admin", first)[0] == 0
    code, out = check("--admin", first, "--admin", second)
    assert (code, "trust domain" in out) == (1, True)


def test_no_mesh_and_no_answer_are_3(admin: Any) -> None:
    assert check("--run-dir", str(admin.run))[0] == 3
    admin.silent("node-a")
    assert check("--run-dir", str(admin.run))[0] == 3
    assert check("--admin", f"unix:{admin.run}/none.sock")[0] == 3
