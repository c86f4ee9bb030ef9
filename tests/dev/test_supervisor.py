"""A mesh that runs, seen as its user sees it. One mesh for all tests here: each leaves it as it found it."""

from __future__ import annotations

import collections
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import meshless_sdk
import pytest

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def as_found(mesh: Any, helpers: Any) -> Iterator[None]:
    """Both versions are served before and after each test, by the file as it was."""
    yield
    mesh.edit(helpers.meshlets() + helpers.pods)
    helpers.until(lambda: set(shares(mesh)) == {("v1", "90.0%"), ("v2", "10.0%")}, "the file as it was is in force")


def shares(mesh: Any) -> list[tuple[str, str]]:
    """Version and share, as `meshless explain` has them; also the first use of its answer by a program."""
    _, out, err = mesh.cli("explain", "shop/web", "http.cart.shop", "--output", "json")
    assert not err, err
    rows: list[dict[str, str]] = json.loads(out)["rows"]
    return [(row["subject"], row["outcome"]) for row in rows if row["step"] == "version"]


def test_ready_is_all_that_standard_output_says(mesh: Any) -> None:
    assert [line for line in mesh.output.splitlines() if line.startswith("out: ")] == ["out: ready"]


def test_containers_get_their_environment_and_the_folder_of_the_file(mesh: Any) -> None:
    about = mesh.dial_until(lambda about: about["VERSION"] == "v1")
    assert about["POD_NAME"] == "cart-v1"
    assert about["POD_NAMESPACE"] == "shop"
    assert about["MESHLESS_DIR"] == str(mesh.run / "pods" / "shop" / "cart-v1")
    assert Path(about["cwd"]) == mesh.folder


def test_output_of_pods_and_agents_is_prefixed_with_who_says_it(mesh: Any) -> None:
    assert mesh.wait_for(r"serving http") in ("err: [shop/cart-v1] serving http", "err: [shop/cart-v2] serving http")
    assert mesh.wait_for(r"err: \[agent node-a\] .*listens for tunnels")


def test_a_pod_without_a_command_has_its_folders_and_no_process(mesh: Any, helpers: Any) -> None:
    assert (mesh.run / "pods" / "shop" / "web" / "server").is_dir()
    environments = [Path(f"/proc/{pid}/environ").read_bytes() for pid in helpers.processes_of(mesh.run)]
    assert not any(b"POD_NAME=web\0" in environment for environment in environments)


def test_10_000_connections_land_within_a_point_of_their_weights(mesh: Any) -> None:
    path = str(mesh.run / "pods" / "shop" / "web" / "client" / "meshless")
    seen: collections.Counter[bytes] = collections.Counter()
    for _ in range(10_000):
        with meshless_sdk.connect("http.cart.shop", path=path) as connection:
            data = b""
            while more := connection.recv(4096):
                data += more
            seen[b"v2" if b'"VERSION": "v2"' in data else b"v1"] += 1
    assert seen.total() == 10_000
    assert abs(seen[b"v2"] / 10_000 - 0.10) <= 0.01, seen


def test_an_edit_applies_to_the_next_connection_and_weight_0_means_none(mesh: Any, helpers: Any) -> None:
    pids = helpers.processes_of(mesh.run).keys()
    mesh.edit(helpers.meshlets("{version: v1, weight: 90}, {version: v2, weight: 0}") + helpers.pods)
    helpers.until(lambda: ("v2", "0.0%") in shares(mesh), "weight 0 in force")
    assert {mesh.dial()["VERSION"] for _ in range(100)} == {"v1"}
    mesh.edit(helpers.meshlets("{version: v1, weight: 0}, {version: v2, weight: 1}") + helpers.pods)
    helpers.until(lambda: ("v2", "100.0%") in shares(mesh), "the other way round in force")
    assert {mesh.dial()["VERSION"] for _ in range(100)} == {"v2"}
    assert helpers.processes_of(mesh.run).keys() == pids, "no process was restarted"


def test_a_version_without_pods_spills_and_check_says_so(mesh: Any, helpers: Any) -> None:
    mesh.edit(
        helpers.meshlets("{version: v1, weight: 40}, {version: v2, weight: 10}, {version: v3, weight: 50}") + helpers.pods
    )
    helpers.until(lambda: ("v3", "0.0%") in shares(mesh), "v3 declared")
    seen = collections.Counter(mesh.dial()["VERSION"] for _ in range(100))
    assert seen == {"v1": 80, "v2": 20}
    code, out, _ = mesh.cli("check", "--output", "json")
    report = json.loads(out)
    assert (code, report["result"]) == (0, "warning")
    (found,) = [row for row in report["findings"] if row["area"] == "meshlet" and row["result"] != "ok"]
    assert found["subject"] == "shop/cart"
    assert "no ready pod of version v3" in found["message"]
    assert found["fix"]


def test_an_invalid_edit_keeps_the_last_good_state_and_is_shown_with_its_line(mesh: Any, helpers: Any) -> None:
    before = mesh.seen
    mesh.edit(helpers.meshlets("{version: v1, weight: -1}") + helpers.pods)
    assert "shop.yaml:" in mesh.wait_for("weight", after=before)
    helpers.until(lambda: mesh.cli("check")[0] == 1, "check sees it")
    assert "last good version stays in force" in mesh.cli("check")[1]
    assert {mesh.dial()["VERSION"] for _ in range(20)} == {"v1", "v2"}
    before = mesh.seen
    mesh.edit("kind: [")  # half-written
    assert "shop.yaml:" in mesh.wait_for("not valid yaml", after=before)
    assert {mesh.dial()["VERSION"] for _ in range(20)} == {"v1", "v2"}


def test_a_killed_pod_is_restarted_and_its_share_spills_meanwhile(mesh: Any) -> None:
    old = mesh.dial_until(lambda about: about["VERSION"] == "v2")["pid"]
    os.kill(old, signal.SIGKILL)
    seen: list[int] = []

    def replaced(about: dict[str, Any]) -> bool:
        seen.append(about["pid"])
        return bool(about["VERSION"] == "v2" and about["pid"] != old)

    about = mesh.dial_until(replaced)
    assert about["POD_NAME"] == "cart-v2"
    assert len(seen) > 10  # more than v2's turn came round, every one was served
    mesh.wait_for("shop/cart-v2 ended with SIGKILL; restarting")


@pytest.mark.parametrize("node", ["node-a", "node-b"])
def test_a_killed_agent_is_restarted_and_a_connect_made_meanwhile_waits_and_succeeds(
    mesh: Any, helpers: Any, node: str
) -> None:
    old = mesh.agent_pid(node)
    before = mesh.seen
    os.kill(old, signal.SIGKILL)
    assert mesh.dial()["POD_NAMESPACE"] == "shop"
    mesh.wait_for(f"agent {node} ended with SIGKILL; restarting", after=before)
    helpers.until(lambda: mesh.agent_pid(node) != old and mesh.cli("check")[0] == 0, "the new agent is ready")
    assert {mesh.dial()["VERSION"] for _ in range(20)} == {"v1", "v2"}


def test_a_connection_between_nodes_is_listed_once_and_with_all_twice(mesh: Any, helpers: Any) -> None:
    path = str(mesh.run / "pods" / "shop" / "web" / "client" / "meshless")
    with meshless_sdk.connect("hold.till.shop", path=path) as connection:
        connection.sendall(b"12345")
        assert connection.recv(1)

        def reported(*options: str) -> list[dict[str, Any]]:
            code, out, err = mesh.cli("connections", "--service", "hold.*", "--output", "json", *options)
            assert (code, err) == (0, "")
            rows: list[dict[str, Any]] = json.loads(out)
            return rows

        helpers.until(lambda: [row["bytes_to_service"] for row in reported("--all")] == [5, 5], "both agents count the bytes")
        (row,) = reported()
        assert (row["reporter"], row["source_pod"], row["pod"], row["node"]) == ("source", "shop/web", "shop/till", "node-b")
        assert {one["id"] for one in reported("--all")} == {row["id"]}
        assert {one["reporter"] for one in reported("--all")} == {"source", "destination"}
    helpers.until(lambda: not reported(), "the connection is gone")


def test_explain_tells_allowed_refused_and_unknown_by_its_exit_code(mesh: Any) -> None:
    allowed = mesh.cli("explain", "web", "http.cart.shop", "-n", "shop")
    assert allowed[0] == 0
    assert "policy_declared" in allowed[1]
    refused = mesh.cli("explain", "shop/cart-v1", "hold.till.shop")
    assert (refused[0], "ACCESS_DENIED" in refused[1]) == (1, True)
    unknown = mesh.cli("explain", "shop/wed", "http.cart.shop")
    assert (unknown[0], "did you mean shop/web" in unknown[2]) == (2, True)


def test_check_finds_a_service_socket_that_was_replaced_by_something_else(mesh: Any, helpers: Any) -> None:
    path = mesh.run / "pods" / "shop" / "till" / "server" / "hold"
    os.rename(path, path.with_name("aside"))
    try:
        path.symlink_to("aside")
        code, out, _ = mesh.cli("check", "--output", "json")
        (found,) = [row for row in json.loads(out)["findings"] if row["result"] == "problem"]
        assert (code, found["area"], found["subject"]) == (1, "sockets", "shop/till hold")
        assert "symlink" in found["message"]
    finally:
        os.rename(path.with_name("aside"), path)
    assert mesh.cli("check")[0] == 0


def test_a_second_mesh_in_the_same_run_directory_is_refused_and_harms_nothing(mesh: Any) -> None:
    command = [sys.executable, "-m", "meshless_core.cli", "dev", str(mesh.file), "--run-dir", str(mesh.run)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 1
    assert f"run directory {mesh.run} is in use by another mesh" in done.stderr
    assert "choose another --run-dir" in done.stderr
    assert not done.stdout
    assert mesh.dial()["POD_NAMESPACE"] == "shop"


def test_pods_and_nodes_come_and_go_with_the_file(mesh: Any, helpers: Any) -> None:
    extra = """\
---
apiVersion: v1
kind: Pod
metadata: {namespace: shop, name: visitor, labels: {meshless/meshlet: web}}
spec: {nodeName: node-c, containers: [{name: main}]}
"""
    mesh.edit(helpers.meshlets() + helpers.pods + extra)
    folder = mesh.run / "pods" / "shop" / "visitor"
    helpers.until((folder / "client" / "meshless").exists, "the pod's socket")
    assert mesh.dial(pod="visitor")["POD_NAMESPACE"] == "shop"
    assert mesh.cli("explain", "shop/visitor", "http.cart.shop")[0] == 0
    mesh.edit(helpers.meshlets() + helpers.pods)
    helpers.until(lambda: not folder.exists(), "the pod's folder gone")
