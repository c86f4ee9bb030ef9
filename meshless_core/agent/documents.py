"""An agent's documents: exactly what its node needs, verified, the last known good kept on disk.

The rules of what is taken are in `document_set`; this is the part with a bus, a disk and a clock. The agent serves from what
was on disk before the bus answers, and goes on serving when the bus is gone: a bus is where news comes from, not what state is.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import random
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

from meshless_core.agent.document_set import DocumentSet, Outcome
from meshless_core.bus.topic_files import TopicFiles
from meshless_core.documents import Document, manifest_topic
from meshless_core.documents_codec import check_topic
from meshless_core.errors import BusError
from meshless_core.hookspecs import Bus

__all__ = ["DocumentStore"]

FOLD: Final = 0.005
"""Seconds a change waits for more of its kind; one publication of the reconciler arrives within it."""

SETTLE: Final = 1.0
"""Seconds an incomplete set waits for what is missing; then it is used as it is: one bad document must not hold up all."""

BACKOFF_BASE: Final = 0.1
BACKOFF_MAX: Final = 30.0
_BREATH: Final = 32  # updates taken in a row before other tasks of the loop get their turn

_log = logging.getLogger(__name__)


class DocumentStore:
    """The documents of one node's agent.

    Args:
        node: name of the node.
        bus: where documents come from.
        state_dir: folder of this agent; last known good goes to `documents/` below it.
        on_change: called in the event loop with every set of documents to use from now on, by topic, the node's manifest
            included. Called first with what was on disk, if there was anything.
        clock: seconds since the Unix epoch; ages survive a restart.
        rng: uniform in [0, 1), for the jitter of the backoff.
        sleep: waits out the backoff.
        fold: seconds a change waits for more.
        settle: seconds an incomplete set waits for what is missing.

    Raises:
        InvalidNameError: the node's name is not a DNS label.
    """

    def __init__(
        self,
        node: str,
        bus: Bus,
        state_dir: str | os.PathLike[str],
        on_change: Callable[[Mapping[str, Document]], None],
        *,
        clock: Callable[[], float] = time.time,
        rng: Callable[[], float] = random.random,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
        fold: float = FOLD,
        settle: float = SETTLE,
    ) -> None:
        self._node = node
        self._bus = bus
        self._files = TopicFiles(os.path.join(os.fspath(state_dir), "documents"))
        self._on_change = on_change
        self._clock = clock
        self._rng = rng
        self._sleep = sleep
        self._fold = fold
        self._settle = settle
        check_topic(manifest_topic(node))
        self._set = DocumentSet(node)
        self._received = dict.fromkeys(Outcome, 0)
        self._given_up: frozenset[str] = frozenset()
        self._in_force: Mapping[str, Document] = {}
        self._source = "none"
        self._heard_at: float | None = None
        self._connected = False
        self._available = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None
        self._settle_until: float | None = None
        self._unsaved: dict[str, bytes | None] = {}
        self._save_task: asyncio.Task[None] | None = None
        self._follow_task: asyncio.Task[None] | None = None

    # --- what the agent asks ---

    @property
    def documents(self) -> Mapping[str, Document]:
        """The documents in force, by topic; empty before there were any."""
        return self._in_force

    @property
    def source(self) -> str:
        """Where the newest state came from: "bus", "disk" (not confirmed by the bus yet) or "none"."""
        return self._source

    @property
    def connected(self) -> bool:
        """Whether the bus is there: something was heard since it was last lost."""
        return self._connected

    @property
    def behind(self) -> frozenset[str]:
        """Topics of which a newer document is announced than is in force."""
        return self._set.behind

    @property
    def rejected(self) -> Mapping[str, str]:
        """Topics whose last document was refused, and why."""
        return self._set.rejected

    @property
    def received(self) -> Mapping[Outcome, int]:
        """Payloads that came from the bus, by what came of them."""
        return self._received

    def age_seconds(self, now: float | None = None) -> float | None:
        """Seconds since the reconciler last confirmed this node's manifest, None without state.

        It confirms with each change and every `reconciler.resync`: an age well beyond that means it, or the bus, is down.
        """
        if self._heard_at is None:
            return None
        return max((self._clock() if now is None else now) - self._heard_at, 0.0)

    async def wait_available(self) -> None:
        """Wait until there are documents in force."""
        await self._available.wait()

    # --- life ---

    async def start(self) -> None:
        """Load last known good, call `on_change` with it, and begin to follow the bus."""
        self._load()
        self._follow_task = asyncio.get_running_loop().create_task(self._follow(), name=f"documents of {self._node}")

    async def stop(self) -> None:
        """Stop following; what was taken is on disk afterwards. May be called twice, and without `start`."""
        task, self._follow_task = self._follow_task, None
        if task is not None:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        while self._save_task is not None:
            await self._save_task

    def _load(self) -> None:
        topic = manifest_topic(self._node)
        self._load_topic(topic)
        for listed in sorted(self._set.wanted - {topic}):
            self._load_topic(listed)
        if self._set.manifest is None:
            return
        try:
            self._heard_at = os.stat(self._files.path(topic)).st_mtime
        except OSError as error:
            _log.warning("documents: age of the state on disk is unknown: %s", error)
        self._source = "disk"
        self._use()

    def _load_topic(self, topic: str) -> None:
        try:
            found = self._files.read(topic)
        except BusError as error:
            _log.warning("documents: last known good of %s: %s", topic, error)
            return
        if found is not None and self._set.offer(topic, found[1]).rejected:
            _log.warning("documents: last known good of %s is not usable: %s", topic, self._set.rejected[topic])

    # --- following the bus ---

    async def _follow(self) -> None:
        failures = 0
        while True:
            try:
                await self._subscription()
            except BusError as error:
                reason = str(error)
            except Exception as error:  # noqa: BLE001 - plugin boundary: a broken bus costs news, not the agent
                _log.exception("documents: the bus failed")
                reason = f"{type(error).__name__}: {error}"
            else:
                continue  # the manifest lists other topics now
            failures = 1 if self._connected else failures + 1
            self._connected = False
            delay = self._rng() * min(BACKOFF_MAX, BACKOFF_BASE * 2 ** min(failures - 1, 30))
            _log.warning("documents: lost the bus (%s), trying again in %.1f s; serving what is there", reason, delay)
            await self._sleep(delay)

    async def _subscription(self) -> None:
        """Follow the wanted topics until others are wanted.

        A new subscription begins with the present values, the manifest's too, so nothing is lost between two.

        Raises:
            BusError: the bus was lost.
        """
        topics = self._set.wanted
        taken = 0
        async with contextlib.aclosing(self._bus.subscribe(topics)) as updates:
            async for update in updates:
                self._connected = True
                self._take(update.topic, update.payload)
                if self._set.wanted != topics:
                    return
                taken += 1
                if taken % _BREATH == 0:
                    await asyncio.sleep(0)
        raise BusError("the bus ended the subscription")

    def _take(self, topic: str, payload: bytes | None) -> None:
        before = self._set.wanted
        outcome = self._set.offer(topic, payload)
        self._received[outcome] += 1
        if outcome.rejected:
            _log.warning("documents: refused: %s", self._set.rejected[topic])
            return
        if outcome is Outcome.STALE:
            _log.debug("documents: %s: older than what is held, deleted or not listed; kept what is held", topic)
            return
        if topic == self._set.manifest_topic:
            self._heard_at = self._clock()
            self._source = "bus"
            self._save(topic, payload if outcome is Outcome.CHANGED else None)
        if outcome is Outcome.CHANGED:
            if topic != self._set.manifest_topic:
                self._save(topic, payload)
            for dropped in before - self._set.wanted:
                self._save(dropped, None)
            self._schedule()

    # --- handing over ---

    def _schedule(self) -> None:
        loop = asyncio.get_running_loop()
        if self._settle_until is None:
            self._settle_until = loop.time() + self._settle
        if self._timer is not None:
            self._timer.cancel()
        # The deadline of the first change stands: a stream of changes must not put off their use.
        at = self._settle_until
        if self._set.manifest is not None and not self._set.behind - self._given_up:
            at = min(at, loop.time() + self._fold)
        self._timer = loop.call_at(at, self._use)

    def _use(self) -> None:
        self._timer = None
        self._settle_until = None
        if self._set.manifest is None:
            return
        if self._set.behind:
            _log.warning(
                "documents: using an incomplete set: the announced document has not come for %s", _listing(self._set.behind)
            )
        self._given_up = self._set.behind  # wait once for what is missing, not again with each change
        self._in_force = self._set.documents
        try:
            self._on_change(self._in_force)
        except Exception:  # noqa: BLE001 - a bug in a consumer must not end the news; what it had stays in force
            _log.exception("documents: the agent could not apply %d documents", len(self._in_force))
        self._available.set()

    # --- last known good ---

    def _save(self, topic: str, payload: bytes | None) -> None:
        """Queue a file: bytes to write, None to remove it (for the manifest: only to note when it was confirmed)."""
        if payload is not None or topic != self._set.manifest_topic or topic not in self._unsaved:
            self._unsaved[topic] = payload
        if self._save_task is None:
            self._save_task = asyncio.get_running_loop().create_task(self._save_all(), name=f"save documents of {self._node}")

    async def _save_all(self) -> None:
        try:
            while self._unsaved:
                await asyncio.sleep(0)  # fold what is being taken right now
                batch, self._unsaved = self._unsaved, {}
                await asyncio.to_thread(self._write, batch, self._heard_at)
        finally:
            self._save_task = None

    def _write(self, batch: Mapping[str, bytes | None], heard_at: float | None) -> None:
        own = manifest_topic(self._node)
        # Documents first, the manifest that lists them after them, and only then what it no longer lists.
        order = sorted(batch, key=lambda topic: (batch[topic] is None, topic == own))
        for topic in order:
            payload = batch[topic]
            try:
                if payload is not None:
                    self._files.write(topic, payload)
                elif topic != own:
                    self._files.delete(topic)
                if topic == own and heard_at is not None:
                    os.utime(self._files.path(topic), (heard_at, heard_at))
            except (BusError, OSError) as error:
                _log.error("documents: last known good of %s is not on disk: %s", topic, error)


def _listing(topics: frozenset[str]) -> str:
    named = sorted(topics)
    return ", ".join(named[:5]) + (f" and {len(named) - 5} more" if len(named) > 5 else "")
