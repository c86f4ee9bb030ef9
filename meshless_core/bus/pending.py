"""What a reader has not seen yet: names, not values, so that a slow reader costs one entry per topic and gets the newest."""

from __future__ import annotations

import asyncio

__all__ = ["Pending"]


class Pending:
    """An ordered set of topics with a waiter. A topic that changes again before it was read keeps its place."""

    def __init__(self) -> None:
        self._topics: dict[str, None] = {}
        self._wake = asyncio.Event()

    def __bool__(self) -> bool:
        return bool(self._topics)

    def add(self, topic: str) -> None:
        """Note that `topic` has to be read (again)."""
        self._topics[topic] = None
        self._wake.set()

    def pop(self) -> str:
        """Take the oldest topic.

        Raises:
            KeyError: nothing is pending.
        """
        topic = next(iter(self._topics), None)
        if topic is None:
            raise KeyError("nothing is pending")
        del self._topics[topic]
        if not self._topics:
            self._wake.clear()
        return topic

    async def next(self) -> str:
        """Wait until there is a topic, and take the oldest."""
        await self._wake.wait()
        return self.pop()
