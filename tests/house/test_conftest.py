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
    "test_a_test.py": "import pytest\ndef test_a():\n    pytest.skip('needs a rocket')\n",
    "test_marked.py": "import pytest\n@pytest.mark.skipif(True, reason='needs a boat')\ndef test_a():\n    pass\n",
    "test_module.py": "import pytest\npytest.skip('needs a kite', allow_module_level=True)\n",
    "test_known.py": "import pytest\n@pytest.mark.xfail(reason='known')\ndef test_a():\n    assert False\n",
    "test_good.py": "def test_a():\n    pass\n",
    "test_ctrl_c.py": (
        "import subprocess\ndef test_a():\n"
        "    assert subprocess.run(['sh', '-c', 'kill -INT $$; echo ignored'], capture_output=True).stdout == b''\n"
    ),
}


def run(folder: Path, *, ci: bool) -> str:
    """The output of a run that was started in the background, as a shell's `&` does: with SIGINT ignored."""
    (folder / "conftest.py").write_text(CONFTEST.read_text())
    for name, source in TESTS.items():
        (folder / name).write_text(source)
    environment = {name: value for name, value in os.environ.items() if name != "CI" and not name.startswith("PYTEST_")}
    result = subprocess.run(
        [sys.executable, "-m", "pytest", "-rA", "--continue-on-collection-errors", "-p", "no:cacheprovider", "."],
        env=environment | ({"CI": "true"} if ci else {}),
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN),
    )
    assert result.returncode == (pytest.ExitCode.TESTS_FAILED if ci else pytest.ExitCode.OK), result.stdout
    return result.stdout


def test_in_ci_every_kind_of_skip_is_a_failure_that_says_why_and_nothing_else_is(tmp_path: Path) -> None:
    output = run(tmp_path, ci=True)
    summary = output.splitlines()
    for name, reason in (("test_a_test", "rocket"), ("test_marked", "boat"), ("test_module", "kite")):
        assert any(line.startswith(("FAILED", "ERROR")) and name in line for line in summary), output
        assert f"CI skips nothing, but {name}.py" in output
        assert f"needs a {reason}" in output
    assert "SKIPPED" not in output
    for name in ("XFAIL test_known.py::test_a", "PASSED test_good.py::test_a", "PASSED test_ctrl_c.py::test_a"):
        assert any(line.startswith(name) for line in summary), output


def test_outside_ci_a_skip_is_a_skip_and_ctrl_c_is_heard_by_what_a_test_starts(tmp_path: Path) -> None:
    output = run(tmp_path, ci=False)
    assert "2 passed, 3 skipped, 1 xfailed" in output
    assert any(line.startswith("PASSED test_ctrl_c.py::test_a") for line in output.splitlines())
