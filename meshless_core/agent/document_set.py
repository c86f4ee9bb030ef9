"""Which documents an agent holds: a state machine fed with payloads. It never goes back, whatever the bus does.

The rules, all of them here:

1. A document is taken only if it decodes under its topic, and replaces only one with a lower (epoch, generation).
2. The node's manifest says which topics count. A topic a newer manifest no longer lists is dropped; nothing else drops one:
   a deletion on the bus may be a broker that lost its memory.
3. A listed document must be at least the generation the manifest names, and have its digest if it is that generation. Until
   such a one comes, the older one that is held stays in force. One that is not held is not taken if it is older than that.

This module does no I/O, reads no clock and does not know where payloads come from.
"""

from __future__ import annotations

import enum
import hashlib
from collections.abc import Mapping
from types import MappingProxyType

from meshless_core.documents import Document, NodeManifest, TopicState, manifest_topic
from meshless_core.documents_codec import decode_document
from meshless_core.errors import DocumentError

__all__ = ["DocumentSet", "Outcome"]


class Outcome(enum.Enum):
    """What came of a payload."""

    CHANGED = "changed"
    """It is held now."""
    SAME = "same"
    """It is what is held already."""
    STALE = "stale"
    """It is older than what is held or demanded, was deleted, or is of a topic that does not count (any more)."""
    MALFORMED = "malformed"
    """It does not decode under its topic; `DocumentSet.rejected` says how."""
    CONFLICT = "conflict"
    """It is another content than the manifest names, or is held, for the same generation; `DocumentSet.rejected` says which."""

    @property
    def rejected(self) -> bool:
        """Whether it is wrong, not merely of no use."""
        return self in (Outcome.MALFORMED, Outcome.CONFLICT)


class DocumentSet:
    """The documents of one node.

    Args:
        node: name of the node; a DNS label.
    """

    def __init__(self, node: str) -> None:
        self.manifest_topic = manifest_topic(node)
        self._held: dict[str, Document] = {}
        self._fingerprints: dict[str, bytes] = {}
        self._rejected: dict[str, str] = {}

    @property
    def manifest(self) -> NodeManifest | None:
        """The newest manifest, None before the first."""
        document = self._held.get(self.manifest_topic)
        if document is None:
            return None
        assert isinstance(document.body, NodeManifest)
        return document.body

    @property
    def wanted(self) -> frozenset[str]:
        """Topics to subscribe to: the manifest's own, and exactly those it lists."""
        manifest = self.manifest
        return frozenset((self.manifest_topic, *(manifest.topics if manifest is not None else ())))

    @property
    def documents(self) -> Mapping[str, Document]:
        """What is in force, the manifest included: a copy."""
        return MappingProxyType(dict(self._held))

    @property
    def behind(self) -> frozenset[str]:
        """Listed topics of which the document the manifest demands has not come (an older one may be in force)."""
        manifest = self.manifest
        if manifest is None:
            return frozenset()
        return frozenset(
            topic
            for topic, state in manifest.topics.items()
            if (document := self._held.get(topic)) is None or not _fits(document, state)
        )

    @property
    def complete(self) -> bool:
        """Whether there is a manifest and every document it demands."""
        return self.manifest is not None and not self.behind

    @property
    def rejected(self) -> Mapping[str, str]:
        """Topics whose last payload was wrong, and why."""
        return MappingProxyType(dict(self._rejected))

    def offer(self, topic: str, payload: bytes | None) -> Outcome:
        """Take a payload if the rules above allow it; None stands for "deleted on the bus". Never raises on bad bytes."""
        if payload is None or topic not in self.wanted:
            return Outcome.STALE
        fingerprint = hashlib.blake2b(payload, digest_size=16).digest()
        if self._fingerprints.get(topic) == fingerprint:
            return self._confirm(topic)  # most of what a new subscription tells is known: do not decode it again
        try:
            document = decode_document(topic, payload)
        except DocumentError as error:
            return self._reject(topic, Outcome.MALFORMED, str(error))
        held = self._held.get(topic)
        if held is not None:
            if _order(document) < _order(held):
                return Outcome.STALE
            if _order(document) == _order(held):
                if document.digest == held.digest:
                    return self._confirm(topic)
                return self._reject(
                    topic,
                    Outcome.CONFLICT,
                    f"document {topic!r}: a second content for epoch {document.epoch}, generation {document.generation}; "
                    "is a second reconciler running?",
                )
        return self._take(document, fingerprint)

    def _take(self, document: Document, fingerprint: bytes) -> Outcome:
        manifest = self.manifest
        if document.topic != self.manifest_topic:
            assert manifest is not None  # only a manifest makes other topics wanted
            state = manifest.topics[document.topic]
            if document.generation < state.generation:
                return Outcome.STALE
            if not _fits(document, state):
                return self._reject(
                    document.topic,
                    Outcome.CONFLICT,
                    f"document {document.topic!r}: generation {document.generation} has another digest than the manifest says",
                )
        self._held[document.topic] = document
        self._fingerprints[document.topic] = fingerprint
        self._rejected.pop(document.topic, None)
        if document.topic == self.manifest_topic:
            for dropped in (self._held.keys() | self._rejected.keys()) - self.wanted:
                self._held.pop(dropped, None)
                self._fingerprints.pop(dropped, None)
                self._rejected.pop(dropped, None)
        return Outcome.CHANGED

    def _confirm(self, topic: str) -> Outcome:
        self._rejected.pop(topic, None)
        return Outcome.SAME

    def _reject(self, topic: str, outcome: Outcome, why: str) -> Outcome:
        self._rejected[topic] = why
        return outcome


def _order(document: Document) -> tuple[int, int]:
    return document.epoch, document.generation


def _fits(document: Document, state: TopicState) -> bool:
    if document.generation == state.generation:
        return document.digest == state.digest
    return document.generation > state.generation
