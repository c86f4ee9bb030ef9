"""`meshless explain`: who decides what about a connection, and why, from the tables of the agent that would decide."""

from __future__ import annotations

import asyncio
import difflib
from typing import Any

import attrs
import click

from meshless_core.cli.addresses import Address
from meshless_core.cli.admin_client import AgentUnreachableError
from meshless_core.cli.agents import MeshAgent, agents_options, ask_agents, find_agents
from meshless_core.cli.exit_codes import CommandError, ExitCode
from meshless_core.cli.options import output_option
from meshless_core.cli.output import emit
from meshless_core.types import PodRef, ReplyCode, ServiceId, is_dns_label

__all__ = ["command"]

_NOT_FOUND = 404
_NO_DOCUMENTS = 503


@click.command()
@click.argument("client", metavar="CLIENT_POD")
@click.argument("service_id")
@click.option("-n", "--namespace", default="default", show_default=True, help="Namespace of CLIENT_POD if it names none.")
@agents_options
@output_option
def command(client: str, service_id: str, namespace: str, run_dir: str, admins: tuple[Address, ...], output: str) -> int:
    """Say what would become of a connection from CLIENT_POD to SERVICE_ID, step by step, and why.

    CLIENT_POD is <namespace>/<pod>, or <pod> with --namespace. The agent of that pod is asked; it uses the documents, policies
    and measurements that a real connection would meet, and changes nothing. Exit code 0: it would be allowed; 1: refused;
    2: no such pod, or not a service id; 3: the agent cannot be reached or knows nothing yet.

    \b
    Examples:
      meshless explain shop/web http.cart.shop
      meshless explain -n shop web http.cart.shop --output json | jq -r .reason
    """
    pod = _pod(client, namespace)
    target = ServiceId.parse(service_id)
    explanation = asyncio.run(_explain(find_agents(run_dir, admins), pod, target))
    if output == "table":
        emit(explanation["rows"], ["step", "subject", "outcome", "reason"], output)
    else:
        emit(explanation, [], output)
    return ExitCode.OK if explanation["code"] == ReplyCode.OK else ExitCode.NO


def _pod(text: str, namespace: str) -> PodRef:
    first, slash, second = text.partition("/")
    pod = PodRef(first, second) if slash else PodRef(namespace, first)
    if not is_dns_label(pod.namespace) or not all(map(is_dns_label, pod.name.split("."))):
        raise CommandError(f"{text[:256]!r} is not a pod: write <namespace>/<pod>", ExitCode.USAGE)
    return pod


@attrs.frozen
class _Reply:
    agent: MeshAgent
    status: int
    explanation: dict[str, Any]
    text: str


async def _explain(agents: list[MeshAgent], pod: PodRef, target: ServiceId) -> dict[str, Any]:
    replies = await asyncio.gather(*(_ask(agent, pod, target) for agent in agents), return_exceptions=True)
    silent = []
    for reply in replies:
        match reply:
            case AgentUnreachableError():
                silent.append(str(reply))
            case BaseException():
                raise reply
            case _Reply(status=200):
                return reply.explanation
            case _Reply(status=status) if status != _NOT_FOUND:
                code = ExitCode.UNREACHABLE if status == _NO_DOCUMENTS else ExitCode.NO
                raise CommandError(f"agent {reply.agent.name} cannot explain: {reply.text}; see 'meshless check'", code)
    if silent:
        lines = [*silent, f"pod {pod} is on none of the other nodes"] if len(silent) < len(agents) else silent
        raise CommandError("\n".join(lines), ExitCode.UNREACHABLE)
    raise CommandError(await _unknown(agents, pod), ExitCode.USAGE)


async def _ask(agent: MeshAgent, pod: PodRef, target: ServiceId) -> _Reply:
    status, body = await agent.admin.get("/explain", client=str(pod), service=str(target))
    text = body.decode(errors="replace").strip()
    if status != 200:
        return _Reply(agent, status, {}, text)
    return _Reply(agent, status, agent.admin.parse(body, "/explain"), "")


async def _unknown(agents: list[MeshAgent], pod: PodRef) -> str:
    known = sorted(
        f"{one['namespace']}/{one['name']}"
        for answer in await ask_agents(agents, "/status")
        if answer.value is not None
        for one in answer.value["pods"]
    )
    if near := difflib.get_close_matches(str(pod), known, n=1):
        hint = f"did you mean {near[0]}"
    elif known:
        hint = f"there are {', '.join(known[:10])}{' and more' if len(known) > 10 else ''}"
    else:
        hint = "these agents have no pods at all"
    return f"no agent has a pod {pod}: {hint}"
