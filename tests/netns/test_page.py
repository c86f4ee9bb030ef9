"""What the page promises beyond starting the parts: its last two commands talk, and every part ends cleanly."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from typing import Any

import pytest

pytestmark = pytest.mark.netns


def test_the_two_pods_of_the_page_talk_and_every_process_ends_cleanly(network: Any, tools: Mapping[str, Any]) -> None:
    socket_path = network.pod(network.b, "cart-0") / "server" / "http"
    socket_path.unlink()  # the fixture's own service: here the page's is wanted
    with network.running("server") as server:
        tools["wait_until"](lambda: socket_path.is_socket(), "the page's server listens")
        network.shell("client")
        assert server.stdout.readline() == b"hello\n"
        assert server.wait(10) == 0
    assert network.end_all() == dict.fromkeys(
        ["reconciler", *(f"{part} {node}" for part in ("socketd", "agent") for node in (network.a, network.b))], 0
    )
    left = [path for path in (network.folder / "run").rglob("*") if path.is_socket()]
    assert left == []


def test_the_files_of_the_page_are_valid(network: Any) -> None:
    checked = subprocess.run(
        ["meshless", "validate", str(network.folder / "etc" / "meshless" / "shop.yaml")],
        env=network.environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert checked.returncode == 0, checked.stdout
