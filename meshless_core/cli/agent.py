"""`meshless agent`: one node's agent as a process."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import gc
import logging
import os
import resource
import select
import signal
import stat
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import attrs
import click

from meshless_core.agent.agent import Agent, AgentParts
from meshless_core.agent.inbound import bound_address, listen_for_tunnels
from meshless_core.agent.workers import (
    Birth,
    Nursery,
    SharedSlots,
    Supervisor,
    WorkerPlace,
    open_nursery,
    pods_socket,
    tidy_state,
    worker_settings,
)
from meshless_core.cli.configuration import load_config_for
from meshless_core.cli.exit_codes import ExitCode
from meshless_core.cli.logging import label_records
from meshless_core.cli.options import config_option, node_option
from meshless_core.config import Config
from meshless_core.identity import IssuerClient
from meshless_core.plugins import AGENT_NEEDS, LoadedPlugins, PluginLifecycle, load_plugins
from meshless_core.relay import DataPathLoop

__all__ = ["command"]

logger = logging.getLogger(__name__)


@click.command("agent")
@node_option
@config_option
@click.option("--config-made-from", type=click.Path(dir_okay=False), hidden=True, help="File to name for what is in --config.")
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
    config_made_from: str | None,
    socketd_path: str,
    issuer_path: str,
    state_dir: str | None,
    tunnel_address: str | None,
    admin: str | None,
    access_log: str,
    pid_file: str | None,
) -> int:
    """Run the node agent until SIGTERM or SIGINT.

    With agent.workers above 1 this process supervises so many agents that share pods, tunnel port and limits.

    SIGTERM drains: no new connections are accepted (they wait in socketd's listeners for the next agent), live ones get
    agent.drain_timeout to finish. A second SIGTERM ends at once.

    \b
    Example:
      meshless agent --node node-a --socketd /run/meshless/socketd.sock --issuer /run/meshless/issuer.sock
    """
    config = load_config_for(config_path, AGENT_NEEDS, made_from=config_made_from)
    settings = attrs.evolve(
        config.agent,
        state_dir=state_dir or config.agent.state_dir,
        tunnel_address=tunnel_address or config.agent.tunnel_address,
        admin=admin or config.agent.admin,
    )
    config = attrs.evolve(config, agent=settings)
    plugins = load_plugins(config, needs=AGENT_NEEDS)
    _allow_open_files()
    run = _Run(node, config, plugins, Path(socketd_path), Path(issuer_path), access_log)
    tidy_state(settings.state_dir, settings.workers)
    if settings.workers == 1:
        with _pid_file(pid_file):
            run.agent()
        return ExitCode.OK
    return run.workers(pid_file)


@attrs.frozen
class _Run:
    """What was asked for on the command line, loaded and checked."""

    node: str
    config: Config
    plugins: LoadedPlugins
    socketd: Path
    issuer: Path
    access_log: str

    def agent(self, place: WorkerPlace | None = None) -> None:
        """A whole agent in this process, until it is told to stop."""
        with _access_log(self.access_log) as log, asyncio.Runner(loop_factory=DataPathLoop) as runner:
            runner.run(_run(self, log, place))

    def workers(self, pid_file: str | None) -> int:
        """Several processes: this one becomes the supervisor, and returns once more in each worker."""
        settings = self.config.agent
        listener = listen_for_tunnels(settings.tunnel_address)
        slots = SharedSlots.create(settings.workers)
        born = open_nursery()
        if isinstance(born, Birth):
            label_records(worker=born.index)
            place = WorkerPlace(born.index, settings.workers, slots.of_worker(born.index), listener, born.control)
            config = attrs.evolve(self.config, agent=worker_settings(settings, born.index))
            attrs.evolve(self, config=config, socketd=pods_socket(settings.state_dir, born.index)).agent(place)
            return ExitCode.OK
        address = bound_address(settings.tunnel_address, listener)
        with _pid_file(pid_file), listener:
            return asyncio.run(self._supervise(born, slots, address))

    async def _supervise(self, nursery: Nursery, slots: SharedSlots, address: str) -> int:
        supervisor = Supervisor(
            self.node,
            trust_domain=self.config.mesh.trust_domain,
            settings=self.config.agent,
            socketd=self.socketd,
            nursery=nursery,
            slots=slots,
            tunnel_address=address,
            plugins=_plugin_rows(self.plugins),
        )
        return await supervisor.run()


def _plugin_rows(plugins: LoadedPlugins) -> list[dict[str, object]]:
    return [
        {"kind": one.kind, "name": one.name, "distribution": one.distribution, "version": one.version}
        for one in plugins.registrations
    ]


async def _run(run: _Run, log: _AccessLogFile | None, place: WorkerPlace | None) -> None:
    config, plugins = run.config, run.plugins
    parts = AgentParts(
        authorizers=(),
        canary=plugins.canary(),
        handshakes=plugins.handshakes(),
        handshake_names=plugins.handshake_names(),
        transport=plugins.transport,
        bus=plugins.bus(),
        plugins=_plugin_rows(plugins),
        problem_of={one.name: one.problem for one in plugins.registrations},
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
            run.node,
            trust_domain=config.mesh.trust_domain,
            settings=config.agent,
            parts=parts,
            socketd=run.socketd,
            issuer=IssuerClient(run.issuer),
            write_access_log=None if log is None else log.write,
            place=place,
        )
        try:
            await agent.start()
            # What is there now stays: out of the collector's sight, a new connection costs a tenth less. What connections
            # leave behind has no cycles (tests/agent/test_garbage.py), so looking for some less often costs nothing. The oldest
            # generation is looked at too: libraries and plugins may leave some, and memory must not grow for ever.
            gc.freeze()
            gc.set_threshold(10_000, 5, 5)
            if place is not None:
                place.report_started(on_drain=stop, on_reopen=_nothing if log is None else log.reopen)
            else:
                for number in (signal.SIGTERM, signal.SIGINT):
                    loop.add_signal_handler(number, stop)
                if log is not None:
                    loop.add_signal_handler(signal.SIGHUP, log.reopen)
            await asked.wait()
            await agent.drain()
        finally:
            await agent.stop()


def _allow_open_files() -> None:
    """As many descriptors as the hard limit allows: the usual soft limit of 1024 is there for `select`, which we do not use."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _nothing() -> None:
    """There is no log to open again."""


@contextlib.contextmanager
def _access_log(where: str) -> Iterator[_AccessLogFile | None]:
    if where == "off":
        yield None
        return
    log = _AccessLogFile(None if where == "-" else where)
    try:
        yield log
    finally:
        log.close()


_PATIENCE_MS: Final = 20
"""How long a reader of the access log may keep the agent waiting; then what is not written is lost, and counted."""


class _AccessLogFile:
    """A file that is only appended to, and opened again on request: for log rotation. Or standard output.

    Each write is one system call on a descriptor opened for appending, so that the lines of several workers never mix. A pipe
    keeps only `PIPE_BUF` bytes together, so lines go there in pieces of that size; and a piece is only written if there is room
    for it: whoever reads the log must not be able to stop every connection of the node by reading slowly.

    Args:
        path: the file; None for standard output.
    """

    def __init__(self, path: str | None) -> None:
        self._path = path
        self._descriptor = sys.stdout.fileno() if path is None else self._open(path)
        self._is_file = stat.S_ISREG(os.fstat(self._descriptor).st_mode)

    def _open(self, path: str) -> int:
        try:
            return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except OSError as error:
            raise click.FileError(path, error.strerror) from error

    def write(self, text: str) -> None:
        """Append whole lines.

        Raises:
            OSError: not everything could be written.
        """
        data = text.encode()
        for piece in [data] if self._is_file else _whole_lines(data, select.PIPE_BUF):
            if not self._is_file:
                self._insist_on_room()
            rest = memoryview(piece)
            while rest:
                rest = rest[os.write(self._descriptor, rest) :]

    def _insist_on_room(self) -> None:
        poll = select.poll()
        poll.register(self._descriptor, select.POLLOUT)
        if not poll.poll(_PATIENCE_MS):
            raise BlockingIOError(errno.EAGAIN, "it is not read fast enough")

    def reopen(self) -> None:
        """Open the path again, after somebody moved the file away. Without success the old one stays, and that is logged."""
        if self._path is None:
            return
        try:
            descriptor = self._open(self._path)
        except click.FileError as error:
            logger.error("access log stays in the file it had: %s", error.format_message())
            return
        os.close(self._descriptor)
        self._descriptor = descriptor

    def close(self) -> None:
        """Close the file; standard output stays open."""
        if self._path is not None:
            os.close(self._descriptor)


def _whole_lines(data: bytes, size: int) -> Iterator[bytes]:
    """`data` in pieces of at most `size` bytes that end where a line does; a longer line is a piece of its own."""
    while len(data) > size:
        end = data.rfind(b"\n", 0, size) + 1 or data.find(b"\n", size) + 1 or len(data)
        yield data[:end]
        data = data[end:]
    if data:
        yield data


@contextlib.contextmanager
def _pid_file(path: str | None) -> Iterator[None]:
    if path is None:
        yield
        return
    mine = f"{os.getpid()}\n"
    unfinished = Path(f"{path}.{os.getpid()}")
    unfinished.write_text(mine, encoding="ascii")
    os.replace(unfinished, path)  # in one step: who waits for the file must not find it empty
    try:
        yield
    finally:
        with contextlib.suppress(FileNotFoundError):
            if Path(path).read_text(encoding="ascii") == mine:  # the next agent may have written its own by now
                Path(path).unlink()
