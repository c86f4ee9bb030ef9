"""Plays the kubelet for pods whose containers have a `command`: runs them as processes, and reports whether they run.

A container gets `MESHLESS_DIR` (the pod's folder), `POD_NAME`, `POD_NAMESPACE` and its own `env`. A pod without a command has
no process: it is the developer's to play, and counts as ready.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs

from meshless_core.dev.processes import ChildProcess, RestartPolicy
from meshless_core.types import PodRef

__all__ = ["PodProcesses", "PodRun"]

logger = logging.getLogger(__name__)


@attrs.frozen
class PodRun:
    """A pod as far as running it goes.

    Attributes:
        pod: its name.
        uid: its uid; another uid is another pod.
        containers: name, command and environment of each container that has a command.
        restart: the pod's restartPolicy.
    """

    pod: PodRef
    uid: str
    containers: tuple[tuple[str, tuple[str, ...], tuple[tuple[str, str], ...]], ...]
    restart: RestartPolicy

    @classmethod
    def of(cls, obj: Mapping[str, Any]) -> PodRun:
        """Read a Pod object that the reconciler accepted."""
        metadata, spec = obj["metadata"], obj.get("spec") or {}
        containers = []
        for container in spec.get("containers") or ():
            argv = tuple(map(str, (*(container.get("command") or ()), *(container.get("args") or ()))))
            if container.get("command"):
                env = tuple((str(e["name"]), str(e.get("value", ""))) for e in container.get("env") or ())
                containers.append((str(container.get("name", "main")), argv, env))
        restart: RestartPolicy = spec.get("restartPolicy", "Always")
        return cls(
            PodRef(metadata.get("namespace", "default"), metadata["name"]),
            metadata.get("uid", ""),
            tuple(containers),
            restart if restart in ("Always", "OnFailure", "Never") else "Always",
        )


class PodProcesses:
    """The processes of all pods.

    Args:
        pods_dir: folder of the pods' folders.
        cwd: working directory of the processes: where the YAML file is, so that it may name files beside it.
        write: takes lines of output.
        on_ready: told whether a pod with processes runs now.
    """

    def __init__(
        self, pods_dir: Path, cwd: Path, write: Callable[[str], object], on_ready: Callable[[PodRef, bool], None]
    ) -> None:
        self._pods_dir = pods_dir
        self._cwd = cwd
        self._write = write
        self._on_ready = on_ready
        self._running: dict[PodRef, tuple[PodRun, list[ChildProcess]]] = {}
        self._alive: dict[PodRef, list[bool]] = {}

    @property
    def processes(self) -> Sequence[ChildProcess]:
        """All processes there are."""
        return [process for _, processes in self._running.values() for process in processes]

    @property
    def pods(self) -> Sequence[PodRef]:
        """The pods that have processes."""
        return list(self._running)

    async def apply(self, wanted: Mapping[PodRef, PodRun]) -> None:
        """Start what is new, stop what is gone or changed. The pods' folders have to be there already."""
        for pod in [pod for pod, (run, _) in self._running.items() if wanted.get(pod) != run]:
            _, processes = self._running.pop(pod)
            for process in processes:
                await process.stop()
        for pod, run in wanted.items():
            if pod in self._running or not run.containers:
                continue
            self._alive[pod] = [False] * len(run.containers)
            processes = [self._process(run, index) for index in range(len(run.containers))]
            self._running[pod] = (run, processes)
            for process in processes:
                process.start()

    async def stop(self) -> None:
        """Stop everything."""
        await self.apply({})

    def _process(self, run: PodRun, index: int) -> ChildProcess:
        name, argv, env = run.containers[index]
        environment = {
            **os.environ,
            # `python` in a command is the one that has the SDK, also for who runs .venv/bin/meshless without activating it
            "PATH": os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath))),
            "PYTHONUNBUFFERED": "1",
            **dict(env),
            "MESHLESS_DIR": str(self._pods_dir / run.pod.namespace / run.pod.name),
            "POD_NAME": run.pod.name,
            "POD_NAMESPACE": run.pod.namespace,
        }
        prefix = f"{run.pod}" if len(run.containers) == 1 else f"{run.pod}/{name}"
        return ChildProcess(
            prefix,
            argv,
            env=environment,
            cwd=str(self._cwd),
            write=self._write,
            on_running=lambda running: self._tell(run, index, running),
            restart=run.restart,
        )

    def _tell(self, run: PodRun, index: int, running: bool) -> None:
        current = self._running.get(run.pod)
        if current is None or current[0] != run:
            return  # of a pod that was replaced meanwhile
        states = self._alive[run.pod]
        states[index] = running
        self._on_ready(run.pod, all(states))
