"""`meshless agent`: one node's agent as a process."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import resource
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import attrs
import click

from meshless_core.agent.agent import Agent, AgentParts
from meshless_core.cli.exit_codes import ExitCode
from meshless_core.config import Config, load_config
from meshless_core.identity import IssuerClient
from meshless_core.plugins import AGENT_NEEDS, LoadedPlugins, PluginLifecycle, load_plugins

__all__ = ["command"]

logger = logging.getLogger(__name__)


@click.command("agent")
@click.option("--node", required=True, help="Name of this node.")
@click.option("--config", "config_path", type=click.Path(dir_okay=False), help="Configuration; without it the defaults hold.")
@click.option("--socketd", "socketd_path", required=True, type=click.Path(), help="Control socket of this node's socketd.")
@click.option("--issuer", "issuer_path", required=True, type=click.Path(), help="This node's socket of the issuer.")
@click.option("--state-dir", type=click.Path(file_okay=False), help="Overrides agent.state_dir.")
@click.option("--tunnel-address", help="Overrides agent.tunnel_address, <host>:<port>.")
@click.option("--admin", help="Overrides agent.admin, unix:<path> or tcp:<host>:<port>.")
@click.option(
    "--access-log",
    default="-",
    show_default=True,
    help="Where the line per connection goes: a file (appended; reopened on SIGHUP), - for standard output, or off.",
)
@click.option("--pid-file", type=click.Path(dir_okay=False), help="Write the process id here; removed at the end.")
def command(
    node: str,
    config_path: str | None,
    socketd_path: str,
    issuer_path: str,
    state_dir: str | None,
    tunnel_address: str | None,
    admin: str | None,
    access_log: str,
    pid_file: str | None,
) -> int:
    """Run the node agent until SIGTERM or SIGINT.

    SIGTERM drains: no new connections are accepted (they wait in socketd's listeners for the next agent), live ones get
    agent.drain_timeout to finish. A second SIGTERM ends at once.

    \b
    Example:
      meshless agent --node node-a --socketd /run/meshless/socketd.sock --issuer /run/meshless/issuer.sock
    """
    config = load_config(config_path)
    settings = attrs.evolve(
        config.agent,
        state_dir=state_dir or config.agent.state_dir,
        tunnel_address=tunnel_address or config.agent.tunnel_address,
        admin=admin or config.agent.admin,
    )
    config = attrs.evolve(config, agent=settings)
    plugins = load_plugins(config, needs=AGENT_NEEDS)
    _allow_open_files()
    with _access_log(access_log) as write, _pid_file(pid_file):
        asyncio.run(_run(node, config, plugins, Path(socketd_path), Path(issuer_path), write))
    return ExitCode.OK


async def _run(
    node: str,
    config: Config,
    plugins: LoadedPlugins,
    socketd: Path,
    issuer: Path,
    write: Callable[[str], object] | None,
) -> None:
    parts = AgentParts(
        authorizers=(),
        canary=plugins.canary(),
        handshakes=plugins.handshakes(),
        transport=plugins.transport,
        bus=plugins.bus(),
        plugins=[
            {"kind": one.kind, "name": one.name, "distribution": one.distribution, "version": one.version}
            for one in plugins.registrations
        ],
    )
    asked = asyncio.Event()
    loop = asyncio.get_running_loop()

    def stop() -> None:
        if asked.is_set():
            logger.warning("told to stop twice, ending at once")
            os._exit(128 + signal.SIGTERM)
        asked.set()

    async with PluginLifecycle(plugins):
        # authorizers are created after the others were started: the agent starts them itself, on their own thread
        parts = attrs.evolve(parts, authorizers=plugins.authorizers())
        agent = Agent(
            node,
            trust_domain=config.mesh.trust_domain,
            settings=config.agent,
            parts=parts,
            socketd=socketd,
            issuer=IssuerClient(issuer),
            write_access_log=write,
        )
        try:
            await agent.start()
            # What is there now stays: out of the collector's sight, a new connection costs a tenth less. What connections
            # leave behind has no cycles (tests/agent/test_garbage.py), so looking for some less often costs nothing. The oldest
            # generation is looked at too: libraries and plugins may leave some, and memory must not grow for ever.
            gc.freeze()
            gc.set_threshold(10_000, 5, 5)
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.add_signal_handler(number, stop)
            await asked.wait()
            await agent.drain()
        finally:
            await agent.stop()


def _allow_open_files() -> None:
    """As many descriptors as the hard limit allows: the usual soft limit of 1024 is there for `select`, which we do not use."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


@contextlib.contextmanager
def _access_log(where: str) -> Iterator[Callable[[str], object] | None]:
    if where == "off":
        yield None
        return
    if where == "-":

        def to_stdout(text: str) -> None:
            sys.stdout.write(text)
            sys.stdout.flush()

        yield to_stdout
        return
    log = _ReopenableLog(where)
    signal.signal(signal.SIGHUP, lambda _number, _frame: log.reopen())
    try:
        yield log.write
    finally:
        log.close()


class _ReopenableLog:
    """A file that is only appended to, and opened again on request: for log rotation."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._open()

    def _open(self) -> None:
        try:
            self._file = open(self._path, "a", encoding="utf-8")  # noqa: SIM115 - lives as long as the process
        except OSError as error:
            raise click.FileError(self._path, error.strerror) from error

    def write(self, text: str) -> None:
        """Append and flush."""
        self._file.write(text)
        self._file.flush()

    def reopen(self) -> None:
        """Open the path again, after somebody moved the file away."""
        self._file.close()
        self._open()

    def close(self) -> None:
        """Close the file."""
        self._file.close()


@contextlib.contextmanager
def _pid_file(path: str | None) -> Iterator[None]:
    if path is None:
        yield
        return
    Path(path).write_text(f"{os.getpid()}\n", encoding="ascii")
    try:
        yield
    finally:
        Path(path).unlink(missing_ok=True)
