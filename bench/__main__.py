"""`python -m bench`: the command line."""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from bench.errors import BenchError
from bench.load_program import build
from bench.machine import facts
from bench.paths import ALL_PATHS
from bench.plot import as_svg
from bench.report import print_report
from bench.results import Results, as_document
from bench.runner import Plan, Reporter, run
from bench.sdk_import import measure_imports
from bench.selection import cpus_apart, select
from bench.works import ALL_WORKS

_BUSY = 0.4  # of the CPUs: load and far end need some to themselves
_OUT = Path(__file__).parent / "out"
_QUICK = {"rounds": 3, "seconds": 0.2, "warmup": 0.1, "idle": 200}
_FULL = {"rounds": 5, "seconds": 2.0, "warmup": 0.3, "idle": 2000}


@click.command(context_settings={"max_content_width": 120})
@click.option(
    "--quick",
    is_flag=True,
    help="Under a minute: baselines and Meshless only, 3 short rounds. For a first look, not for claims.",
)
@click.option(
    "--only", default="", metavar="NAME,...", help="Only these paths and works; the baselines of the paths come along."
)
@click.option("--rounds", type=click.IntRange(1, 1000), help="Rounds; medians are taken over them.  [default: 5, quick 3]")
@click.option("--seconds", type=click.FloatRange(0.05, 3600), help="Length of one measurement.  [default: 2, quick 0.2]")
@click.option(
    "--idle", type=click.IntRange(1, 7000), help="Idle connections for the memory each costs.  [default: 2000, quick 200]"
)
@click.option("--pin", is_flag=True, help="Load and server on one half of the CPUs, the programs between them on the other.")
@click.option("--no-install", is_flag=True, help="Never install a missing peer, even as root: leave its paths out.")
@click.option(
    "--output", type=click.Choice(["text", "json"]), default="text", show_default=True, help="What to print at the end."
)
@click.option("--list", "list_names", is_flag=True, help="Show the names of paths and works, and stop.")
def main(
    quick: bool,
    only: str,
    rounds: int | None,
    seconds: float | None,
    idle: int | None,
    pin: bool,
    no_install: bool,
    output: str,
    list_names: bool,
) -> None:
    """Measure Meshless, its peers and the bare sockets on the same work, interleaved; show ratios.

    Writes bench/out/<time>.json and .svg. Exit status: 0 all measured, 1 something could not be, 2 wrong usage.
    Whether targets are reached does not change it.

    Example: python -m bench --only meshless,echo-32 --rounds 9
    """
    if list_names:
        for path in ALL_PATHS:
            click.echo(f"path {path.name:22}{path.describes}")
        for work in ALL_WORKS:
            click.echo(f"work {work.name:22}{work.describes}")
        return
    console = Console(stderr=output == "json", highlight=False)
    try:
        results = _measure(quick, only, rounds, seconds, idle, pin, not no_install, console)
    except BenchError as error:
        raise click.ClickException(str(error)) from error
    document = json.dumps(as_document(results), indent=1)
    _OUT.mkdir(exist_ok=True)
    stem = _OUT / datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H%M%SZ")
    stem.with_suffix(".json").write_text(document + "\n")
    stem.with_suffix(".svg").write_text(as_svg(results))
    if output == "json":
        click.echo(document)
    else:
        # in a pipe there is no width to keep to: a table cut to 80 columns would lose figures
        print_report(results, console if console.is_terminal else Console(width=200, highlight=False))
        console.print(f"written: {stem}.json, {stem.name}.svg", soft_wrap=True)
    sys.exit(1 if results.failures else 0)


def _measure(
    quick: bool,
    only: str,
    rounds: int | None,
    seconds: float | None,
    idle: int | None,
    pin: bool,
    install: bool,
    console: Console,
) -> Results:
    defaults = _QUICK if quick else _FULL
    paths, works = select([name.strip() for name in only.split(",") if name.strip()], quick)
    ends_on, proxies_on = cpus_apart() if pin else (None, None)
    plan = Plan(
        paths=paths,
        works=works,
        rounds=rounds or int(defaults["rounds"]),
        seconds=seconds or defaults["seconds"],
        warmup_seconds=defaults["warmup"],
        idle_connections=idle or int(defaults["idle"]),
        install=install,
        ends_on=ends_on,
        proxies_on=proxies_on,
    )
    settings: dict[str, object] = {
        "rounds": plan.rounds,
        "seconds": plan.seconds,
        "pinned": pin,
        "paths": [path.name for path in paths],
        "works": [work.name for work in works],
    }
    results = Results(facts(), settings)
    # a stop by signal unwinds like Ctrl-C, so that nothing started here is left running
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with _reporter(console, plan.steps) as reporter:
        if os.getloadavg()[0] > _BUSY * len(os.sched_getaffinity(0)):
            reporter.say("the machine is busy with other work: ratios will scatter, see the range beside each median")
        run(plan, build(install, reporter.say), results, reporter)
        if not only:
            results.imports += measure_imports(plan.rounds)
    return results


@contextlib.contextmanager
def _reporter(console: Console, steps: int) -> Iterator[Reporter]:
    """A progress bar on a terminal, a plain line per step elsewhere."""
    if not console.is_terminal:
        done = 0

        def step(what: str) -> None:
            nonlocal done
            done += 1
            click.echo(f"[{done}/{steps}] {what}", err=console.stderr)

        yield Reporter(lambda line: click.echo(line, err=console.stderr), step)
        return
    columns = (TextColumn("{task.description}", table_column=None), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("starting", total=steps)

        def advance(what: str) -> None:
            progress.update(task, advance=1, description=what)

        yield Reporter(lambda line: progress.console.print(line, soft_wrap=True, markup=False), advance)


if __name__ == "__main__":
    main()
