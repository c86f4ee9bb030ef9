"""`meshless reconciler`: the control plane as a process."""

from __future__ import annotations

import asyncio
import logging
import re
import signal
from collections.abc import Mapping

import click

from meshless_core.cli.exit_codes import ExitCode
from meshless_core.cli.options import config_option
from meshless_core.config import Config, load_config
from meshless_core.plugins import RECONCILER_NEEDS, LoadedPlugins, PluginLifecycle, load_plugins
from meshless_core.reconciler import Reconciler
from meshless_core.types import is_dns_label

__all__ = ["command", "parse_nodes"]

logger = logging.getLogger(__name__)

_ADDRESS = re.compile(r"(?:\[[0-9a-fA-F:.%]+\]|[A-Za-z0-9_.-]+):[0-9]{1,5}", re.ASCII)


def parse_nodes(texts: tuple[str, ...]) -> dict[str, str]:
    """Read `<node>=<host>:<port>` entries, several in one text joined by commas.

    Raises:
        click.BadParameter: an entry has another form, or names a node twice.
    """
    nodes: dict[str, str] = {}
    for entry in (entry for text in texts for entry in text.split(",")):
        node, separator, address = entry.strip().partition("=")
        port = int(address.rpartition(":")[2]) if _ADDRESS.fullmatch(address) else 0
        if not separator or not is_dns_label(node) or not 0 < port < 65536:
            raise click.BadParameter(f"{entry[:256]!r} is not <node>=<host>:<port>, the node a DNS label")
        if node in nodes:
            raise click.BadParameter(f"node {node!r} is named twice: keep one")
        nodes[node] = address
    return nodes


def _nodes(_context: click.Context, _parameter: click.Parameter, value: tuple[str, ...]) -> dict[str, str]:
    return parse_nodes(value)


@click.command("reconciler")
@config_option
@click.option(
    "--nodes",
    required=True,
    multiple=True,
    callback=_nodes,
    metavar="NODE=HOST:PORT,...",
    help="Tunnel address of each node's agent (agent.tunnel_address there); may be given several times.",
)
@click.option(
    "--state-dir",
    type=click.Path(file_okay=False),
    default="meshless-run/reconciler",
    show_default=True,
    help="Folder of this reconciler: epoch, last good objects, lock. One reconciler per folder.",
)
@click.option(
    "--status",
    "status_path",
    type=click.Path(dir_okay=False),
    help="File for the status as JSON, written after each pass; status.json in the state folder if not given.",
)
def command(config_path: str | None, nodes: Mapping[str, str], state_dir: str, status_path: str | None) -> int:
    """Run the reconciler until SIGTERM or SIGINT.

    It watches the discovery plugin, compiles what it finds into documents and publishes those that changed on the bus. The
    documents stay there when it ends; agents go on with them.

    \b
    Example:
      meshless reconciler --config meshless.yaml --nodes node-a=10.0.0.1:7443,node-b=10.0.0.2:7443
    """
    config = load_config(config_path)
    plugins = load_plugins(config, needs=RECONCILER_NEEDS)
    asyncio.run(_run(config, plugins, nodes, state_dir, status_path))
    return ExitCode.OK


async def _run(
    config: Config, plugins: LoadedPlugins, nodes: Mapping[str, str], state_dir: str, status_path: str | None
) -> None:
    discovery, bus = plugins.discovery(), plugins.bus()  # made before the start: that starts what was made
    async with PluginLifecycle(plugins):
        reconciler = Reconciler(
            discovery, bus, nodes, state_dir=state_dir, status_path=status_path, resync=config.reconciler.resync
        )
        running = asyncio.ensure_future(reconciler.run())
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, running.cancel)
        logger.info("reconciler for %s started, state in %s", ", ".join(sorted(nodes)), state_dir)
        try:
            await running
        except asyncio.CancelledError:
            logger.info("reconciler told to stop; the documents stay on the bus")
