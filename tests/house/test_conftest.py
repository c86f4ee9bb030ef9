"""In CI nothing is skipped; elsewhere a test may skip itself. Ctrl-C reaches what tests start, however they were started."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

CONFTEST = Path(__file__).resolve().parents[2] / "conftest.py"

TESTS = {
    "a test": "import pytest\ndef test_a():\n    pytest.skip('needs a rocket')\n",
    "a marked test": "import pytest\n@pytest.mark.skipif(True, reason='needs a rocket')\ndef test_a():\n    pass\n",
    "a module": "import pytest\npytest.skip('needs a rocket', allow_module_level=True)\n",
}


def run(folder: Path, source: str, ci: bool, *, in_background: bool = False) -> subprocess.CompletedProcess[str]:
    (folder / "conftest.py").write_text(CONFTEST.read_text())
    (folder / "test_it.py").write_text(source + "def test_b():\n    pass\n")
    environment = {name: value for name, value in os.environ.items() if name != "CI" and not name.startswith("PYTEST_")}
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", str(folder), str(folder)],
        env=environment | ({"CI": "true"} if ci else {}),
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=(lambda: signal.signal(signal.SIGINT, signal.SIG_IGN)) if in_background else None,  # as a shell's `&` does
    )


@pytest.mark.parametrize("source", TESTS.values(), ids=TESTS.keys())
def test_a_skip_fails_the_run_in_ci_and_says_why(tmp_path: Path, source: str) -> None:
    result = run(tmp_path, source, ci=True)
    assert result.returncode not in (0, pytest.ExitCode.NO_TESTS_COLLECTED), result.stdout
    assert "CI skips nothing" in result.stdout
    assert "needs a rocket" in result.stdout


@pytest.mark.parametrize("source", TESTS.values(), ids=TESTS.keys())
def test_a_skip_is_a_skip_outside_ci(tmp_path: Path, source: str) -> None:
    result = run(tmp_path, source, ci=False)
    assert "1 skipped" in result.stdout
    assert "failed" not in result.stdout


def test_an_expected_failure_is_no_skip(tmp_path: Path) -> None:
    result = run(tmp_path, "import pytest\n@pytest.mark.xfail(reason='known')\ndef test_a():\n    assert False\n", ci=True)
    assert result.returncode == 0, result.stdout


def test_a_program_that_a_test_starts_hears_ctrl_c_also_where_the_tests_run_in_the_background(tmp_path: Path) -> None:
    source = """
import subprocess
def test_a():
    assert subprocess.run(["sh", "-c", "kill -INT $$; echo ignored"], capture_output=True, text=True).stdout == ""
"""
    result = run(tmp_path, source, ci=True, in_background=True)
    assert result.returncode == 0, result.stdout
