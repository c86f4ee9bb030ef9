"""What holds for every test of the house: where CI is set, nothing is skipped, and Ctrl-C is heard.

A test may skip itself on a developer's machine that lacks root, Go or another program, saying what is missing. In CI that
would be a hole nobody sees, so there a skip is turned into a failure that carries the reason.

A shell that starts the tests in the background lets them ignore SIGINT, and so do all programs that they start in turn: those
whose Ctrl-C is tested would never end.
"""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
from collections.abc import Generator

import pytest
from hypothesis import HealthCheck, settings

# a busy machine is not a finding: no deadline, no complaint about slow generation; CI repeats the same examples each run
settings.register_profile(
    "house", deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=bool(os.environ.get("CI"))
)
settings.load_profile("house")

_OWN_FOLDER = pytest.StashKey[str]()


def pytest_configure(config: pytest.Config) -> None:
    """Keep temporary folders short: a Unix socket's path ends at 107 bytes, and many tests make one the way a user would."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if config.option.basetemp is None and not hasattr(config, "workerinput"):
        config.option.basetemp = tempfile.mkdtemp(prefix="mt-")
        config.stash[_OWN_FOLDER] = config.option.basetemp


def pytest_unconfigure(config: pytest.Config) -> None:
    """Leave nothing behind."""
    folder = config.stash.get(_OWN_FOLDER, None)
    if folder is not None:
        shutil.rmtree(folder, ignore_errors=True)


def _refuse_skip(report: pytest.TestReport | pytest.CollectReport) -> None:
    if not os.environ.get("CI") or not report.skipped or hasattr(report, "wasxfail"):
        return
    reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    report.outcome = "failed"
    report.longrepr = f"CI skips nothing, but {report.nodeid or 'a test'} was skipped: {reason}"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Turn a skipped test into a failed one in CI."""
    report = yield
    _refuse_skip(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """Turn a module skipped as a whole into an error in CI."""
    report = yield
    _refuse_skip(report)
    return report
