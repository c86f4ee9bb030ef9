from __future__ import annotations

import os
import select
import sys
from pathlib import Path

import pytest

from bench.errors import PathUnavailableError
from bench.processes import Process, cpu_seconds_of, memory_of, pinned, tree_of, wait_until_accepting


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def test_a_process_that_ends_early_is_reported_with_its_last_words(tmp_path: Path) -> None:
    gone = Process("gone", python("import sys; sys.exit('no such port')"), tmp_path / "log")
    with gone, pytest.raises(PathUnavailableError, match="gone ended with status 1: no such port"):
        wait_until_accepting(f"unix:{tmp_path}/socket", gone)


def test_stopping_ends_the_children_too(tmp_path: Path) -> None:
    code = (
        "import subprocess, sys, pathlib, time\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        f"import socket; s = socket.socket(socket.AF_UNIX); s.bind('{tmp_path}/s'); s.listen()\n"
        "time.sleep(600)\n"
    )
    with Process("parent", python(code), tmp_path / "log") as process:
        wait_until_accepting(f"unix:{tmp_path}/s", process)
        tree = tree_of([process.pid])
        assert len(tree) == 2
        assert memory_of(tree).resident > memory_of([process.pid]).resident > 0
        ends = [os.pidfd_open(pid) for pid in tree]
    try:
        for end in ends:  # readable once the process is dead
            assert select.select([end], [], [], 10)[0] == [end]
    finally:
        for end in ends:
            os.close(end)


def test_cpu_time_of_a_working_process_grows() -> None:
    before = cpu_seconds_of([os.getpid()])
    while cpu_seconds_of([os.getpid()]) == before:
        sum(range(10_000))
    assert cpu_seconds_of([os.getpid()]) > before


def test_a_process_that_has_gone_costs_nothing() -> None:
    assert cpu_seconds_of([2**22 + 1]) == 0.0


def test_pinning_holds_for_processes_started_inside_and_is_undone(tmp_path: Path) -> None:
    before = os.sched_getaffinity(0)
    one = frozenset([max(before)])
    log = tmp_path / "log"
    with pinned(one), Process("child", python("import os; print(os.sched_getaffinity(0))"), log) as process:
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert log.read_text().strip() == str(set(one))
    assert os.sched_getaffinity(0) == before
