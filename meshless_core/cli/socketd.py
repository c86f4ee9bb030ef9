"""`meshless socketd`: owner of one node's pod sockets, in the form that needs no root."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import cast

import click

from meshless_core.cli.exit_codes import ExitCode
from meshless_core.config import load_config
from meshless_core.documents import NodeManifest, manifest_topic
from meshless_core.documents_codec import decode_document
from meshless_core.errors import BusError, DocumentError
from meshless_core.hookspecs import Bus, BusUpdate
from meshless_core.plugins import Kind, PluginLifecycle, load_plugins
from meshless_core.socketd import PodDirectories, SocketdServer

__all__ = ["command"]

logger = logging.getLogger(__name__)


@click.command("socketd")
@click.option("--node", required=True, help="Name of this node.")
@click.option("--pods-dir", required=True, type=click.Path(file_okay=False), help="Folder of the pods' folders.")
@click.option("--control", required=True, type=click.Path(), help="Control socket on which the agent connects.")
@click.option("--agent-uid", type=int, multiple=True, help="User that may connect as the agent, besides this one. Repeatable.")
@click.option("--config", "config_path", type=click.Path(dir_okay=False), help="Configuration; without it the defaults hold.")
def command(node: str, pods_dir: str, control: str, agent_uid: tuple[int, ...], config_path: str | None) -> int:
    r"""Own the socket folders and listeners of a node's pods, and hand them to the agent.

    Which pods there are comes from the node's manifest on the bus. The listeners stay open while an agent restarts, so
    connects wait instead of failing. Runs until SIGTERM or SIGINT, then removes the folders.

    \b
    Example:
      meshless socketd --node node-a --pods-dir /run/meshless/pods --control /run/meshless/socketd.sock
    """
    asyncio.run(_run(node, Path(pods_dir), Path(control), frozenset(agent_uid), config_path))
    return ExitCode.OK


async def _run(node: str, pods_dir: Path, control: Path, uids: frozenset[int], config_path: str | None) -> None:
    plugins = load_plugins(load_config(config_path), needs=frozenset({Kind.BUS}))
    server = SocketdServer(node, PodDirectories(pods_dir), control, agent_uids=uids)
    bus = plugins.bus()
    async with PluginLifecycle(plugins):
        await server.start()
        following = asyncio.create_task(_follow(node, bus, server), name="socketd-manifest")
        asked = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, asked.set)
        try:
            await asked.wait()
        finally:
            following.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await following
            await server.stop()


async def _follow(node: str, bus: Bus, server: SocketdServer) -> None:
    """Keep the parked pods equal to the manifest's; an unreadable manifest or a lost bus changes nothing."""
    topic = manifest_topic(node)
    newest = (-1, -1)
    while True:
        updates = cast("AsyncGenerator[BusUpdate, None]", bus.subscribe(frozenset({topic})))
        try:
            async with contextlib.aclosing(updates):
                async for update in updates:
                    if update.payload is None:
                        continue
                    try:
                        document = decode_document(topic, update.payload)
                    except DocumentError as error:
                        logger.error("manifest of node %s is not usable, keeping the pods there are: %s", node, error)
                        continue
                    revision = (document.epoch, document.generation)
                    if isinstance(document.body, NodeManifest) and revision > newest:
                        newest = revision
                        server.set_pods(document.body.pods)
        except BusError as error:
            logger.warning("bus lost, keeping the pods there are: %s", error)
            await asyncio.sleep(1)
