"""`meshless check`: is everything in order, and if not what to do.

Puts together what agents tell, what the control plane left in the run directory and what the file system shows; the judging
itself is in `meshless_core.cli.checks`.
"""

from __future__ import annotations

import asyncio
import collections
import time
from collections.abc import Iterator, Sequence

import click

from meshless_core.cli.addresses import Address
from meshless_core.cli.agents import Answer, agents_options, ask_agents, find_agents, require_answers
from meshless_core.cli.checks import Finding, Level
from meshless_core.cli.checks.agents import check_agent, check_agreement
from meshless_core.cli.checks.control_plane import check_reconciler, check_roots
from meshless_core.cli.checks.service_sockets import check_sockets
from meshless_core.cli.exit_codes import ExitCode
from meshless_core.cli.options import output_option
from meshless_core.cli.output import emit
from meshless_core.config import Config, load_config
from meshless_core.dev.layout import RunLayout
from meshless_core.errors import MeshlessError

__all__ = ["command"]


@click.command()
@agents_options
@output_option
def command(run_dir: str, admins: tuple[Address, ...], output: str) -> int:
    """Say whether everything is in order, and if not what to do.

    Looks at agents, socketd, documents, identities, limits and plugins; with a run directory also at the reconciler, every
    Meshlet's conditions, the roots, and the sockets the pods should listen on. Changes nothing and connects to no application.
    Exit code 0: nothing is wrong, though there may be warnings; 1: there are problems; 3: no agent can be reached.

    \b
    Examples:
      meshless check
      meshless check --output json | jq '.findings[] | select(.result != "ok")'
    """
    answers = asyncio.run(ask_agents(find_agents(run_dir, admins), "/status"))
    require_answers(answers)
    findings = list(_findings(answers, None if admins else RunLayout(run_dir), time.time()))
    counts = collections.Counter(finding.level for finding in findings)
    worst = Level.PROBLEM if counts[Level.PROBLEM] else Level.WARNING if counts[Level.WARNING] else Level.OK
    rows = [finding.to_dict() for finding in findings]
    if output == "table":
        emit(rows, ["area", "subject", "result", "message", "fix"], output)
        click.echo(_verdict(counts))
    else:
        emit({"result": worst.value, "findings": rows}, [], output)
    return ExitCode.NO if worst is Level.PROBLEM else ExitCode.OK


def _findings(answers: Sequence[Answer], run: RunLayout | None, now: float) -> Iterator[Finding]:
    statuses = [answer.value for answer in answers if answer.error is None]
    config = Config()
    if run is not None:
        try:
            config = load_config(str(run.config))
        except MeshlessError as error:
            yield Finding.problem("run directory", run.config.name, str(error), "start the mesh again")
    resync = float(config.reconciler.resync)
    for answer in answers:
        if answer.error is not None:
            fix = "start it; a dev mesh does so by itself: look again in a second, then at the output of meshless dev"
            yield Finding.problem("agent", answer.agent.name, str(answer.error), fix)
    for status in statuses:
        yield from check_agent(status, now=now, resync=resync)
    yield from check_agreement(statuses)
    if run is None:
        return
    yield from check_reconciler(run.status, now=now, resync=resync)
    yield from check_roots(run.authority / "bundle.pem", now=now)
    for status in statuses:
        yield from check_sockets(status, run.pods)


def _verdict(counts: collections.Counter[Level]) -> str:
    problems, warnings = counts[Level.PROBLEM], counts[Level.WARNING]
    if not problems and not warnings:
        return "everything is in order"
    parts = [
        f"{number} {word}{'' if number == 1 else 's'}"
        for number, word in ((problems, "problem"), (warnings, "warning"))
        if number
    ]
    return ", ".join(parts)
