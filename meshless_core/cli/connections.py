"""`meshless connections`: the live connections of a mesh, once or as a table that refreshes."""

from __future__ import annotations

import asyncio
import contextlib
import fnmatch
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import attrs
import click

from meshless_core.cli.addresses import Address
from meshless_core.cli.agents import Answer, MeshAgent, agents_options, ask_agents, find_agents, require_answers, warn_of_silent
from meshless_core.cli.exit_codes import ExitCode
from meshless_core.cli.options import output_option
from meshless_core.cli.output import emit

if TYPE_CHECKING:
    from rich.console import RenderableType

__all__ = ["command", "merge_reports"]

_COLUMNS: Final = ("id", "client", "service", "version", "pod", "transport", "node", "age", "to service", "to client", "idle")
_NUMBERS: Final = frozenset({"age", "to service", "to client", "idle"})
_DEFAULT_INTERVAL: Final = 1.0
_LEAST_INTERVAL: Final = 0.1
_Row = dict[str, Any]


@attrs.frozen
class _Filter:
    """Which connections are wanted; `*` and `?` are wildcards."""

    service: str | None
    client: str | None

    def matches(self, row: Mapping[str, Any]) -> bool:
        if self.service is not None and not fnmatch.fnmatchcase(row["service"], self.service):
            return False
        names = [row["source"], row["source_pod"] or ""]
        return self.client is None or any(fnmatch.fnmatchcase(name, self.client) for name in names)


@click.command()
@click.option("--service", metavar="PATTERN", help="Only connections to this service id; * and ? are wildcards.")
@click.option(
    "--client", metavar="PATTERN", help="Only connections of this client, <namespace>/<pod or meshlet>; wildcards too."
)
@click.option("--all", "every", is_flag=True, help="Show both agents' reports of a connection between nodes, not one row.")
@click.option(
    "--watch",
    is_flag=False,
    flag_value=_DEFAULT_INTERVAL,
    type=click.FloatRange(min=_LEAST_INTERVAL),
    metavar="[SECONDS]",
    help="Refresh on a terminal until Ctrl-C, every second unless said otherwise; in a pipe the table is printed once.",
)
@agents_options
@output_option
def command(
    service: str | None,
    client: str | None,
    every: bool,
    watch: float | None,
    run_dir: str,
    admins: tuple[Address, ...],
    output: str,
) -> int:
    """List live connections: who talks to which pod of which service, for how long, how much, and since when silent.

    A connection between nodes is known to both agents and shown once, as the client's agent sees it. JSON and YAML hold whole
    ids (as in the access log), seconds and bytes. Exit code 3: no agent can be reached.

    \b
    Examples:
      meshless connections --watch
      meshless connections --service http.cart.shop --client 'shop/web*' --output json
    """
    agents = find_agents(run_dir, admins)
    wanted = _Filter(service, client)
    if watch is not None and output == "table" and sys.stdout.isatty():
        with contextlib.suppress(KeyboardInterrupt):  # how one leaves a table that refreshes
            asyncio.run(_watch(agents, wanted, every, watch))
        return ExitCode.OK
    answers = asyncio.run(ask_agents(agents, "/connections"))
    require_answers(answers)
    warn_of_silent(answers)
    rows = _rows(answers, wanted, every)
    if output == "table":
        columns = ("reporter", *_COLUMNS) if every else _COLUMNS
        emit([_for_people(row) for row in rows], columns, output)
        if sys.stdout.isatty():
            click.echo(_totals(rows))
    else:
        emit(rows, [], output)
    return ExitCode.OK


def merge_reports(reports: Iterable[Mapping[str, Any]]) -> list[_Row]:
    """One row per connection: what the client's agent reports, or the other one's if that is all there is.

    The client's agent knows the client's pod for certain; the server's agent was told.
    """
    merged: dict[str, _Row] = {}
    for report in reports:
        there = merged.get(report["id"])
        if there is None or there["reporter"] == "destination":
            merged[report["id"]] = dict(report)
    return list(merged.values())


def _rows(answers: Iterable[Answer], wanted: _Filter, every: bool) -> list[_Row]:
    reports = [report for answer in answers if answer.error is None for report in answer.value]
    rows = [dict(report) for report in reports] if every else merge_reports(reports)
    rows = [row for row in rows if wanted.matches(row)]
    return sorted(
        rows, key=lambda row: (row["service"], row["source_pod"] or "", -row["age_seconds"], row["id"], row["reporter"])
    )


async def _watch(agents: Sequence[MeshAgent], wanted: _Filter, every: bool, interval: float) -> None:
    from rich.live import Live

    with Live(auto_refresh=False, screen=True, vertical_overflow="ellipsis") as live:
        while True:
            answers = await ask_agents(agents, "/connections")
            live.update(_screen(answers, wanted, every), refresh=True)
            await asyncio.sleep(interval)


def _screen(answers: Sequence[Answer], wanted: _Filter, every: bool) -> RenderableType:
    """What is on the screen between two refreshes: silent agents, totals, and the table."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    rows = _rows(answers, wanted, every)
    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in ("reporter", *_COLUMNS) if every else _COLUMNS:
        table.add_column(column, justify="right" if column in _NUMBERS else "left", overflow="fold")
    for row in rows:
        shown = _for_people(row)
        table.add_row(*(Text(_printable(shown[str(column.header)])) for column in table.columns))
    silent = [Text(_printable(f"without agent {a.agent.name}: {a.error}"), style="red") for a in answers if a.error is not None]
    # Totals first: a long table is cut at the bottom of the screen.
    return Group(Text(_totals(rows), style="bold"), *silent, Text(), table)


def _totals(rows: Sequence[Mapping[str, Any]]) -> str:
    to_service = sum(row["bytes_to_service"] for row in rows)
    to_client = sum(row["bytes_to_client"] for row in rows)
    services = len({row["service"] for row in rows})
    return (
        f"{len(rows)} connection{'' if len(rows) == 1 else 's'} to {services} service{'' if services == 1 else 's'}, "
        f"{_size(to_service)} to services, {_size(to_client)} to clients"
    )


def _for_people(row: Mapping[str, Any]) -> dict[str, str]:
    unseen = row["transport"] == "handoff"  # its bytes pass by the agent: a number would be a lie
    return {
        "reporter": row["reporter"],
        "id": _short_id(row["id"]),
        "client": row["source_pod"] or row["source"],
        "service": row["service"],
        "version": row["version"] or "-",
        "pod": row["pod"],
        "transport": row["transport"],
        "node": row["node"],
        "age": _duration(row["age_seconds"]),
        "to service": "-" if unseen else _size(row["bytes_to_service"]),
        "to client": "-" if unseen else _size(row["bytes_to_client"]),
        "idle": "-" if unseen else _duration(row["idle_seconds"]),
    }


def _short_id(text: str) -> str:
    """Ids of one agent differ at their end, those of several agents at their beginning: a bit of both."""
    return f"{text[:6]}~{text[20:].lstrip('0')}"


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f}s"
    minutes, rest = divmod(int(seconds), 60)
    if minutes < 60:
        return f"{minutes}m{rest:02d}s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes:02d}m" if hours < 48 else f"{hours // 24}d{hours % 24:02d}h"


def _size(count: int) -> str:
    if count < 1024:
        return f"{count} B"
    size = float(count)
    for unit in ("KiB", "MiB", "GiB"):
        size /= 1024
        if size < 999.5:
            return f"{size:.1f} {unit}" if size < 100 else f"{size:.0f} {unit}"
    return f"{size / 1024:.1f} TiB"


def _printable(text: str) -> str:
    return "".join(char if char.isprintable() else "?" for char in text)
