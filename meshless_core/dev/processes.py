"""Child processes of a dev mesh: started, prefixed, restarted, ended with everything they started.

Every child is run by a first process of its own (`first_process`), which ends all that came of it, daemons too, when the child
ends, when we say so, or when the supervisor is gone, even if that one is killed (PR_SET_PDEATHSIG).
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import logging
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Final, Literal

from meshless_core.dev import first_process
from meshless_core.dev.output import OutputLines

__all__ = ["ChildProcess", "RestartPolicy"]

logger = logging.getLogger(__name__)

RestartPolicy = Literal["Always", "OnFailure", "Never"]

_PR_SET_PDEATHSIG: Final = 1
_FIRST_RESTART: Final = 0.2  # seconds
_LAST_RESTART: Final = 10.0  # seconds
_STABLE_SECONDS: Final = 10.0

_prctl = ctypes.CDLL(None).prctl


def _end_with_parent() -> None:
    _prctl(_PR_SET_PDEATHSIG, first_process.END)


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
        """Process id of its first process while it runs; also of its process group."""
        return self._process.pid if self._process is not None and self._process.returncode is None else None

    def start(self) -> None:
        """Start it; returns at once."""
        self._task = asyncio.create_task(self._keep_running(), name=f"process {self.name}")

    async def stop(self) -> None:
        """SIGTERM to its process group, after the grace period SIGKILL to what is left; returns when everything is gone."""
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
        # A pipe of our own, so that we can close it: `Process` would wait with us for whoever else holds it.
        read_end, write_end = os.pipe()
        status, status_of_child = os.pipe()
        with os.fdopen(read_end, "rb", buffering=0), os.fdopen(status, "rb", buffering=0):
            try:
                process = await asyncio.create_subprocess_exec(
                    *(sys.executable, "-I", "-S", first_process.__file__, str(status_of_child), *self._argv),
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=write_end,
                    stderr=asyncio.subprocess.STDOUT,
                    env=self._env,
                    cwd=self._cwd,
                    start_new_session=True,
                    pass_fds=(status_of_child,),
                    preexec_fn=_end_with_parent,
                )
            except OSError as error:
                self._not_started(error)
                return None
            finally:
                os.close(write_end)
                os.close(status_of_child)
            self._process = process
            output = OutputLines(read_end, lambda line: self._write(f"[{self.name}] {line}\n"))
            running = False
            try:
                if problem := await _read_status(status):
                    self._not_started(OSError(problem, os.strerror(problem)))
                    return None
                running = True
                self.started.set()
                self._on_running(True)
                return await process.wait()
            finally:
                if process.returncode is None:
                    process.send_signal(first_process.END)
                    await process.wait()
                _signal_group(process.pid, signal.SIGKILL)  # if somebody killed the first process itself
                output.finish()  # what became another user's may hold the pipe open: nobody waits for it
                self._process = None
                if running:
                    self._on_running(False)

    def _not_started(self, error: OSError) -> None:
        logger.error("%s cannot be started: %s: %s", self.name, self._argv[0], error.strerror)
        self.started.set()


async def _read_status(descriptor: int) -> int:
    """What a first process says of its program: 0 once it runs, else the errno of what kept it from running."""
    loop = asyncio.get_running_loop()
    readable = asyncio.Event()
    loop.add_reader(descriptor, readable.set)
    try:
        await readable.wait()
    finally:
        loop.remove_reader(descriptor)
    return int(os.read(descriptor, 16) or 0)


def _signal_group(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, number)


def _ending(code: int | None) -> str:
    if code is None:
        return "a failure to start"
    return f"exit code {code}" if code >= 0 else signal.Signals(-code).name
