"""`meshless forward`: a local port or socket whose connections go to a service."""

from __future__ import annotations

import asyncio
import logging
import socket
from functools import partial

import click

from meshless_core.cli.addresses import Address, AddressType, listen_on
from meshless_core.cli.dialing import (
    AgentUnreachableError,
    RefusedError,
    ServiceIdType,
    client_socket_path,
    dial,
    pod_dir_option,
    socket_option,
)
from meshless_core.cli.piping import pipe, reset
from meshless_core.cli.serving import serve_until_stopped
from meshless_core.types import ServiceId

__all__ = ["command"]

_LOG = logging.getLogger(__name__)
_MODE = 0o600
"""Whoever connects acts with this pod's identity, so a path is for its owner only."""


@click.command()
@click.argument("address", type=AddressType(), metavar="ADDRESS")
@click.argument("service_id", type=ServiceIdType(), metavar="SERVICE-ID")
@click.option(
    "--max-connections",
    type=click.IntRange(1, 100_000),
    default=400,
    show_default=True,
    help="Connections at a time, more wait; each needs two descriptors, and most systems give a process 1024.",
)
@pod_dir_option
@socket_option
def command(address: Address, service_id: ServiceId, max_connections: int, pod_dir: str, socket_path: str | None) -> None:
    """Make a service reachable at a local port or socket, for programs that cannot dial one.

    ADDRESS is tcp:<host>:<port> or unix:<path>; port 0 takes any free one. The address that was bound is printed. Each
    connection to it dials SERVICE-ID; a refusal is logged with its reply code, and the connection is reset. Whoever
    can reach ADDRESS acts as this pod. Runs until Ctrl-C.

    \b
    Example:
      meshless forward tcp:127.0.0.1:5432 sql.db.shop
      psql -h 127.0.0.1

    \b
    Exit codes:
      0   stopped by Ctrl-C or SIGTERM
      1   cannot listen at ADDRESS
      2   wrong usage
    """
    path = client_socket_path(pod_dir, socket_path)
    with listen_on(address, mode=_MODE) as listening:
        serve = partial(_forward, service_id, path)
        ready = partial(_announce, listening.address, service_id)
        asyncio.run(serve_until_stopped(listening.socket, serve, max_connections=max_connections, ready=ready))


def _announce(address: Address, service_id: ServiceId) -> None:
    if not address.private:
        _LOG.warning("%s can be reached from other machines: whoever connects acts as this pod", address)
    click.echo(f"listening on {address}, forwarding to {service_id}")


async def _forward(service_id: ServiceId, path: str, local: socket.socket) -> None:
    try:
        if local.family != socket.AF_UNIX:
            local.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        remote = await dial(service_id, path)
    except RefusedError as error:
        _LOG.warning(
            "%s %s",
            service_id,
            error,
            extra={"service": str(service_id), "code": error.refusal.name, "retryable": error.refusal.retryable},
        )
        reset(local)
        return
    except AgentUnreachableError as error:
        _LOG.warning("%s not dialled: %s", service_id, error, extra={"service": str(service_id)})
        reset(local)
        return
    except BaseException:
        reset(local)
        raise
    piped = await pipe(local, remote)
    _LOG.debug(
        "%s %s", service_id, "closed" if piped.clean else "reset", extra={"sent": piped.sent, "received": piped.received}
    )
