"""Programs the recipes use, where they are, and what to say if one is missing."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).resolve().parents[2]

PACKAGES: Final = dict(
    line.split() for line in (ROOT / ".ci" / "interop-programs").read_text(encoding="utf-8").splitlines() if line[:1] != "#"
)
"""The Debian package of each program."""


def search_path() -> str:
    """`PATH` with this environment before it, and the folders after it where Debian keeps servers."""
    servers = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda folder: float(folder.parent.name), reverse=True)
    folders = [str(Path(sys.executable).parent), os.environ["PATH"], "/usr/sbin", *map(str, servers[:1])]
    return os.pathsep.join(folders)


def needs(*programs: str) -> pytest.MarkDecorator:
    """Skip what is marked if a program is not there, naming the package that has it."""
    missing = sorted({PACKAGES[name] for name in programs if not shutil.which(name, path=search_path())})
    return pytest.mark.skipif(bool(missing), reason=f"missing: {' '.join(missing)}; 'make test-interop' as root installs them")
