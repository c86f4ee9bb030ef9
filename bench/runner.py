"""Sets up all paths at once, lets them take turns at the same work, and tears everything down.

Turns are interleaved (round, work, path) and every other round goes backwards, so that what the machine does meanwhile
meets all paths alike. Must not compute ratios or print tables.
"""

from __future__ import annotations

import contextlib
import resource
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path as FilePath

import attrs

from bench.errors import BenchError, MeasurementError, PathUnavailableError
from bench.load_program import Load
from bench.paths import Path, Route, Stage
from bench.processes import memory_of, tree_of
from bench.results import Failure, MemoryFinding, Results
from bench.works import Work, measure

__all__ = ["Plan", "Reporter", "run"]

_SETTLE_SECONDS = 0.5


@attrs.frozen
class Plan:
    """What to do. `ends_on` and `proxies_on` are CPU numbers, None: wherever the kernel likes."""

    paths: Sequence[Path]
    works: Sequence[Work]
    rounds: int
    seconds: float
    warmup_seconds: float
    idle_connections: int
    install: bool
    ends_on: frozenset[int] | None = None
    proxies_on: frozenset[int] | None = None

    @property
    def steps(self) -> int:
        """How many times `Reporter.step` is called if nothing fails."""
        return len(self.paths) * (len(self.works) * (self.rounds + 1) + 1)


@attrs.frozen
class Reporter:
    """How the run tells what it does: `say` a line, `step` what it does now."""

    say: Callable[[str], None]
    step: Callable[[str], None]


@attrs.frozen
class _Standing:
    path: Path
    route: Route
    resident: dict[str, int]
    proportional: dict[str, int]


def run(plan: Plan, load: Load, results: Results, reporter: Reporter) -> None:
    """Measure everything in the plan; what fails is noted in the results and the rest goes on.

    Raises:
        BenchError: not one path could be set up.
    """
    _raise_descriptor_limit()
    with contextlib.ExitStack() as stack:
        # a short path: a Unix socket's address has room for 107 bytes
        root = FilePath(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-", ignore_cleanup_errors=True)))
        root.chmod(0o755)
        standing = [made for path in plan.paths if (made := _set_up(plan, path, root, load, stack, results, reporter))]
        if not standing:
            raise BenchError("no path could be set up: " + "; ".join(failure.message for failure in results.failures))
        broken = _warm_up(plan, load, standing, results, reporter)
        for number in range(plan.rounds):
            turns = standing if number % 2 == 0 else standing[::-1]
            for work in plan.works:
                for one in turns:
                    reporter.step(f"round {number + 1}: {work.name} {one.path.name}")
                    if (one.path.name, work.name) not in broken:
                        _measure(plan.seconds, number, work, one, load, results, reporter)
        for one in standing:
            reporter.step(f"memory {one.path.name}")
            _measure_memory(plan.idle_connections, one, load, results, reporter)


def _set_up(
    plan: Plan,
    path: Path,
    root: FilePath,
    load: Load,
    stack: contextlib.ExitStack,
    results: Results,
    reporter: Reporter,
) -> _Standing | None:
    folder = root / path.name
    folder.mkdir()
    own = contextlib.ExitStack()
    stage = Stage(folder, load, own, plan.install, reporter.say, plan.ends_on, plan.proxies_on)
    try:
        route = path.start(stage)
    except PathUnavailableError as error:
        own.close()
        results.failures.append(Failure(path.name, None, None, str(error)))
        reporter.say(f"{path.name}: left out: {error}")
        return None
    except BaseException:
        own.close()
        raise
    stack.push(own)
    if route.parts:
        reporter.say(f"{path.name}: " + ", ".join(f"{part} is process {pid}" for part, pid in route.parts.items()))
    memory = {part: memory_of(tree_of([pid])) for part, pid in route.parts.items()}
    return _Standing(
        path,
        route,
        {part: found.resident for part, found in memory.items()},
        {part: found.proportional for part, found in memory.items()},
    )


def _warm_up(
    plan: Plan, load: Load, standing: Sequence[_Standing], results: Results, reporter: Reporter
) -> set[tuple[str, str]]:
    """Each work once on each path, not counted. Returns what failed, so that the rounds leave it out."""
    broken = set()
    for work in plan.works:
        for one in standing:
            reporter.step(f"warm-up: {work.name} {one.path.name}")
            try:
                measure(load, work, one.path.name, one.route, -1, plan.warmup_seconds)
            except MeasurementError as error:
                broken.add((one.path.name, work.name))
                results.failures.append(Failure(one.path.name, work.name, None, str(error)))
                reporter.say(f"{one.path.name}: {work.name} failed in the warm-up and is left out: {error}")
    return broken


def _measure(seconds: float, number: int, work: Work, one: _Standing, load: Load, results: Results, reporter: Reporter) -> None:
    try:
        results.samples.append(measure(load, work, one.path.name, one.route, number, seconds))
    except MeasurementError as error:
        results.failures.append(Failure(one.path.name, work.name, number, str(error)))
        reporter.say(f"{one.path.name}: {work.name} failed in round {number + 1}: {error}")


def _measure_memory(connections: int, one: _Standing, load: Load, results: Results, reporter: Reporter) -> None:
    if not one.route.parts:
        return
    pids = tree_of(tuple(one.route.parts.values()))
    before = memory_of(pids).proportional
    per_connection: float | None = None
    try:
        with load.hold(one.route.to, one.route.service, connections, *one.route.options) as held:
            time.sleep(_SETTLE_SECONDS)  # closed sessions of the rounds and the handshakes' garbage are given back meanwhile
            pids = tree_of(tuple(one.route.parts.values()))
            grown = memory_of(pids).proportional - before
        if held.dead:
            raise MeasurementError(f"{held.dead} of {connections} idle connections were cut")
        per_connection = grown / connections
    except MeasurementError as error:
        results.failures.append(Failure(one.path.name, "memory", None, str(error)))
        reporter.say(f"{one.path.name}: memory per connection failed: {error}")
    results.memory.append(MemoryFinding(one.path.name, one.resident, one.proportional, before, connections, per_connection))


def _raise_descriptor_limit() -> None:
    """Thousands of connections need as many descriptors; the programs started here inherit the limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
