"""`meshless connect`: standard input and output as a connection to a service."""

from __future__ import annotations

import asyncio

import click

from meshless_core.cli.dialing import RefusedError, ServiceIdType, client_socket_path, dial, pod_dir_option, socket_option
from meshless_core.cli.stdio import converse
from meshless_core.types import ServiceId

__all__ = ["command"]


@click.command()
@click.argument("service_id", type=ServiceIdType(), metavar="SERVICE-ID")
@pod_dir_option
@socket_option
@click.pass_context
def command(ctx: click.Context, service_id: ServiceId, pod_dir: str, socket_path: str | None) -> None:
    """Connect standard input and output to a service, like netcat.

    SERVICE-ID is <service>.<meshlet>.<namespace>. The end of standard input becomes a half-close: what the service still sends
    is printed.

    \b
    Example:
      printf 'GET / HTTP/1.0\\r\\n\\r\\n' | meshless connect --pod-dir .meshless/pods/shop/web http.cart.shop

    \b
    Exit codes:
      0   both sides ended cleanly
      1   refused (standard error says which reply code and why), or the connection broke
      2   wrong usage, for example no service id
      3   the agent cannot be reached
    """
    try:
        connection = asyncio.run(dial(service_id, client_socket_path(pod_dir, socket_path)))
    except RefusedError as error:
        click.echo(error, err=True)
        ctx.exit(error.exit_code)
    with connection:
        converse(connection)
