"""Builds the client that was written in C from the specification page alone."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

_FOLDER = Path(__file__).parent
_FLAGS = ("-std=c11", "-O1", "-g", "-Wall", "-Wextra", "-Wshadow", "-Wconversion", "-Werror")
_SANITIZERS = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all")


def build_c_client(folder: Path) -> Path:
    """Compile into `folder`, with the sanitizers where the compiler has them; without a C compiler the test is skipped."""
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        pytest.skip("no C compiler: install gcc and libc6-dev")
    program = folder / "meshless-c-client"
    command = [compiler, *_FLAGS, "-o", str(program), str(_FOLDER / "main.c"), str(_FOLDER / "handshake_v2.c")]
    probe = subprocess.run(
        [compiler, *_SANITIZERS, "-x", "c", "-", "-o", str(folder / "probe")],
        input="int main(void) { return 0; }",
        text=True,
        capture_output=True,
        check=False,
    )
    if probe.returncode == 0:
        command[1:1] = _SANITIZERS
    built = subprocess.run(command, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    return program
