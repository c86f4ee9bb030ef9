"""A bus inside one process, for tests and simulation: the same contract as the real ones, nothing on disk."""

from __future__ import annotations

from collections.abc import AsyncGenerator

from meshless_core.bus.pending import Pending
from meshless_core.documents_codec import check_topic
from meshless_core.errors import BusError
from meshless_core.hookspecs import BusUpdate

__all__ = ["InProcessBus"]


class InProcessBus:
    """A store of last values with change notices, in memory. All calls from one event loop."""

    def __init__(self) -> None:
        self._values: dict[str, bytes] = {}
        self._subscriptions: set[_Subscription] = set()

    async def publish(self, topic: str, payload: bytes | None) -> None:
        """Replace a topic's document; None deletes it. See `Bus.publish`."""
        check_topic(topic)
        if payload is None:
            if self._values.pop(topic, None) is None:
                return
        else:
            self._values[topic] = payload
        for subscription in self._subscriptions:
            if topic in subscription.topics:
                subscription.pending.add(topic)

    async def subscribe(self, topics: frozenset[str]) -> AsyncGenerator[BusUpdate, None]:
        """Yield present values, then changes. See `Bus.subscribe`."""
        for topic in topics:
            check_topic(topic)
        subscription = _Subscription(topics)
        self._subscriptions.add(subscription)
        try:
            for topic in sorted(topics):
                if topic in self._values:
                    subscription.pending.add(topic)
            while True:
                topic = await subscription.pending.next()
                if subscription.lost is not None:
                    raise BusError(subscription.lost)
                yield BusUpdate(topic, self._values.get(topic))
        finally:
            self._subscriptions.discard(subscription)

    async def topics(self) -> frozenset[str]:
        """All topics with a document."""
        return frozenset(self._values)

    def lose(self, reason: str = "bus in_process: connection lost") -> None:
        """End every subscription with a BusError, as a real bus does when its server goes away."""
        for subscription in self._subscriptions:
            subscription.lost = reason
            subscription.pending.add("")


class _Subscription:
    """One reader. Compared by identity: two readers of the same topics are two."""

    def __init__(self, topics: frozenset[str]) -> None:
        self.topics = topics
        self.pending = Pending()
        self.lost: str | None = None
