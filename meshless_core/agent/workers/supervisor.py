"""The parent of an agent's workers: keeps them running, gives them the pods, answers for all of them.

Start: the admin endpoint, then socketd; with its first snapshot the workers, since without pods there is nothing to serve,
and an empty set would tell a worker to drop its leaves. Drain: all workers drain at the same time; the supervisor leaves
after the last.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from meshless_core.agent.admin import AdminServer
from meshless_core.agent.workers.nursery import Nursery
from meshless_core.agent.workers.place import DRAIN, REOPEN
from meshless_core.agent.workers.report import WorkersReport
from meshless_core.agent.workers.shared_pods import SharedPods
from meshless_core.agent.workers.shared_slots import SharedSlots
from meshless_core.agent.workers.shares import pods_socket, worker_directory
from meshless_core.agent.workers.worker import Worker
from meshless_core.config import AgentSettings
from meshless_core.socketd import PodSockets, SocketdClient, SocketdServer

__all__ = ["Supervisor"]

logger = logging.getLogger(__name__)

_GRACE: Final = 5.0
"""Seconds a worker may take to leave after its connections were cut."""


class Supervisor:
    """All workers of one node's agent. Life: `run`, in a process that is nothing else.

    Args:
        node: name of the node.
        trust_domain: the mesh's trust domain.
        settings: the section `agent` of the configuration.
        socketd: path of socketd's control socket.
        nursery: where workers come from.
        slots: the counters they share.
        tunnel_address: where they listen for tunnels.
        plugins: rows for `/status`.
    """

    def __init__(
        self,
        node: str,
        *,
        trust_domain: str,
        settings: AgentSettings,
        socketd: Path,
        nursery: Nursery,
        slots: SharedSlots,
        tunnel_address: str,
        plugins: Sequence[Mapping[str, object]] = (),
    ) -> None:
        self._node = node
        self._trust_domain = trust_domain
        self._drain_timeout = float(settings.drain_timeout)
        self._nursery = nursery
        self._slots = slots
        self._tunnel_address = tunnel_address
        self._plugins = list(plugins)
        self._pods: dict[str, PodSockets] = {}
        self._renewed: set[str] = set()  # pods whose former sockets workers may hold still
        self._sharing: asyncio.Handle | None = None
        self._draining = False
        self._proven = False  # a worker has started once: later deaths are accidents, not mistakes in the configuration
        self._snapshot = False
        self._stop = asyncio.Event()
        self._exit_code = 0
        self._all_gone = asyncio.Event()
        self._timers: dict[int, asyncio.TimerHandle] = {}
        self._socketd = SocketdClient(node, socketd, on_added=self._pod_added, on_removed=self._pod_removed)
        shared = SharedPods(self._pods)
        self.workers = [self._place(index, settings.state_dir, shared) for index in range(settings.workers)]
        report = WorkersReport(self.workers, self._known, self._not_ready)
        self._admin = AdminServer(settings.admin or f"unix:{Path(settings.state_dir) / 'admin.sock'}", report.handlers())

    def _place(self, index: int, state_dir: str, shared: SharedPods) -> Worker:
        directory = worker_directory(state_dir, index)
        os.makedirs(state_dir, mode=0o700, exist_ok=True)
        os.makedirs(directory, mode=0o700, exist_ok=True)
        return Worker(index, directory, SocketdServer(self._node, shared, pods_socket(state_dir, index)))

    async def run(self) -> int:
        """Serve until SIGTERM or SIGINT, then drain; a second one ends at once. SIGHUP lets workers open their logs again.

        Returns:
            The process's exit code: that of a worker if none could ever start.

        Raises:
            MeshlessError: what cannot be started, naming the setting or the path.
        """
        loop = asyncio.get_running_loop()
        self._nursery.follow(self._worker_started, self._worker_ended, self._nursery_lost)
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._told_to_stop)
        loop.add_signal_handler(signal.SIGHUP, self._tell_all, REOPEN)
        starting: asyncio.Task[None] | None = None
        try:
            await self._admin.start()
            await self._socketd.start()
            starting = asyncio.create_task(self._start_workers(), name="start-workers")
            starting.add_done_callback(self._workers_asked_for)
            await self._stop.wait()
            await self._drain()
        finally:
            if starting is not None:
                starting.cancel()
            await self._end()
        return self._exit_code

    # --- workers -----------------------------------------------------------------------------------------------------

    async def _start_workers(self) -> None:
        await self._socketd.wait_snapshot()
        self._snapshot = True
        self._share_pods()
        for worker in self.workers:
            await worker.pods.start()
            self._order(worker)
        logger.info("agent of node %s: %d workers, tunnels on %s", self._node, len(self.workers), self._tunnel_address)

    def _workers_asked_for(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("workers cannot be started: %s", error)
            self._fail(1)

    def _order(self, worker: Worker) -> None:
        self._timers.pop(worker.index, None)
        theirs = worker.begin()
        with theirs:
            try:
                self._nursery.order(worker.index, theirs)
            except OSError as error:
                logger.error("worker %d cannot be started: %s", worker.index, error.strerror)
                self._fail(1)

    def _worker_started(self, index: int, pid: int) -> None:
        self.workers[index].pid = pid

    def _worker_ended(self, index: int, pid: int, code: int) -> None:
        worker = self.workers[index]
        self._proven = self._proven or worker.started
        worker.ended()
        self._slots.clear(index)
        if self._draining:
            self._check_gone()
            return
        if code > 0 and not self._proven and not any(other.started for other in self.workers):
            self._fail(code)  # it has said why on standard error
            return
        worker.restarts += 1
        delay = worker.next_delay()
        how = f"exit code {code}" if code >= 0 else signal.Signals(-code).name
        logger.error(
            "worker %d (process %d) ended with %s; its connections are lost; the next in %.2g s", index, pid, how, delay
        )
        self._timers[index] = asyncio.get_running_loop().call_later(delay, self._order, worker)

    def _nursery_lost(self) -> None:
        """Every worker has died with it, and there will be no others: whoever started the agent has to start it again."""
        logger.error("the nursery of this agent's workers has died; ending, so that everything is started again")
        for worker in self.workers:
            worker.ended()
        self._draining = True
        self._fail(1)
        self._check_gone()

    def _fail(self, code: int) -> None:
        self._exit_code = self._exit_code or code
        self._stop.set()

    # --- pods --------------------------------------------------------------------------------------------------------

    def _pod_added(self, pod: PodSockets) -> None:
        self._pods[pod.placement.uid] = pod
        self._share_soon()

    def _pod_removed(self, uid: str) -> None:
        pod = self._pods.pop(uid, None)
        if pod is not None:
            pod.close()
            self._renewed.add(uid)  # if it comes back, which it does at once when socketd was started again
        self._share_soon()

    def _share_soon(self) -> None:
        """After the first snapshot; and many changes at once are one change."""
        if self._snapshot and self._sharing is None:
            self._sharing = asyncio.get_running_loop().call_soon(self._share_pods)

    def _share_pods(self) -> None:
        self._sharing = None
        renewed, self._renewed = self._renewed, set()
        for worker in self.workers:
            worker.pods.set_pods([pod.placement for pod in self._pods.values()], renewed)

    # --- end ---------------------------------------------------------------------------------------------------------

    def _told_to_stop(self) -> None:
        if self._stop.is_set():
            logger.warning("told to stop twice, ending at once")
            os._exit(128 + signal.SIGTERM)
        self._stop.set()

    def _tell_all(self, order: bytes) -> None:
        for worker in self.workers:
            worker.tell(order)

    async def _drain(self) -> None:
        self._draining = True
        for timer in self._timers.values():
            timer.cancel()
        self._tell_all(DRAIN)
        self._check_gone()
        try:
            await asyncio.wait_for(self._all_gone.wait(), self._drain_timeout + _GRACE)
        except TimeoutError:
            late = ", ".join(str(worker.index) for worker in self.workers if worker.alive)
            logger.error("workers did not leave in time and are killed: %s", late)

    def _check_gone(self) -> None:
        if not any(worker.alive for worker in self.workers):
            self._all_gone.set()

    async def _end(self) -> None:
        self._nursery.close()
        await self._socketd.stop()
        await self._admin.stop()
        for worker in self.workers:
            worker.ended()
            await worker.pods.stop()
        for pod in self._pods.values():
            pod.close()
        self._pods.clear()
        self._slots.close()

    # --- telling -----------------------------------------------------------------------------------------------------

    def _known(self) -> dict[str, object]:
        return {
            "node": self._node,
            "trust_domain": self._trust_domain,
            "tunnel_address": self._tunnel_address,
            "socketd_connected": self._socketd.connected,
            "draining": self._draining,
            "plugins": self._plugins,
        }

    def _not_ready(self) -> list[str]:
        reasons = []
        if self._draining:
            reasons.append("draining: this agent is shutting down")
        if not self._snapshot:
            reasons.append("socketd: no snapshot of the pods yet; is socketd running")
        return reasons
