"""Finds the agents that a command is about, and asks them all at once.

`--run-dir` means every node of a dev mesh, `--admin` an agent anywhere. An agent that does not answer is an answer too: what is
known of the others is shown all the same.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

import attrs
import click

from meshless_core.cli.addresses import Address, AddressType
from meshless_core.cli.admin_client import AdminClient
from meshless_core.cli.exit_codes import CommandError, ExitCode
from meshless_core.dev.layout import RunLayout
from meshless_core.errors import MeshlessError

__all__ = ["Answer", "MeshAgent", "agents_options", "ask_agents", "find_agents", "require_answers", "warn_of_silent"]

_F = TypeVar("_F", bound=Callable[..., Any])


@attrs.frozen
class MeshAgent:
    """An agent that can be asked.

    Attributes:
        name: the node's name in a dev mesh, otherwise the admin address.
        admin: its admin endpoint.
    """

    name: str
    admin: AdminClient


@attrs.frozen
class Answer:
    """What an agent answered.

    Attributes:
        agent: the agent.
        value: its answer, None if there is none.
        error: why there is none.
    """

    agent: MeshAgent
    value: Any = None
    error: MeshlessError | None = None


def agents_options(function: _F) -> _F:
    """Add `--run-dir` and `--admin`; the command gets them as `run_dir` and `admins`, for `find_agents`."""
    admin = click.option(
        "--admin",
        "admins",
        multiple=True,
        type=AddressType(),
        metavar="ADDRESS",
        help="Admin endpoint of an agent, unix:<path> or tcp:<host>:<port>, instead of a run directory; may be repeated.",
    )
    run_dir = click.option(
        "--run-dir",
        default=".meshless",
        show_default=True,
        type=click.Path(file_okay=False),
        help="Run directory of a dev mesh; its agents on every node are asked.",
    )
    return run_dir(admin(function))


def find_agents(run_dir: str, admins: Sequence[Address]) -> list[MeshAgent]:
    """The agents at `admins`, or without any those of the dev mesh in `run_dir`.

    Raises:
        CommandError: there is no mesh in `run_dir` (`UNREACHABLE`).
    """
    if admins:
        return [MeshAgent(str(address), AdminClient(str(address))) for address in admins]
    layout = RunLayout(run_dir)
    agents = [MeshAgent(node.name, AdminClient(f"unix:{node.admin}")) for node in layout.nodes()]
    if not agents:
        where = layout.directory
        what = "holds no mesh" if where.is_dir() else "does not exist"
        raise CommandError(
            f"run directory {where} {what}: start one with 'meshless dev FILE --run-dir {run_dir}', "
            "name another with --run-dir, or an agent with --admin",
            ExitCode.UNREACHABLE,
        )
    return agents


async def ask_agents(agents: Iterable[MeshAgent], path: str) -> list[Answer]:
    """GET `path` from all of them at once, as JSON; the answers are in the order of `agents`."""

    async def ask(agent: MeshAgent) -> Answer:
        try:
            return Answer(agent, await agent.admin.get_json(path))
        except MeshlessError as error:
            return Answer(agent, error=error)

    return list(await asyncio.gather(*map(ask, agents)))


def require_answers(answers: Sequence[Answer]) -> None:
    """Refuse to go on if nobody answered.

    Raises:
        CommandError: naming each agent and why (`UNREACHABLE`).
    """
    if all(answer.error is not None for answer in answers):
        raise CommandError("\n".join(str(answer.error) for answer in answers), ExitCode.UNREACHABLE)


def warn_of_silent(answers: Iterable[Answer]) -> None:
    """Say on standard error whose answers are missing in the result."""
    for answer in answers:
        if answer.error is not None:
            click.echo(f"warning: without agent {answer.agent.name}: {answer.error}", err=True)
