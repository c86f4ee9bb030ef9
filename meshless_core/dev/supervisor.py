"""Puts a dev mesh together: reconciler, issuer and socketd in this process, one process per agent, the pods' processes."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

import attrs

from meshless_core.config import Config, config_to_yaml
from meshless_core.dev.layout import RunLayout
from meshless_core.dev.node import DevNode
from meshless_core.dev.observed import ObservedDiscovery
from meshless_core.dev.pods import PodProcesses, PodRun
from meshless_core.documents import ServiceDocument
from meshless_core.errors import MeshlessError, PluginError, Problem
from meshless_core.hookspecs import DiscoverySnapshot
from meshless_core.identity import CertificateAuthority, IssuerServer
from meshless_core.plugins import AGENT_NEEDS, RECONCILER_NEEDS, LoadedPlugins, PluginLifecycle, load_plugins
from meshless_core.reconciler import ObjectMemory, Reconciler, compile_documents
from meshless_core.socketd import PodDirectories
from meshless_core.types import MeshletRef, PodRef

__all__ = ["DevMesh"]

logger = logging.getLogger(__name__)

_POLL_SECONDS: Final = 0.02
_SERVER_SOCKET_SECONDS: Final = 15.0


def configure(config: Config, file: Path, run: RunLayout) -> tuple[Config, list[Problem]]:
    """The configuration of a dev mesh: discovery reads `file`, documents go to the run directory.

    Returns:
        It, and a problem for each plugin that a dev mesh needs and that is not enabled.
    """
    overrides: dict[str, dict[str, object]] = {
        "discovery_file": {"paths": [str(file.absolute())]},
        "bus_directory": {"path": str(run.bus)},
    }
    names = {setting.name for setting in config.plugins}
    source = config.plugins[0].source if config.plugins else ""
    missing = [
        Problem("$.plugins", f"meshless dev needs the plugin {name}: add it under plugins, or leave plugins out", source)
        for name in overrides
        if name not in names
    ]
    plugins = tuple(
        attrs.evolve(setting, options_raw={**setting.options_raw, **overrides.get(setting.name, {})})
        for setting in config.plugins
    )
    return attrs.evolve(config, plugins=plugins), missing


def _load(config: Config, missing: Sequence[Problem]) -> LoadedPlugins:
    """The plugins of all parts.

    Raises:
        PluginError: everything that is wrong with them, what a dev mesh misses included.
    """
    try:
        plugins = load_plugins(config, needs=AGENT_NEEDS | RECONCILER_NEEDS)
    except PluginError as error:
        raise PluginError([*missing, *error.problems]) from error
    if missing:
        raise PluginError(missing)
    return plugins


class DevMesh:
    """A running dev mesh. Life: `start`, `wait_ready`, `stop`; `stop` works after a half-failed `start`.

    Args:
        file: the YAML file or folder with Meshlets, Pods and workloads.
        run: the run directory.
        config: the configuration; discovery and bus are pointed at `file` and the run directory.
        write: takes lines of output of agents and pods.
        log_options: options of the `meshless` command that say how agents log.
    """

    def __init__(
        self,
        file: Path,
        run: RunLayout,
        config: Config,
        *,
        write: Callable[[str], object],
        log_options: Sequence[str] = (),
    ) -> None:
        self._file = file
        self.run = run
        self._config, self._missing = configure(config, file, run)
        self._write = write
        self._log_options = list(log_options)
        self._nodes: dict[str, DevNode] = {}
        self._addresses: dict[str, str] = {}
        self._wanted: dict[PodRef, PodRun] = {}
        self._serves: dict[PodRef, list[str]] = {}
        self._memory = ObjectMemory()
        self._published = False
        self._world_changed = asyncio.Event()
        self._stack = contextlib.AsyncExitStack()
        self._keeper: asyncio.Task[None] | None = None

    @property
    def nodes(self) -> Mapping[str, DevNode]:
        """The nodes there are."""
        return self._nodes

    async def start(self) -> None:
        """Start everything; returns before dialling works, see `wait_ready`.

        Raises:
            MeshlessError: what cannot be started, with the fix.
        """
        plugins = _load(self._config, self._missing)
        self.run.acquire()
        self._stack.callback(self.run.release)
        self.run.config.write_text(config_to_yaml(self._config), encoding="utf-8")
        self.run.bus.mkdir()
        authority = CertificateAuthority.create(self.run.authority, self._config.mesh.trust_domain)
        self._bus = plugins.bus()
        discovery = plugins.discovery()
        await self._stack.enter_async_context(PluginLifecycle(plugins))
        self._issuer = IssuerServer(authority, self._meshlets_of)
        await self._issuer.start()
        self._stack.push_async_callback(self._issuer.stop)
        self._directories = PodDirectories(self.run.pods)
        self._stack.push_async_callback(self._stop_nodes)
        self._reconciler = Reconciler(
            ObservedDiscovery(discovery, self._observe),
            self._bus,
            {},
            state_dir=self.run.reconciler_state,
            status_path=self.run.status,
            resync=float(self._config.reconciler.resync),
        )
        self._processes = PodProcesses(self.run.pods, self._folder(), self._write, self._pod_ready)
        self._stack.push_async_callback(self._processes.stop)
        await self._reconciler.start()
        self._stack.push_async_callback(self._reconciler.stop)
        self._keeper = asyncio.create_task(self._keep_processes(), name="pod processes")
        self._stack.push_async_callback(self._stop_keeper)

    async def stop(self) -> None:
        """Stop everything and leave nothing behind."""
        await self._stack.aclose()

    async def wait_failed(self) -> None:
        """Return never; raise when the control plane ended by itself.

        Raises:
            MeshlessError: why, for example a file that cannot be read at the very start.
        """
        await self._reconciler.wait_failed()

    async def wait_ready(self, progress: Callable[[str], object] = lambda _text: None) -> None:
        """Return when dialling works: agents ready, pods' sockets taken over, pods with a command listening.

        A pod with a command that does not listen in time is waited for no longer, with a warning: it may be a client only.

        Args:
            progress: told what is waited for, whenever that changes.

        Raises:
            MeshlessError: an agent cannot start.
        """
        last = ""
        loop = asyncio.get_running_loop()
        deadline: float | None = None
        while True:
            waiting = await self._waiting_for_agents()
            if not waiting:
                deadline = deadline or loop.time() + _SERVER_SOCKET_SECONDS
                waiting = self._waiting_for_pods()
                if not waiting:
                    return
                if loop.time() > deadline:
                    logger.warning("going on without waiting longer: %s", waiting)
                    return
            if waiting != last:
                last = waiting
                progress(waiting)
            await asyncio.sleep(_POLL_SECONDS)

    # --- the world ---------------------------------------------------------------------------------------------------

    async def _observe(self, snapshot: DiscoverySnapshot) -> None:
        world = self._memory.update(snapshot)
        ours = {pod.ref for pod in world.pods if pod.meshlet is not None and pod.node is not None}
        runs = (PodRun.of(obj) for obj in snapshot.objects if obj.get("kind") == "Pod")
        self._wanted = {run.pod: run for run in runs if run.pod in ours}
        nodes = {pod.node for pod in world.pods if pod.node is not None and pod.ref in ours}
        for name in sorted(nodes - self._nodes.keys()):
            node = DevNode(
                name,
                self.run,
                self._bus,
                self._issuer,
                self._directories,
                self._write,
                self._log_options,
                self._config.plugins[0].source if self._config.plugins else "",
            )
            self._addresses[name] = node.address
            self._nodes[name] = node
            await node.start()
        self._reconciler.set_nodes(self._addresses)
        self._serves = {}
        for document in compile_documents(world, self._addresses).documents.values():
            if isinstance(document, ServiceDocument):
                for endpoint in document.endpoints:
                    self._serves.setdefault(endpoint.pod, []).append(document.service.service)
        self._world_changed.set()

    async def _keep_processes(self) -> None:
        """Start pods once their folders are there; stop them when they are gone."""
        while True:
            await self._world_changed.wait()
            self._world_changed.clear()
            parked = self._parked()
            there = {pod: run for pod, run in self._wanted.items() if parked.get(pod) == run.uid}
            try:
                await self._processes.apply(there)
            except MeshlessError as error:
                logger.error("pods cannot be started: %s", error)
            if len(there) < len(self._wanted):
                await asyncio.sleep(_POLL_SECONDS)
                self._world_changed.set()

    def _parked(self) -> dict[PodRef, str]:
        return {pod: uid for node in self._nodes.values() for pod, uid in node.socketd.pods.items()}

    def _pod_ready(self, pod: PodRef, ready: bool) -> None:
        self._reconciler.set_pod_ready(pod, ready)

    def _meshlets_of(self, node: str) -> frozenset[MeshletRef]:
        """Whose leaves a node's agent may have: those of the pods that socketd parks for it."""
        found = self._nodes.get(node)
        if found is None:
            return frozenset()
        return found.socketd.meshlets

    def _folder(self) -> Path:
        file = self._file.absolute()
        return file if file.is_dir() else file.parent

    # --- readiness ---------------------------------------------------------------------------------------------------

    async def _waiting_for_agents(self) -> str:
        if not self._published:
            try:
                async with asyncio.timeout(1):
                    await self._reconciler.settled()
            except TimeoutError:
                return "the reconciler has not published the first documents yet"
            self._published = True
        parked = self._parked()
        for pod, run in self._wanted.items():
            if parked.get(pod) != run.uid:
                return f"pod {pod} has no sockets yet"
        for node in self._nodes.values():
            if reason := await node.not_ready():
                return reason
        return ""

    def _waiting_for_pods(self) -> str:
        for process in self._processes.processes:
            if not process.started.is_set():
                return f"{process.name} is not started yet"
        for pod in self._processes.pods:
            for service in self._serves.get(pod, ()):
                path = self.run.pods / pod.namespace / pod.name / "server" / service
                if not path.is_socket():
                    return f"pod {pod} does not listen on server/{service} yet"
        return ""

    async def _stop_nodes(self) -> None:
        await asyncio.gather(*(node.stop() for node in self._nodes.values()))

    async def _stop_keeper(self) -> None:
        if self._keeper is not None:
            self._keeper.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._keeper
