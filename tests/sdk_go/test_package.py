"""The Go SDK's own tests, as part of everybody's tests."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

SDK = Path(__file__).resolve().parents[2] / "sdk" / "go"


def run(go: tuple[str, dict[str, str]], *arguments: str) -> str:
    command, environment = go
    ended = subprocess.run([command, *arguments], cwd=SDK, env=environment, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_package_passes_its_tests_with_the_race_detector(go: tuple[str, dict[str, str]]) -> None:
    out = run(go, "test", "-race", "-count=1", "-timeout=300s", "-v", "./...")
    assert "--- SKIP" not in out
    for vectors in (
        "TestClientVectors/handshake-v1.json",
        "TestClientVectors/handshake-v2.json",
        "TestLeaseVectors",
        "TestProxyVectors",
    ):
        assert re.search(rf"--- PASS: {re.escape(vectors)}", out), f"{vectors} did not run"


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_vet_finds_nothing(go: tuple[str, dict[str, str]]) -> None:
    run(go, "vet", "./...")


def test_the_package_needs_the_standard_library_only() -> None:
    assert "require" not in (SDK / "go.mod").read_text()
    assert not (SDK / "go.sum").exists()
