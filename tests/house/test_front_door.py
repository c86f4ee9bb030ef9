"""The front door says what it can do, and CI skips nothing and hides nothing."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CLOSING = "=== 3 passed, 1 failed in 12.30s (0:00:12) ==="


def run(*command: str, cwd: Path, path: str | None = None) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS", "CI"))}
    if path:
        environment["PATH"] = path
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)


def test_help_lists_every_target() -> None:
    phony = re.search(r"^\.PHONY: (.+)$", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    assert phony
    shown = run("make", "help", cwd=ROOT).stdout
    assert {"setup", "demo", "test", "test-interop", "lint", "fix", "docs", "fuzz", "bench", "help"} == set(
        phony.group(1).split()
    )
    assert all(re.search(rf"^  make {target} +\S", shown, re.MULTILINE) for target in phony.group(1).split())


def test_setup_names_an_interpreter_that_does_not_run_and_makes_nothing(tmp_path: Path) -> None:
    result = run("sh", str(ROOT / ".ci/setup"), str(tmp_path / "venv"), "/nowhere/python3", cwd=tmp_path)
    assert result.returncode == 1
    assert "/nowhere/python3 does not run or is older than Python 3.11" in result.stderr
    assert not (tmp_path / "venv").exists()


def test_setup_says_what_to_install_where_there_is_no_python(tmp_path: Path) -> None:
    for name in ("sh", "id", "cut"):
        (tmp_path / name).symlink_to(str(shutil.which(name)))
    result = run(str(tmp_path / "sh"), str(ROOT / ".ci/setup"), str(tmp_path / "venv"), cwd=tmp_path, path=str(tmp_path))
    assert result.returncode == 1
    assert "no Python >= 3.11 found" in result.stderr
    assert "apt-get install" in result.stderr


@pytest.fixture
def house(tmp_path: Path) -> Path:
    """A folder with the real `.ci/run` and a `make` that notes its targets and fails where it is told to."""
    (tmp_path / ".ci").mkdir()
    for script in ("run", "install-programs", "install-go"):
        shutil.copy(ROOT / ".ci" / script, tmp_path / ".ci" / script)
    for programs_of in ("test-programs", "interop-programs"):
        (tmp_path / ".ci" / programs_of).write_text("sh dash\n")
    subprocess.run(["git", "init", "--quiet", tmp_path], check=True)
    programs = tmp_path / "programs"
    programs.mkdir()
    (programs / "go").write_text("#!/bin/sh\necho go1.21.0\n")
    (programs / "make").write_text(
        f'#!/bin/sh\necho "$1" >> done\necho "CI=$CI"\n[ "$1" != test ] || echo "{CLOSING}"\n[ ! -e "fail-$1" ]\n'
    )
    for program in programs.iterdir():
        program.chmod(0o755)
    return tmp_path


def ci(house: Path) -> subprocess.CompletedProcess[str]:
    return run("bash", ".ci/run", cwd=house, path=f"{house}/programs:{os.environ['PATH']}")


def test_ci_runs_every_section_with_ci_set_and_ends_with_the_closing_line_of_the_tests(house: Path) -> None:
    result = ci(house)
    assert result.returncode == 0, result.stdout + result.stderr
    assert (house / "done").read_text().split() == ["setup", "lint", "test-interop", "test", "demo", "docs"]
    assert "CI=true" in result.stdout
    assert result.stdout.rstrip().endswith(CLOSING)


@pytest.mark.parametrize("section", ["lint", "test-interop", "test", "demo", "docs"])
def test_ci_fails_if_one_section_fails_and_runs_the_others_all_the_same(house: Path, section: str) -> None:
    (house / f"fail-{section}").touch()
    result = ci(house)
    assert result.returncode == 1
    assert (house / "done").read_text().split() == ["setup", "lint", "test-interop", "test", "demo", "docs"]
    assert re.search(rf"^{section} +FAILED", result.stdout, re.MULTILINE)


def test_ci_stops_where_the_set_up_fails(house: Path) -> None:
    (house / "fail-setup").touch()
    assert ci(house).returncode == 1
    assert (house / "done").read_text().split() == ["setup"]


def test_ci_stops_without_a_go_that_is_new_enough_and_says_so(house: Path) -> None:
    (house / "programs" / "go").write_text("#!/bin/sh\necho go1.19.8\n")
    bin_folder = house / ".venv" / "bin"
    bin_folder.mkdir(parents=True)
    (bin_folder / "uv").write_text("#!/bin/sh\n")
    (bin_folder / "uv").chmod(0o755)
    result = ci(house)
    assert result.returncode == 1
    assert "does not run; install Go 1.21 or later" in result.stderr
    assert (house / "done").read_text().split() == ["setup"]


def test_ci_fails_if_generated_pages_are_not_committed_or_nobody_can_tell(house: Path) -> None:
    (house / "docs" / "reference").mkdir(parents=True)
    (house / "docs" / "reference" / "new.md").write_text("generated\n")
    result = ci(house)
    assert result.returncode == 1
    assert "run 'make docs' and commit" in result.stderr
    shutil.rmtree(house / ".git")
    result = ci(house)
    assert result.returncode == 1
    assert "git does not answer" in result.stderr


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is all a script sees of a machine; nothing says yet which services may start."""
    monkeypatch.setenv("POLICY_RC_D", str(tmp_path / "policy"))
    return tmp_path


def install(tmp_path: Path, lines: str, *, root: bool) -> subprocess.CompletedProcess[str]:
    """Run the real script with an `apt-get` that notes what it is asked for, and `make` and `sh` as the only other programs."""
    for name in ("sh", "sort", "tr", "cat", "chmod", "rm"):
        (tmp_path / name).symlink_to(str(shutil.which(name)))
    (tmp_path / "id").write_text(f"#!/bin/sh\necho {0 if root else 1000}\n")
    (tmp_path / "apt-get").write_text(
        f'#!/bin/sh\necho "$@" >>"{tmp_path}/asked"\n"{tmp_path}/policy" || echo $? >"{tmp_path}/policy-said"\n'
    )
    for name in ("id", "apt-get"):
        (tmp_path / name).chmod(0o755)
    (tmp_path / "programs").write_text(lines)
    return run(
        str(tmp_path / "sh"), str(ROOT / ".ci/install-programs"), str(tmp_path / "programs"), cwd=tmp_path, path=str(tmp_path)
    )


def test_missing_programs_are_installed_once_each_and_no_service_is_started(machine: Path) -> None:
    result = install(
        machine, "# a comment\nsort coreutils\nno-such-one pack-b\nno-such-two pack-a\nno-such-three pack-b\n", root=True
    )
    assert result.returncode == 0, result.stderr
    update, installed = (machine / "asked").read_text().splitlines()
    assert update.startswith("update")
    assert installed.endswith("--no-install-recommends pack-a pack-b")


def test_a_file_that_is_missing_is_installed_and_one_that_is_there_is_not(machine: Path) -> None:
    (machine / "there").touch()
    result = install(machine, f"{machine}/there pack-a\n{machine}/missing pack-b\n", root=True)
    assert result.returncode == 0, result.stderr
    assert (machine / "asked").read_text().splitlines()[-1].endswith("--no-install-recommends pack-b")


def test_who_may_not_install_is_told_what_to_install(machine: Path) -> None:
    result = install(machine, "no-such-one pack-a\n", root=False)
    assert result.returncode == 0
    assert "as root: apt-get install pack-a" in result.stderr
    assert not (machine / "asked").exists()


def test_nothing_is_installed_where_nothing_is_missing(machine: Path) -> None:
    assert install(machine, "sort coreutils\n", root=True).returncode == 0
    assert not (machine / "asked").exists()
