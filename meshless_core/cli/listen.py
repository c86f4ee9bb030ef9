"""`meshless listen`: a service of this pod, from standard input and output, a command, or a server that listens elsewhere."""

from __future__ import annotations

import asyncio
import logging
import os
import select
import shlex
import signal
import socket
from collections.abc import Callable
from functools import partial
from typing import Final, NoReturn

import click

from meshless_core.cli.addresses import Address, AddressType, listen_on, reach
from meshless_core.cli.dialing import pod_dir_option
from meshless_core.cli.piping import pipe, reset
from meshless_core.cli.serving import serve_until_stopped
from meshless_core.cli.stdio import converse
from meshless_core.types import is_dns_label

__all__ = ["command"]

_LOG = logging.getLogger(__name__)
_MODE: Final = 0o666
"""The agent runs as another user, and connecting needs write permission. Who may reach the folder is the pod's business."""

_REACH_TIMEOUT: Final = 5.0
"""Seconds for the server behind `--to` to take a connection."""


class _StopError(Exception):
    """SIGINT or SIGTERM: the ordinary way to end a server."""


@click.command()
@click.argument("service", metavar="SERVICE")
@click.option("--to", "target", type=AddressType(), default=None, help="Relay every connection to the server at this address.")
@click.option(
    "--exec", "program", default=None, metavar="CMD", help="Run this for every connection, which is its input and output."
)
@click.option("--keep", is_flag=True, help="Serve one connection after the other, not only the first.")
@click.option(
    "--max-connections",
    type=click.IntRange(1, 100_000),
    default=400,
    show_default=True,
    help="Connections at a time with --to and --exec; more wait.",
)
@pod_dir_option
def command(service: str, target: Address | None, program: str | None, keep: bool, max_connections: int, pod_dir: str) -> None:
    """Provide a service of this pod.

    Listens on server/SERVICE in the pod's folder. Without --to and --exec the first connection is joined with standard input
    and output, like nc -l. With --to each connection goes to a server that cannot listen there itself.

    \b
    Example:
      meshless listen --pod-dir .meshless/pods/shop/cart http --to tcp:127.0.0.1:8080
      meshless listen --pod-dir .meshless/pods/shop/cart echo --exec cat

    \b
    Exit codes:
      0   the connection ended cleanly, or stopped by Ctrl-C or SIGTERM
      1   cannot listen, or the connection broke
      2   wrong usage
    """
    if not is_dns_label(service):
        raise click.BadParameter(f"{service[:256]!r} is not a service name: write a DNS label, as in the Meshlet")
    if sum((target is not None, program is not None, keep)) > 1:
        raise click.UsageError("--to, --exec and --keep exclude each other; the first two always keep listening")
    arguments = _split(program)
    address = Address(path=os.path.abspath(os.path.join(pod_dir, "server", service)))
    with listen_on(address, mode=_MODE) as listening:
        ready = partial(click.echo, f"listening on {listening.address}", err=True)
        if target is None and not arguments:
            _serve_standard_streams(listening.socket, keep=keep, ready=ready)
            return
        serve = partial(_run, arguments) if target is None else partial(_relay, target)
        asyncio.run(serve_until_stopped(listening.socket, serve, max_connections=max_connections, ready=ready))


def _split(program: str | None) -> list[str]:
    if program is None:
        return []
    try:
        arguments = shlex.split(program)
    except ValueError as error:
        raise click.BadParameter(f"--exec: {str(error).lower()}") from error
    if not arguments:
        raise click.BadParameter("--exec names no program")
    return arguments


def _serve_standard_streams(listener: socket.socket, *, keep: bool, ready: Callable[[], None]) -> None:
    before = {number: signal.signal(number, _stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        ready()
        while True:
            select.select([listener], [], [])
            try:
                connection, _ = listener.accept()
            except (BlockingIOError, ConnectionError):
                continue  # it was gone before we took it
            with connection:
                converse(connection, end_sink=not keep)
            if not keep:
                return
    except _StopError:
        return
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _stop(number: int, frame: object) -> NoReturn:
    raise _StopError


async def _relay(target: Address, connection: socket.socket) -> None:
    try:
        server = await reach(target, timeout=_REACH_TIMEOUT)
    except OSError as error:
        _LOG.warning("cannot reach the server at %s: %s; the connection is closed", target, error.strerror or error)
        reset(connection)
        return
    except BaseException:
        reset(connection)
        raise
    await pipe(connection, server)


async def _run(arguments: list[str], connection: socket.socket) -> None:
    connection.setblocking(True)  # programs expect their standard streams to block
    try:
        process = await asyncio.create_subprocess_exec(*arguments, stdin=connection.fileno(), stdout=connection.fileno())
    except OSError as error:
        _LOG.warning("cannot run %s: %s", arguments[0], error.strerror or error)
        reset(connection)
        return
    connection.close()  # the program's end of it is the connection now
    try:
        status = await process.wait()
    except asyncio.CancelledError:
        process.terminate()
        await process.wait()
        raise
    if status:
        _LOG.warning("%s ended with status %s", arguments[0], status)
