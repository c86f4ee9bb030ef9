"""What is measured on: the facts without which a figure says nothing."""

from __future__ import annotations

import datetime
import os
import platform
import subprocess
import sys
from pathlib import Path

from bench.programs import CC, HAPROXY, NGINX, STUNNEL, Program

__all__ = ["facts"]


def facts() -> dict[str, object]:
    """Processor, kernel, versions, load at the start, commit."""
    return {
        "taken": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "cpu": _cpu_model(),
        "cpus": len(os.sched_getaffinity(0)),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "kernel": platform.release(),
        "python": sys.version.split()[0],
        "load_average_at_start": os.getloadavg()[0],
        "haproxy": _version(HAPROXY, "-v"),
        "nginx": _version(NGINX, "-v"),
        "stunnel": _version(STUNNEL, "-version"),
        "compiler": _version(CC, "--version"),
        "commit": _commit(),
    }


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            return value.strip()
    return platform.machine()


def _version(program: Program, option: str) -> str | None:
    command = program.find()
    if command is None:
        return None
    done = subprocess.run([command, option], capture_output=True, text=True, check=False)
    lines = [line for line in (done.stdout + done.stderr).splitlines() if any(character.isdigit() for character in line)]
    return lines[0].strip() if lines else None


def _commit() -> str | None:
    done = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=Path(__file__).parent, capture_output=True, text=True, check=False
    )
    return done.stdout.strip() if done.returncode == 0 else None
