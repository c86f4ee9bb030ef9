from __future__ import annotations

import os
from pathlib import Path

import pytest

from bench.errors import PathUnavailableError
from bench.programs import Program, require


def quiet(_: str) -> None:
    return


def test_a_program_is_found_under_any_of_its_names() -> None:
    assert require(Program("shell", ("no-such-shell", "sh"), ("dash",)), install=False, say=quiet).endswith("/sh")


def test_a_missing_program_names_the_packages_to_install() -> None:
    program = Program("gadget", ("no-such-gadget",), ("gadget", "gadget-module"))
    with pytest.raises(PathUnavailableError, match="gadget is missing: run `apt-get install gadget gadget-module` as root"):
        require(program, install=False, say=quiet)


def test_without_root_nothing_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    said: list[str] = []
    with pytest.raises(PathUnavailableError, match="as root"):
        require(Program("gadget", ("no-such-gadget",), ("gadget",)), install=True, say=said.append)
    assert said == []


def test_a_program_without_the_file_it_needs_counts_as_missing(tmp_path: Path) -> None:
    module = tmp_path / "module.so"
    program = Program("shell with module", ("sh",), ("dash",), module)
    assert program.find() is None
    module.touch()
    assert program.find() is not None
