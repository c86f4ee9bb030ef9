"""`meshless proxy`: the pod's client socket at a local TCP port, for programs that reach their proxy over TCP only.

It adds no protocol: which ones a client may speak there is the agent's business. It must not read what passes through it.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from functools import partial
from typing import Final

import click

from meshless_core.cli.addresses import Address, AddressType, listen_on
from meshless_core.cli.dialing import AgentUnreachableError, client_socket_path, pod_dir_option, reach_agent, socket_option
from meshless_core.cli.piping import pipe, reset
from meshless_core.cli.serving import serve_until_stopped

__all__ = ["command"]

_LOG = logging.getLogger(__name__)
_MODE: Final = 0o600
"""Whoever connects acts with this pod's identity, so a path is for its owner only."""


@click.command()
@click.argument("address", type=AddressType(), metavar="ADDRESS")
@click.option(
    "--max-connections",
    type=click.IntRange(1, 100_000),
    default=400,
    show_default=True,
    help="Connections at a time, more wait; each needs two descriptors, and most systems give a process 1024.",
)
@pod_dir_option
@socket_option
def command(address: Address, max_connections: int, pod_dir: str, socket_path: str | None) -> None:
    """Offer the mesh as a SOCKS5 and HTTP proxy at a local port, for browsers and programs that know proxies by port only.

    ADDRESS is tcp:<host>:<port> or unix:<path>; port 0 takes any free one. The address that was bound is printed. Each
    connection to it is joined with the agent's socket as it is: what can be spoken there are the handshakes that are
    active in the mesh. Whoever can reach ADDRESS acts as this pod. Runs until Ctrl-C.

    \b
    Example:
      meshless proxy tcp:127.0.0.1:1080
      chromium --proxy-server=socks5://127.0.0.1:1080 http://http.cart.shop/
      http_proxy=http://127.0.0.1:1080 wget -qO- http://http.cart.shop/

    \b
    Exit codes:
      0   stopped by Ctrl-C or SIGTERM
      1   cannot listen at ADDRESS
      2   wrong usage
    """
    path = client_socket_path(pod_dir, socket_path)
    with listen_on(address, mode=_MODE) as listening:
        serve = partial(_join, path)
        ready = partial(_announce, listening.address, path)
        asyncio.run(serve_until_stopped(listening.socket, serve, max_connections=max_connections, ready=ready))


def _announce(address: Address, path: str) -> None:
    if not address.private:
        _LOG.warning("%s can be reached from other machines: whoever connects acts as this pod", address)
    click.echo(f"listening on {address}, joined with the agent at {path}")


async def _join(path: str, local: socket.socket) -> None:
    try:
        if local.family != socket.AF_UNIX:
            local.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        agent = await reach_agent(path)
    except AgentUnreachableError as error:
        _LOG.warning("connection not joined: %s", error)
        reset(local)
        return
    except BaseException:
        reset(local)
        raise
    piped = await pipe(local, agent)
    _LOG.debug("%s", "closed" if piped.clean else "reset", extra={"sent": piped.sent, "received": piped.received})
