"""A missing program is named with the package that has it, and every program of the tests has one."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.interop.programs import PACKAGES, needs, search_path


def test_a_missing_program_skips_and_names_its_package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    there = tmp_path / "curl"
    there.write_text("#!/bin/sh\n")
    there.chmod(0o755)
    monkeypatch.setattr("tests.interop.programs.search_path", lambda: str(tmp_path))
    mark = needs("curl", "psql", "redis-cli", "redis-benchmark")
    assert mark.args == (True,)
    assert mark.kwargs["reason"] == "missing: postgresql-client redis-tools; 'make test-interop' as root installs them"
    assert needs("curl").args == (False,)


def test_servers_are_found_where_debian_keeps_them() -> None:
    assert search_path().split(":")[0].endswith("/bin")
    assert "/usr/sbin" in search_path().split(":")


def test_every_program_that_is_installed_is_needed_by_a_test() -> None:
    modules = (
        module.read_text(encoding="utf-8")
        for module in Path(__file__).parent.glob("test_*.py")
        if module.name != Path(__file__).name
    )
    needed = {
        name for text in modules for call in re.findall(r"needs\(([^)]*)\)", text) for name in re.findall(r'"([^"]+)"', call)
    }
    assert needed == set(PACKAGES)
