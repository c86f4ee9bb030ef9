"""`meshless reconciler`: the control plane as a process, with the issuer of leaves in it if it is given the authority."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import logging
import re
import signal
import stat
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path

import attrs
import click

from meshless_core.cli.configuration import load_config_for
from meshless_core.cli.exit_codes import ExitCode
from meshless_core.cli.options import config_option
from meshless_core.config import Config
from meshless_core.errors import ConfigError, IdentityError, Problem
from meshless_core.identity import CertificateAuthority, IssuerServer, bind_issuer_socket
from meshless_core.identity.certificates import MAX_LEAF_LIFETIME
from meshless_core.meshlet import parse_duration
from meshless_core.plugins import RECONCILER_NEEDS, LoadedPlugins, PluginLifecycle, load_plugins
from meshless_core.reconciler import Reconciler
from meshless_core.types import MeshletRef, is_dns_label

__all__ = ["command", "parse_lifetime", "parse_nodes"]

logger = logging.getLogger(__name__)

_MIN_LIFETIME = datetime.timedelta(seconds=4)  # certificates count whole seconds, and half of it has to be left for a renewal
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


def parse_lifetime(text: str) -> datetime.timedelta:
    """Read the life of a leaf, a duration like 24h.

    Raises:
        click.BadParameter: it is no duration, too short to be renewed in, or longer than an authority signs.
    """
    try:
        lifetime = datetime.timedelta(microseconds=parse_duration(text) // 1000)
    except (ValueError, OverflowError) as error:
        raise click.BadParameter(f"{text[:64]!r} is not a duration: write 90m or 24h") from error
    if not _MIN_LIFETIME <= lifetime <= MAX_LEAF_LIFETIME:
        raise click.BadParameter(f"{text[:64]!r} is not between 4s and {MAX_LEAF_LIFETIME.days * 24}h")
    return lifetime


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
@click.option(
    "--ca",
    "authority",
    type=click.Path(file_okay=False),
    help="Directory of the certificate authority (meshless ca init): issue leaves too. Goes with --issuer-dir.",
)
@click.option(
    "--issuer-dir",
    type=click.Path(file_okay=False),
    help="Folder for one socket per node, <node>.sock, on which that node's agent gets its leaves. Made with mode 0700.",
)
@click.option(
    "--leaf-lifetime",
    default="24h",
    show_default=True,
    callback=lambda _context, _parameter, value: parse_lifetime(value),
    help="Life of a leaf; agents renew at half of it. At most 2160h.",
)
def command(
    config_path: str | None,
    nodes: Mapping[str, str],
    state_dir: str,
    status_path: str | None,
    authority: str | None,
    issuer_dir: str | None,
    leaf_lifetime: datetime.timedelta,
) -> int:
    """Run the reconciler until SIGTERM or SIGINT.

    It watches the discovery plugin, compiles what it finds into documents and publishes those that changed on the bus. The
    documents stay there when it ends; agents go on with them. With --ca it also issues leaves: to each node those of the
    meshlets that have a pod there, no others. Who can connect to a node's socket is that node.

    \b
    Examples:
      meshless reconciler --config meshless.yaml --nodes node-a=10.0.0.1:7443,node-b=10.0.0.2:7443
      meshless reconciler --nodes node-a=10.0.0.1:7443 --ca ./ca --issuer-dir /run/meshless/issuer
    """
    if (authority is None) != (issuer_dir is None):
        raise click.UsageError("--ca and --issuer-dir go together: give both, or neither if another process issues leaves")
    config = load_config_for(config_path, RECONCILER_NEEDS)
    issuing = None
    if authority is not None and issuer_dir is not None:
        issuing = _Issuing(_load_authority(authority, config.mesh.trust_domain), Path(issuer_dir), leaf_lifetime)
    plugins = load_plugins(config, needs=RECONCILER_NEEDS)
    asyncio.run(_run(config, plugins, nodes, state_dir, status_path, issuing))
    return ExitCode.OK


@attrs.frozen
class _Issuing:
    """What is needed to serve leaves.

    Attributes:
        authority: signs them.
        directory: folder of the nodes' sockets.
        lifetime: life of a leaf.
    """

    authority: CertificateAuthority
    directory: Path
    lifetime: datetime.timedelta

    @contextlib.asynccontextmanager
    async def served(
        self, nodes: Mapping[str, str], meshlets_of: Callable[[str], frozenset[MeshletRef]]
    ) -> AsyncIterator[None]:
        """Serve every node inside the block; the sockets are gone after it."""
        issuer = IssuerServer(self.authority, meshlets_of, leaf_lifetime=self.lifetime)
        await issuer.start()
        try:
            _make_socket_folder(self.directory)
            for node in nodes:
                issuer.add_node(node, bind_issuer_socket(self._socket(node)))
            logger.info("leaves for %s are issued at %s/<node>.sock", self.authority.trust_domain, self.directory)
            yield
        finally:
            await issuer.stop()
            for node in nodes:
                self._socket(node).unlink(missing_ok=True)

    def _socket(self, node: str) -> Path:
        return self.directory / f"{node}.sock"


def _make_socket_folder(directory: Path) -> None:
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        mode = stat.S_IMODE(directory.stat().st_mode)
    except OSError as error:
        raise IdentityError(f"cannot make the folder of the nodes' sockets {directory}: {error.strerror}") from error
    if mode & 0o022:
        # The mode is not changed: the folder may be somebody else's, like /tmp.
        raise IdentityError(
            f"others may write into {directory} (mode {mode:04o}) and put a socket of theirs in place of a node's: "
            "name a folder of its own as --issuer-dir"
        )


def _load_authority(directory: str, trust_domain: str) -> CertificateAuthority:
    authority = CertificateAuthority.load(directory)
    if authority.trust_domain != trust_domain:
        raise ConfigError(
            [
                Problem(
                    "$.mesh.trust_domain",
                    f"is {trust_domain}, but the authority in {directory} is of {authority.trust_domain}: make them the same",
                )
            ]
        )
    return authority


async def _run(
    config: Config,
    plugins: LoadedPlugins,
    nodes: Mapping[str, str],
    state_dir: str,
    status_path: str | None,
    issuing: _Issuing | None,
) -> None:
    discovery, bus = plugins.discovery(), plugins.bus()  # made before the start: that starts what was made
    async with PluginLifecycle(plugins), contextlib.AsyncExitStack() as stack:
        reconciler = Reconciler(
            discovery, bus, nodes, state_dir=state_dir, status_path=status_path, resync=config.reconciler.resync
        )
        await reconciler.start()  # takes the lock of the state folder: a second reconciler must not take over the sockets
        stack.push_async_callback(reconciler.stop)
        if issuing is not None:
            await stack.enter_async_context(issuing.served(nodes, reconciler.meshlets_of))
        running = asyncio.ensure_future(reconciler.wait_failed())
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, running.cancel)
        logger.info("reconciler for %s started, state in %s", ", ".join(sorted(nodes)), state_dir)
        try:
            await running
        except asyncio.CancelledError:
            logger.info("reconciler told to stop; the documents stay on the bus")
