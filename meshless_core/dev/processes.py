"""Child processes of a dev mesh: started, prefixed, restarted, ended with everything they started.

Every child gets a session of its own, so that it ends together with its children, and dies with the supervisor even if that one
is killed (PR_SET_PDEATHSIG).
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import logging
import os
import signal
from collections.abc import Callable, Mapping, Sequence
from typing import Final, Literal

from meshless_core.dev.output import OutputLines

__all__ = ["ChildProcess", "RestartPolicy"]

logger = logging.getLogger(__name__)

RestartPolicy = Literal["Always", "OnFailure", "Never"]

_PR_SET_PDEATHSIG: Final = 1
_FIRST_RESTART: Final = 0.2  # seconds
_LAST_RESTART: Final = 10.0  # seconds
_STABLE_SECONDS: Final = 10.0

_prctl = ctypes.CDLL(None).prctl


def _die_with_parent() -> None:
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


class ChildProcess:
    """A process that is kept running until `stop`.

    Args:
        name: prefix of its output and name in the log.
        argv: program and arguments.
        env: its whole environment.
        cwd: its working directory.
        write: takes one line of output, prefix and newline included.
        on_running: told True when it was started, False when it ended.
        restart: whether it is started again when it ends; as in Kubernetes.
        grace: seconds between SIGTERM and SIGKILL.
    """

    def __init__(
        self,
        name: str,
        argv: Sequence[str],
        *,
        env: Mapping[str, str],
        cwd: str | None = None,
        write: Callable[[str], object],
        on_running: Callable[[bool], None] = lambda _running: None,
        restart: RestartPolicy = "Always",
        grace: float = 5.0,
    ) -> None:
        self.name = name
        self._argv = list(argv)
        self._env = dict(env)
        self._cwd = cwd
        self._write = write
        self._on_running = on_running
        self._restart = restart
        self._grace = grace
        self._process: asyncio.subprocess.Process | None = None
        self._task: asyncio.Task[None] | None = None
        self.restarts = 0
        self.started = asyncio.Event()
        """Set once the process has been started for the first time."""

    @property
    def pid(self) -> int | None:
        """Its process id while it runs."""
        return self._process.pid if self._process is not None and self._process.returncode is None else None

    def start(self) -> None:
        """Start it; returns at once."""
        self._task = asyncio.create_task(self._keep_running(), name=f"process {self.name}")

    async def stop(self) -> None:
        """SIGTERM to its process group, after the grace period SIGKILL to what is left; returns when the process is gone."""
        task, self._task = self._task, None
        if task is None:
            return
        self._restart = "Never"
        process = self._process
        if process is not None and process.returncode is None:
            _signal_group(process.pid, signal.SIGTERM)
            await asyncio.wait({task}, timeout=self._grace)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task

    async def _keep_running(self) -> None:
        delay = _FIRST_RESTART
        loop = asyncio.get_running_loop()
        while True:
            began = loop.time()
            code = await self._run_once()
            if self._restart == "Never" or (self._restart == "OnFailure" and code == 0):
                if self._task is not None:
                    logger.info("%s ended with %s and is not restarted", self.name, _ending(code))
                return
            if loop.time() - began >= _STABLE_SECONDS:
                delay = _FIRST_RESTART
            logger.warning("%s ended with %s; restarting in %.1f s", self.name, _ending(code), delay)
            await asyncio.sleep(delay)
            delay = min(delay * 2, _LAST_RESTART)
            self.restarts += 1

    async def _run_once(self) -> int | None:
        # A pipe of our own, so that we can close it: `Process` would wait with us for a daemon that left the session to end.
        read_end, write_end = os.pipe()
        with os.fdopen(read_end, "rb", buffering=0):
            try:
                process = await asyncio.create_subprocess_exec(
                    *self._argv,
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=write_end,
                    stderr=asyncio.subprocess.STDOUT,
                    env=self._env,
                    cwd=self._cwd,
                    start_new_session=True,
                    preexec_fn=_die_with_parent,
                )
            except OSError as error:
                logger.error("%s cannot be started: %s: %s", self.name, self._argv[0], error.strerror)
                self.started.set()
                return None
            finally:
                os.close(write_end)
            self._process = process
            self.started.set()
            self._on_running(True)
            output = OutputLines(read_end, lambda line: self._write(f"[{self.name}] {line}\n"))
            try:
                return await process.wait()
            finally:
                _signal_group(process.pid, signal.SIGKILL)  # as in a container, all that the process started ends with it
                await process.wait()
                output.finish()  # a daemon that left the session may hold the pipe open: nobody waits for it
                self._process = None
                self._on_running(False)


def _signal_group(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, number)


def _ending(code: int | None) -> str:
    if code is None:
        return "a failure to start"
    return f"exit code {code}" if code >= 0 else signal.Signals(-code).name
