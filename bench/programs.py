"""Finds the foreign programs a run needs, and as root fetches the missing ones from Debian.

Must not install anything but the packages listed here, and nothing without root.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import attrs

from bench.errors import PathUnavailableError

__all__ = ["CC", "HAPROXY", "NGINX", "STUNNEL", "Program", "require"]

_NGINX_STREAM_MODULE = Path("/usr/lib/nginx/modules/ngx_stream_module.so")


@attrs.frozen
class Program:
    """A program, the names it may have, and the Debian packages that bring it."""

    name: str
    commands: tuple[str, ...]
    packages: tuple[str, ...]
    needs_file: Path | None = None

    def find(self) -> str | None:
        """The path of the program, or None while it or a file it needs is missing."""
        if self.needs_file is not None and not self.needs_file.exists():
            return None
        # services live in /usr/sbin, which is not on everyone's PATH
        search = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"])
        return next(filter(None, (shutil.which(command, path=search) for command in self.commands)), None)


CC = Program("a C compiler", ("cc", "gcc", "clang"), ("gcc", "libc6-dev"))
HAPROXY = Program("haproxy", ("haproxy",), ("haproxy",))
STUNNEL = Program("stunnel", ("stunnel4", "stunnel"), ("stunnel4",))
NGINX = Program("nginx with its stream module", ("nginx",), ("nginx-light", "libnginx-mod-stream"), _NGINX_STREAM_MODULE)


def require(program: Program, install: bool, say: Callable[[str], None]) -> str:
    """Return the path of `program`, installing its packages first if it is missing, `install` is set and we are root.

    Raises:
        PathUnavailableError: it is missing and could not be installed; the message names the packages.
    """
    found = program.find()
    if found is not None:
        return found
    command = f"apt-get install {' '.join(program.packages)}"
    if not install or os.geteuid() != 0 or shutil.which("apt-get") is None:
        raise PathUnavailableError(f"{program.name} is missing: run `{command}` as root")
    say(f"installing {' '.join(program.packages)}")
    _apt_get("update", "-qq")
    problem = _apt_get("install", "-y", "-qq", "--no-install-recommends", *program.packages)
    found = program.find()
    if found is None:
        raise PathUnavailableError(f"{program.name} is missing and `{command}` did not bring it: {problem or 'no error shown'}")
    return found


def _apt_get(*arguments: str) -> str:
    # a package's service must not start: policy-rc.d is not ours to write, RUNLEVEL is what invoke-rc.d looks at
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"}
    done = subprocess.run(
        ["apt-get", *arguments], env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    return "" if done.returncode == 0 else done.stderr.strip().splitlines()[-1] if done.stderr.strip() else "apt-get failed"
