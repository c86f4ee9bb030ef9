"""Builds the load generator with the machine's C compiler and runs it.

Must not interpret what was measured: it turns an exit status into an error and a line of JSON into a mapping.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import attrs

from bench.errors import BenchError, MeasurementError
from bench.programs import CC, require

__all__ = ["SOURCES", "Held", "Load", "build"]

SOURCES = Path(__file__).parent / "load"
_BINARY = Path(__file__).parent / "bin" / "load"
_FLAGS = ("-std=gnu11", "-O2", "-g", "-Wall", "-Wextra", "-Wconversion", "-Wno-sign-conversion")
_GRACE_SECONDS = 30.0


@attrs.frozen
class Load:
    """The load generator, ready to run."""

    binary: Path

    def run(self, mode: str, to: str, service: str | None, seconds: float, *options: str) -> Mapping[str, Any]:
        """Run one measurement and return what it printed.

        Args:
            mode: `echo`, `bulk` or `connect`.
            to: the address, `unix:/path` or `tcp:host:port`.
            service: the service id of the handshake; None for a path that has none.
            seconds: length of the measurement.
            options: further options of the program.

        Raises:
            MeasurementError: it failed, or did not end within 30 seconds after its time.
        """
        command = self.command(mode, to, service, "--seconds", f"{seconds}", *options)
        try:
            done = subprocess.run(
                command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=seconds + _GRACE_SECONDS, check=False
            )
        except subprocess.TimeoutExpired as error:
            raise MeasurementError(f"load {mode} to {to} did not end in time") from error
        if done.returncode != 0:
            raise MeasurementError(
                done.stderr.strip().removeprefix("load: ") or f"load {mode} died with status {done.returncode}"
            )
        result: Mapping[str, Any] = json.loads(done.stdout)
        return result

    def command(self, mode: str, to: str, service: str | None, *options: str) -> list[str]:
        """The command line for a mode that connects."""
        handshake = [] if service is None else ["--service", service]
        return [str(self.binary), mode, "--to", to, *handshake, *options]

    def serve_command(self, *addresses: str) -> list[str]:
        """The command line of the far end."""
        return [str(self.binary), "serve", *(part for address in addresses for part in ("--at", address))]

    def hold(self, to: str, service: str | None, connections: int, *options: str) -> Held:
        """Open idle connections and keep them open until the returned object is closed.

        Raises:
            MeasurementError: not all of them could be opened.
        """
        return Held(self.command("idle", to, service, "--connections", str(connections), *options))


class Held:
    """Idle connections that are open; a context manager. `dead` is how many were cut meanwhile, known after `close`."""

    def __init__(self, command: list[str]) -> None:
        self.dead = 0
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        assert self._process.stdout is not None
        if not self._process.stdout.readline():
            self.close()

    def close(self) -> None:
        """Close the connections.

        Raises:
            MeasurementError: some could not be opened.
        """
        output, errors = self._process.communicate()
        lines = output.splitlines()
        if not lines:
            raise MeasurementError(errors.strip().removeprefix("load: ") or "load idle died without a word")
        self.dead = json.loads(lines[-1])["dead"]

    def __enter__(self) -> Held:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def build(install: bool, say: Callable[[str], None], binary: Path = _BINARY) -> Load:
    """Compile the load generator if its sources are newer than the program.

    Raises:
        BenchError: there is no compiler (the message says what to install), or it does not compile.
    """
    sources = sorted(SOURCES.glob("*.[ch]"))
    if binary.exists() and binary.stat().st_mtime >= max(source.stat().st_mtime for source in sources):
        return Load(binary)
    compiler = require(CC, install, say)
    binary.parent.mkdir(parents=True, exist_ok=True)
    say("compiling the load generator")
    units = [str(source) for source in sources if source.suffix == ".c"]
    done = subprocess.run([compiler, *_FLAGS, "-o", str(binary), *units, "-lm"], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise BenchError(f"the load generator does not compile with {compiler}: {done.stderr.strip()}")
    return Load(binary)
