"""`meshless socketd`: owner of one node's pod sockets, in the form that needs no root."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from pathlib import Path

import click

from meshless_core.cli.configuration import load_config_for
from meshless_core.cli.exit_codes import ExitCode
from meshless_core.cli.options import config_option, node_option
from meshless_core.plugins import Kind, PluginLifecycle, load_plugins
from meshless_core.socketd import PodDirectories, SocketdServer, follow_manifest

__all__ = ["command"]


@click.command("socketd")
@node_option
@click.option("--pods-dir", required=True, type=click.Path(file_okay=False), help="Folder of the pods' folders.")
@click.option("--control", required=True, type=click.Path(), help="Control socket on which the agent connects.")
@click.option("--agent-uid", type=int, multiple=True, help="User that may connect as the agent, besides this one. Repeatable.")
@click.option("--keep", is_flag=True, help="Leave the folders at the end, for a socketd that is started next.")
@config_option
def command(node: str, pods_dir: str, control: str, agent_uid: tuple[int, ...], keep: bool, config_path: str | None) -> int:
    """Own the socket folders and listeners of a node's pods, and hand them to the agent.

    Which pods there are comes from the node's manifest on the bus. The listeners stay open while an agent restarts, so
    connects wait instead of failing. Runs until SIGTERM or SIGINT, then removes the folders, or with --keep leaves them: to
    replace socketd under running pods. A socketd takes over the folders of pods that are still there, with the applications'
    sockets in them; while another one runs that uses the same folder it refuses to start.

    \b
    Example:
      meshless socketd --node node-a --pods-dir /run/meshless/pods --control /run/meshless/socketd.sock
    """
    asyncio.run(_run(node, Path(pods_dir), Path(control), frozenset(agent_uid), keep, config_path))
    return ExitCode.OK


async def _run(node: str, pods_dir: Path, control: Path, uids: frozenset[int], keep: bool, config_path: str | None) -> None:
    needs = frozenset({Kind.BUS})
    plugins = load_plugins(load_config_for(config_path, needs), needs=needs)
    directories = PodDirectories(pods_dir)
    directories.claim()  # the kernel ends it with the process, however that ends
    server = SocketdServer(node, directories, control, agent_uids=uids)
    bus = plugins.bus()
    async with PluginLifecycle(plugins):
        await server.start()
        following = asyncio.create_task(follow_manifest(node, bus, server, sweep=directories.sweep), name="socketd-manifest")
        asked = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, asked.set)
        try:
            await asked.wait()
        finally:
            following.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await following
            await server.stop(remove=not keep)
