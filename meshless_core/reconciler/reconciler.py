"""The reconciler: watches discovery, compiles, publishes. Level-based: every pass looks at the whole state.

A pass runs when something may have changed (a snapshot, a pod's readiness, the nodes) and on a slow cycle. Errors keep what is
there: an invalid object costs itself, a lost bus is tried again, and agents go on with what they have all the while.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import random
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from typing import Final

from meshless_core.documents import manifest_topic
from meshless_core.documents_codec import check_topic
from meshless_core.errors import BusError, DiscoveryError, Problem
from meshless_core.hookspecs import Bus, Discovery, DiscoverySnapshot
from meshless_core.reconciler.compilation import compile_documents
from meshless_core.reconciler.publication import Published, Publisher
from meshless_core.reconciler.state import StateFolder, replace_file
from meshless_core.reconciler.status import ReconcilerStatus, assess, orphans
from meshless_core.reconciler.world import ObjectMemory
from meshless_core.types import MeshletRef, PodRef

__all__ = ["Reconciler"]

BACKOFF_BASE: Final = 0.1
BACKOFF_MAX: Final = 30.0

_log = logging.getLogger(__name__)


class Reconciler:
    """Keeps the bus as the declared objects want it.

    Life: `await start()`, later `await stop()`. Everything from one event loop. Discovery and bus are the caller's: started
    before, stopped after.

    Args:
        discovery: tells the objects.
        bus: takes the documents.
        nodes: address (`host:port`) of each node's agent for tunnels, by node name; see `set_nodes`.
        state_dir: folder of this reconciler (epoch, last good objects, lock).
        status_path: file the status is written to as JSON after each pass; `status.json` in the state folder if None.
        resync: seconds between two passes that write everything again.
        on_applied: called after each pass that reached the bus, with the snapshot it was made of.
        clock: seconds since the Unix epoch.
        rng: uniform in [0, 1), for the jitter of backoffs.
        sleep: waits out backoffs.
    """

    def __init__(
        self,
        discovery: Discovery,
        bus: Bus,
        nodes: Mapping[str, str],
        *,
        state_dir: str | os.PathLike[str],
        status_path: str | os.PathLike[str] | None = None,
        resync: float = 600.0,
        on_applied: Callable[[DiscoverySnapshot, Published], None] | None = None,
        clock: Callable[[], float] = time.time,
        rng: Callable[[], float] = random.random,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        self._discovery = discovery
        self._state = StateFolder(state_dir, clock)
        self._publisher = Publisher(bus, self._state.next_epoch)
        self._memory = ObjectMemory()
        self._nodes = _checked(nodes)
        self._status_path = os.fspath(status_path) if status_path is not None else os.path.join(self._state.path, "status.json")
        self._resync = resync
        self._on_applied = on_applied
        self._clock = clock
        self._rng = rng
        self._sleep = sleep
        self._snapshot: DiscoverySnapshot | None = None
        self._overrides: dict[PodRef, bool] = {}
        self._placed: dict[str, frozenset[MeshletRef]] = {}
        self._status = ReconcilerStatus()
        self._discovery_problems: tuple[Problem, ...] = ()
        self._poked = asyncio.Event()
        self._inputs = 0
        self._applied = 0
        self._progress = asyncio.Condition()
        self._failure: BaseException | None = None
        self._tasks: list[asyncio.Task[None]] = []

    # --- inputs ---

    def poke(self) -> None:
        """Ask for a pass."""
        self._inputs += 1
        self._poked.set()

    def set_pod_ready(self, pod: PodRef, ready: bool | None) -> None:
        """Say whether a pod may receive new connections, over what its status says; None takes it back."""
        if ready is None:
            changed = self._overrides.pop(pod, None) is not None
        else:
            changed = self._overrides.get(pod) is not ready
            self._overrides[pod] = ready
        if changed:
            self.poke()

    def set_nodes(self, nodes: Mapping[str, str]) -> None:
        """Replace the nodes of the mesh; a node that is gone loses its manifest, and its pods serve nobody.

        Raises:
            InvalidNameError: a node's name is not a DNS label.
        """
        self._nodes = _checked(nodes)
        self.poke()

    # --- outputs ---

    @property
    def status(self) -> ReconcilerStatus:
        """Status after the last pass."""
        return self._status

    @property
    def snapshot(self) -> DiscoverySnapshot | None:
        """The newest snapshot of discovery, None before the first."""
        return self._snapshot

    def meshlets_of(self, node: str) -> frozenset[MeshletRef]:
        """The meshlets that have a pod on a node, as of the last pass: whose leaves its agent may have."""
        return self._placed.get(node, frozenset())

    async def settled(self) -> ReconcilerStatus:
        """Wait until everything said so far, and a first snapshot, is on the bus.

        Raises:
            DiscoveryError: there was no first snapshot.
        """
        wanted = self._inputs
        async with self._progress:
            await self._progress.wait_for(lambda: self._failure is not None or (self._applied >= wanted and self._applied > 0))
        if self._failure is not None:
            raise self._failure
        return self._status

    # --- life ---

    async def start(self) -> None:
        """Lock the state folder and begin.

        Raises:
            ConfigError: another reconciler uses the state folder, or it cannot be used.
        """
        self._state.lock()
        self._memory.restore(self._state.load_good())
        loop = asyncio.get_running_loop()
        for work, name in ((self._watch(), "reconciler: discovery"), (self._reconcile(), "reconciler: publishing")):
            task = loop.create_task(work, name=name)
            task.add_done_callback(self._ended)
            self._tasks.append(task)

    async def stop(self) -> None:
        """Stop; documents stay on the bus. May be called twice, and without `start`."""
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._state.unlock()

    async def run(self) -> None:
        """`start`, then go on until cancelled or failed, then `stop`.

        Raises:
            DiscoveryError: there was no first snapshot.
            ConfigError: as of `start`, or the epoch cannot be written.
        """
        await self.start()
        try:
            await self.wait_failed()
        finally:
            await self.stop()

    async def wait_failed(self) -> None:
        """Return never; raise when it ended by itself. For who called `start`.

        Raises:
            DiscoveryError: there was no first snapshot.
            ConfigError: the epoch cannot be written.
        """
        async with self._progress:
            await self._progress.wait_for(lambda: self._failure is not None)
        assert self._failure is not None
        raise self._failure

    def _ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self._failure = error
            loop = task.get_loop()
            self._tasks.append(loop.create_task(self._notify(), name="reconciler: failed"))

    async def _notify(self) -> None:
        async with self._progress:
            self._progress.notify_all()

    # --- discovery ---

    async def _watch(self) -> None:
        failures = 0
        while True:
            try:
                async with contextlib.aclosing(_closable(self._discovery)) as snapshots:
                    async for snapshot in snapshots:
                        failures = 0
                        self._snapshot = snapshot
                        self._discovery_problems = tuple(snapshot.problems)
                        self.poke()
                reason: Exception = DiscoveryError([Problem("", "discovery ended its watch")])
            except DiscoveryError as error:
                if self._snapshot is None:
                    raise
                reason = error
            except Exception as error:  # plugin boundary: what is published stays
                if self._snapshot is None:
                    raise
                _log.exception("reconciler: discovery failed")
                reason = error
            failures += 1
            self._discovery_problems = (
                reason.problems if isinstance(reason, DiscoveryError) else (Problem("", f"discovery failed: {reason}"),)
            )
            self.poke()
            await self._back_off(failures, "discovery", reason)

    # --- publishing ---

    async def _reconcile(self) -> None:
        failures = 0
        everything = False
        while True:
            if not everything:
                try:
                    async with asyncio.timeout(self._resync):
                        await self._poked.wait()
                except TimeoutError:
                    everything = True
            self._poked.clear()
            snapshot, inputs = self._snapshot, self._inputs
            if snapshot is None:
                everything = False
                continue
            error = await self._pass(snapshot, inputs, everything)
            if error is None:
                failures, everything = 0, False
                continue
            failures += 1
            # What the bus holds after a loss is not known: write all of it once it is back.
            everything = True
            await self._back_off(failures, "the bus", error)

    async def _pass(self, snapshot: DiscoverySnapshot, inputs: int, everything: bool) -> Exception | None:
        """One look at everything; returns why the bus was not reached, None if it was."""
        world = self._memory.update(snapshot)
        self._state.save_good(self._memory.dump())
        pods = {pod.ref for pod in world.pods}
        for gone in self._overrides.keys() - pods:
            del self._overrides[gone]  # a pod of the same name that comes later is another one
        desired = compile_documents(world, self._nodes, self._overrides)
        self._placed = {
            node: frozenset(pod.meshlet for pod in needs.pods if pod.meshlet is not None)
            for node, needs in desired.needs.items()
        }
        published: Published | None = None
        failure: Exception | None = None
        try:
            published = await self._publisher.apply(desired, everything=everything)
        except BusError as error:
            failure = error
        bus_error = None if failure is None else str(failure)
        problems = (*self._discovery_problems, *world.problems)
        for problem in problems:
            if problem not in self._status.problems:
                _log.error("reconciler: %s", problem)
        if self._discovery_problems and not self._status.problems:
            _log.error("reconciler: the last good state stays in force until this is fixed")
        elif self._status.problems and not problems:
            _log.info("reconciler: everything is read without a problem again")
        now = self._clock()
        self._status = ReconcilerStatus(
            epoch=self._publisher.epoch,
            generation=self._publisher.generation,
            updated=now,
            meshlets=assess(
                world,
                desired,
                failed=published.failed if published is not None else {},
                bus_error=bus_error,
                before=self._status,
                now=now,
            ),
            problems=problems,
            bus_error=bus_error,
            nodes={node: len(needs.pods) for node, needs in desired.needs.items()},
            orphans=orphans(world),
        )
        self._write_status()
        if published is None:
            return failure
        if published.written or published.deleted:
            _log.info(
                "reconciler: generation %d: %d documents published, %d deleted (%s)",
                published.generation,
                len(published.written),
                len(published.deleted),
                ", ".join((*published.written, *published.deleted)[:8]),
            )
        if self._on_applied is not None:
            self._on_applied(snapshot, published)
        async with self._progress:
            self._applied = inputs
            self._progress.notify_all()
        return None

    def _write_status(self) -> None:
        try:
            replace_file(self._status_path, self._status.to_json())
        except OSError as error:
            _log.error("reconciler: status not written: %s", error)

    async def _back_off(self, failures: int, what: str, reason: Exception) -> None:
        delay = self._rng() * min(BACKOFF_MAX, BACKOFF_BASE * 2 ** min(failures - 1, 30))
        _log.warning("reconciler: %s failed (%s), trying again in %.1f s; agents keep what they have", what, reason, delay)
        await self._sleep(delay)


async def _closable(discovery: Discovery) -> AsyncGenerator[DiscoverySnapshot, None]:
    """The watch as a generator of ours: a plugin's iterator need not have `aclose`, and is closed with ours if it has."""
    snapshots = discovery.watch()
    try:
        async for snapshot in snapshots:
            yield snapshot
    finally:
        close = getattr(snapshots, "aclose", None)
        if close is not None:
            await close()


def _checked(nodes: Mapping[str, str]) -> dict[str, str]:
    for node in nodes:
        check_topic(manifest_topic(node))
    return dict(nodes)
