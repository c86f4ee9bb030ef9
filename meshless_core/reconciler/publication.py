"""Brings the bus to the desired state: only what changed, in an order that never leaves a node without what it needs.

Order of a pass: meshlet and service documents, then the manifests that list them, then deletion of what no manifest lists any
more. Generations grow by one per pass that changes anything and are shared by all its documents; they go on where the documents
on the bus stopped, so a restarted reconciler that finds everything right publishes nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Mapping
from typing import Final

import attrs

from meshless_core.documents import Document, MeshletDocument, NodeManifest, ServiceDocument, TopicState
from meshless_core.documents_codec import (
    TARGET_DOCUMENT_BYTES,
    body_digest,
    decode_document,
    encode_document,
    make_document,
    topic_of,
)
from meshless_core.errors import DocumentError
from meshless_core.hookspecs import Bus
from meshless_core.reconciler.compilation import Desired

__all__ = ["Published", "Publisher"]

_OURS: Final = ("meshlet/", "service/", "node/")  # topics we own; anything else on the bus is none of our business
_READ_PATIENCE: Final = 2.0  # seconds of silence after which a topic the bus listed counts as gone
_BREATH: Final = 32  # documents written in a row before other tasks of the loop get their turn

_log = logging.getLogger(__name__)


@attrs.frozen
class Published:
    """What a pass did.

    Attributes:
        generation: of the newest document on the bus.
        written: topics whose document changed, in the order of writing.
        deleted: topics that are gone.
        failed: topics whose document cannot be published, and why; what was published before stays.
    """

    generation: int
    written: tuple[str, ...]
    deleted: tuple[str, ...]
    failed: Mapping[str, str]


class Publisher:
    """Writes documents to one bus.

    Args:
        bus: the bus.
        epoch: `epoch(highest)` gives this term's epoch, higher than `highest`, the highest one found on the bus.
    """

    def __init__(self, bus: Bus, epoch: Callable[[int], int]) -> None:
        self._bus = bus
        self._new_epoch = epoch
        self.epoch = 0
        self.generation = 0
        self._there: dict[str, Document | None] = {}
        self._loaded = False

    @property
    def documents(self) -> Mapping[str, Document]:
        """What is on the bus as far as we know."""
        return {topic: document for topic, document in self._there.items() if document is not None}

    async def load(self) -> None:
        """Read what is on the bus, once; documents that cannot be read count as wrong and are written again.

        Raises:
            BusError: the bus cannot be read.
        """
        if self._loaded:
            return
        topics = frozenset(filter(_is_ours, await self._bus.topics()))
        self._there = dict.fromkeys(topics)
        for topic, payload in (await self._present(topics)).items():
            try:
                self._there[topic] = decode_document(topic, payload)
            except DocumentError as error:
                _log.warning("reconciler: %s", error)
        self.generation = max((document.generation for document in self.documents.values()), default=0)
        self.epoch = self._new_epoch(max((document.epoch for document in self.documents.values()), default=0))
        self._loaded = True

    async def apply(self, desired: Desired, *, everything: bool = False) -> Published:
        """Make the bus hold exactly the desired documents.

        Args:
            desired: what should be there.
            everything: write also what is there already, unchanged: agents see that the reconciler lives, and what a foreign
                hand or a forgetful broker did is repaired.

        Raises:
            BusError: the bus failed on the way; call again, what was written is not written twice.
        """
        await self.load()
        if everything:
            for topic in filter(_is_ours, await self._bus.topics()):
                self._there.setdefault(topic, None)
        work = _Pass(self._bus, self._there, self.epoch, self.generation, everything)
        try:
            for topic, body in sorted(desired.documents.items()):
                await work.put(topic, body)
            manifests = [self._manifest(node, desired) for node in desired.needs]
            for manifest in manifests:
                await work.put(topic_of(manifest), manifest)
        finally:
            self.generation = work.generation  # a number that was used on the way to a failure is not used again
        wanted = desired.documents.keys() | {topic_of(manifest) for manifest in manifests}
        for topic in sorted(self._there.keys() - wanted):
            await self._bus.publish(topic, None)
            del self._there[topic]
            work.deleted.append(topic)
        return Published(self.generation, tuple(work.written), tuple(work.deleted), work.failed)

    def _manifest(self, node: str, desired: Desired) -> NodeManifest:
        needs = desired.needs[node]
        states = {}
        for topic in needs.topics:
            # A document that cannot be published is not demanded beyond what is there.
            if (document := self._there.get(topic)) is not None:
                states[topic] = TopicState(document.generation, document.digest)
        return NodeManifest(node, needs.pods, states)

    async def _present(self, topics: frozenset[str]) -> dict[str, bytes]:
        found: dict[str, bytes] = {}
        seen: set[str] = set()
        async with contextlib.aclosing(self._bus.subscribe(topics)) as updates:
            while seen != topics:
                try:
                    update = await asyncio.wait_for(anext(updates), _READ_PATIENCE)
                except (TimeoutError, StopAsyncIteration):
                    break  # deleted, or unreadable, since it was listed: written again if it is wanted
                seen.add(update.topic)
                if update.payload is not None:
                    found[update.topic] = update.payload
        return found


class _Pass:
    """One pass over the desired documents."""

    def __init__(self, bus: Bus, there: dict[str, Document | None], epoch: int, generation: int, everything: bool) -> None:
        self._bus = bus
        self._there = there
        self._epoch = epoch
        self._last = generation
        self._everything = everything
        self._count = 0
        self.generation = generation
        self.written: list[str] = []
        self.deleted: list[str] = []
        self.failed: dict[str, str] = {}

    async def put(self, topic: str, body: MeshletDocument | ServiceDocument | NodeManifest) -> None:
        held = self._there.get(topic)
        document = held
        if held is None or held.digest != body_digest(body):
            document = make_document(body, epoch=self._epoch, generation=self._last + 1)
        elif not self._everything:
            return
        assert document is not None
        changed = document is not held
        try:
            payload = encode_document(document)
        except DocumentError as error:
            _log.error("reconciler: not published: %s", error)
            self.failed[topic] = str(error)
            return
        if changed:
            self.generation = document.generation
            if len(payload) > TARGET_DOCUMENT_BYTES:
                _log.warning(
                    "reconciler: %s has %d bytes, brokers may refuse over %d", topic, len(payload), TARGET_DOCUMENT_BYTES
                )
        # Before the write: if it fails half-way we do not know what is there, and have to write it again.
        self._there[topic] = None
        await self._bus.publish(topic, payload)
        self._there[topic] = document
        if changed:
            self.written.append(topic)
        self._count += 1
        if self._count % _BREATH == 0:
            await asyncio.sleep(0)


def _is_ours(topic: str) -> bool:
    return topic.startswith(_OURS)
