"""Results as tables: ratios first, then what this machine did in this run, then the targets."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from bench.paths import ALL_PATHS, BASELINES, Group, Path
from bench.ratios import Spread, by_round, ratios, spread
from bench.results import Results
from bench.sdk_import import import_table
from bench.targets import verdicts
from bench.works import ALL_WORKS, Sample, Work

__all__ = ["print_report", "ratio_of"]


def print_report(results: Results, console: Console) -> None:
    """Print everything a reader of the run wants to see."""
    measured = {sample.path for sample in results.samples} | {finding.path for finding in results.memory}
    paths = [path for path in ALL_PATHS if path.name in measured]
    works = [work for work in ALL_WORKS if any(sample.work == work.name for sample in results.samples)]
    for group in Group:
        members = [path for path in paths if path.group is group]
        if members and works:
            console.print(_ratio_table(results, group, members, works))
    if works:
        console.print(_absolute_table(results, paths, works))
        console.print(_cpu_table(results, paths, works))
    console.print(_memory_table(results))
    if results.imports:
        console.print(import_table(results.imports))
    console.print(_target_table(results))
    for path in paths:
        console.print(f"{path.name}: {path.describes}", soft_wrap=True)
    for failure in results.failures:
        where = " ".join(
            filter(None, (failure.path, failure.work, None if failure.round is None else f"round {failure.round + 1}"))
        )
        console.print(f"[red]not measured[/red] {where}: {escape(failure.message)}", soft_wrap=True)


def ratio_of(results: Results, path: Path, work: str) -> Spread | None:
    """How a path's rate compares with its group's baseline, per round."""
    mine = by_round(results.samples, path.name, work, _rate)
    base = by_round(results.samples, BASELINES[path.group], work, _rate)
    return ratios(mine, base)


def _rate(sample: Sample) -> float:
    return sample.rate


def _ratio_table(results: Results, group: Group, paths: Sequence[Path], works: Sequence[Work]) -> Table:
    base = BASELINES[group]
    table = Table(
        title=f"{group.value}: rate as a ratio to {base}, per round: median (min..max); higher is better", title_justify="left"
    )
    table.add_column("path")
    for work in works:
        table.add_column(work.name, justify="right")
    for path in paths:
        table.add_row(path.name, *(_ratio_cell(ratio_of(results, path, work.name)) for work in works))
    return table


def _ratio_cell(found: Spread | None) -> str:
    return "-" if found is None else f"{found.median:.2f} ({found.low:.2f}..{found.high:.2f})"


def _absolute_table(results: Results, paths: Sequence[Path], works: Sequence[Work]) -> Table:
    table = Table(
        title="this machine, this run, medians (for orientation only: compare ratios, not these)", title_justify="left"
    )
    table.add_column("path")
    for work in works:
        table.add_column(f"{work.name} {work.unit}", justify="right")
        if work.mode != "bulk":
            table.add_column("p50/p99 us", justify="right")
    for path in paths:
        cells = []
        for work in works:
            cells.append(_median(results, path, work, _rate, lambda value: _short(value)))
            if work.mode != "bulk":
                p50 = _median(results, path, work, lambda sample: sample.p50_us, lambda value: f"{value:.0f}")
                p99 = _median(results, path, work, lambda sample: sample.p99_us, lambda value: f"{value:.0f}")
                cells.append(f"{p50}/{p99}")
        table.add_row(path.name, *cells)
    return table


def _cpu_table(results: Results, paths: Sequence[Path], works: Sequence[Work]) -> Table:
    table = Table(
        title="CPU seconds of the processes between client and server, medians; lower is better", title_justify="left"
    )
    table.add_column("path")
    for work in works:
        table.add_column(f"{work.name}, per {work.per_name}", justify="right")
    for path in paths:
        if path.group is not Group.DIRECT:
            table.add_row(
                path.name,
                *(_median(results, path, work, lambda sample: sample.cpu_per, lambda value: f"{value:.3f}") for work in works),
            )
    return table


def _memory_table(results: Results) -> Table:
    table = Table(title="memory", title_justify="left")
    for column in ("path", "resident at start (shared once)", "per idle connection, all hops"):
        table.add_column(column, justify="left" if column == "path" else "right")
    for finding in results.memory:
        start = ", ".join(
            f"{part} {size / 1e6:.1f} MB ({finding.proportional_at_start[part] / 1e6:.1f})"
            for part, size in finding.resident_at_start.items()
        )
        each = "-" if finding.per_connection is None else f"{finding.per_connection / 1e3:.1f} kB of {finding.idle_connections}"
        table.add_row(finding.path, start, each)
    return table


def _target_table(results: Results) -> Table:
    table = Table(title="targets", title_justify="left")
    for column in ("what", "target", "measured", ""):
        table.add_column(column, justify="left" if column in ("what", "") else "right")
    words = {True: "[green]reached[/green]", False: "[red]missed[/red]", None: "-"}
    for verdict in verdicts(results):
        table.add_row(verdict.what, verdict.target, verdict.measured, words[verdict.reached])
    return table


def _median(
    results: Results,
    path: Path,
    work: Work,
    value: Callable[[Sample], float | None],
    show: Callable[[float], str],
) -> str:
    found = spread(by_round(results.samples, path.name, work.name, value).values())
    return "-" if found is None else show(found.median)


def _short(value: float) -> str:
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.2f}{letter}"
    return f"{value:.0f}"
