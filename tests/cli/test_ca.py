from __future__ import annotations

import datetime
import json
import os
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from meshless_core.identity import CertificateAuthority, certificates
from meshless_core.types import Identity


def meshless(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from meshless_core.cli.main import main; main()", "ca", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture
def ca(tmp_path: Path) -> Path:
    CertificateAuthority.create(tmp_path / "ca", "mesh.test")
    return tmp_path / "ca"


def rows(result: subprocess.CompletedProcess[str]) -> list[dict[str, Any]]:
    found = json.loads(result.stdout)
    assert isinstance(found, list)
    return found


def test_init_makes_an_authority_once(tmp_path: Path) -> None:
    made = meshless("init", tmp_path / "new", "--trust-domain", "mesh.test")
    assert made.returncode == 0, made.stderr
    assert "spiffe://mesh.test" in made.stdout
    again = meshless("init", tmp_path / "new", "--trust-domain", "mesh.test")
    assert (again.returncode, "already" in again.stderr) == (1, True)
    assert meshless("init", tmp_path / "other", "--trust-domain", "Not A Name").returncode == 2


def test_issue_writes_a_leaf_with_a_private_key(ca: Path, tmp_path: Path) -> None:
    names = ("--namespace", "shop", "--meshlet", "cart")
    issued = meshless("issue", ca, *names, "--out", tmp_path / "leaf", "--lifetime", "90m", "-o", "json")
    assert issued.returncode == 0, issued.stderr
    (row,) = rows(issued)
    assert row["subject"] == "spiffe://mesh.test/ns/shop/meshlet/cart"
    assert row["remaining"].startswith("1h")
    assert stat.S_IMODE(os.stat(row["key"]).st_mode) == 0o600
    assert "PRIVATE" not in issued.stdout + issued.stderr
    assert meshless("show", row["certificate"]).returncode == 0
    refused = meshless("show", row["key"])
    assert (refused.returncode, "is a private key" in refused.stderr) == (1, True)


def test_rotate_takes_two_steps(ca: Path) -> None:
    first = meshless("rotate", ca, "-o", "json")
    assert (first.returncode, len(rows(first))) == (0, 2)
    assert "--finish after" in first.stderr
    early = meshless("rotate", ca, "--finish")
    assert (early.returncode, "may be valid until" in early.stderr) == (1, True)
    last = meshless("rotate", ca, "--finish", "--force", "-o", "json")
    assert (last.returncode, len(rows(last))) == (0, 1)
    assert meshless("rotate", ca, "--force").returncode == 2


def test_show_warns_about_what_has_expired(ca: Path, tmp_path: Path) -> None:
    clock = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC).timestamp
    old = CertificateAuthority.create(tmp_path / "old", "mesh.test", clock=clock)
    chain = old.issue(certificates.build_request(certificates.generate_key()), Identity("mesh.test", "shop", "cart"))
    (tmp_path / "old.crt").write_text(chain)
    shown = meshless("show", tmp_path / "old.crt")
    assert (shown.returncode, "is expired" in shown.stderr) == (1, True)
    assert "expired" in shown.stdout
    assert meshless("show", ca).returncode == 0


def test_what_cannot_be_read_is_2(tmp_path: Path, ca: Path) -> None:
    assert meshless("show", tmp_path / "nothing").returncode == 2
    assert meshless("issue", ca, "--namespace", "shop", "--meshlet", "cart", "--lifetime", "soon").returncode == 2
    assert meshless("issue", ca, "--namespace", "shop", "--meshlet", "Cart").returncode == 2
