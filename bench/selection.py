"""Which paths and works a run measures, from what the user asked for."""

from __future__ import annotations

import os
from collections.abc import Sequence

from bench.errors import BenchError
from bench.paths import ALL_PATHS, BASELINES, Path
from bench.works import ALL_WORKS, Work

__all__ = ["cpus_apart", "select"]


def select(only: Sequence[str], quick: bool) -> tuple[list[Path], list[Work]]:
    """Choose by name: naming paths limits the paths, naming works limits the works.

    What a path is compared with is measured too.

    Raises:
        BenchError: a name is neither a path nor a work.
    """
    paths = {path.name: path for path in ALL_PATHS}
    works = {work.name: work for work in ALL_WORKS}
    unknown = [name for name in only if name not in paths and name not in works]
    if unknown:
        raise BenchError(
            f"--only {','.join(unknown)}: no such path or work; paths: {', '.join(paths)}; works: {', '.join(works)}"
        )
    named = [paths[name] for name in only if name in paths] or [path for path in ALL_PATHS if path.in_quick or not quick]
    wanted = {path.name for path in named} | {BASELINES[path.group] for path in named}
    if "meshless" in wanted:
        wanted.add("direct-unix")  # the latency an agent adds is counted from the bare socket
    if "meshless-handoff" in wanted:
        wanted.add("direct-tcp")  # the way without a mesh that it has to beat
    chosen_works = [work for work in ALL_WORKS if work.name in only] or list(ALL_WORKS)
    return [path for path in ALL_PATHS if path.name in wanted], chosen_works


def cpus_apart() -> tuple[frozenset[int], frozenset[int]]:
    """Split the CPUs we may use: one half for load and server, the other for what is between them.

    Raises:
        BenchError: there is only one.
    """
    cpus = sorted(os.sched_getaffinity(0))
    if len(cpus) < 2:
        raise BenchError("--pin needs at least 2 CPUs: run without it")
    middle = len(cpus) // 2
    return frozenset(cpus[:middle]), frozenset(cpus[middle:])
