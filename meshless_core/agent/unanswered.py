"""Clients that wait while their connection is being made: nobody may be left without a reply, also when the agent stops."""

from __future__ import annotations

import asyncio
from typing import Protocol

__all__ = ["Unanswered", "Waiting"]


class Waiting(Protocol):
    """A client without a reply."""

    def turn_away(self) -> None:
        """Refuse it with DRAINING now."""


class Unanswered:
    """All clients of one kind that wait for something between two callbacks."""

    def __init__(self) -> None:
        self._clients: dict[Waiting, None] = {}
        self._empty = asyncio.Event()
        self._empty.set()

    def add(self, client: Waiting) -> None:
        """Enter a client; entering it twice changes nothing."""
        self._clients[client] = None
        self._empty.clear()

    def remove(self, client: Waiting) -> None:
        """Take out a client that was answered or is gone; idempotent."""
        self._clients.pop(client, None)
        if not self._clients:
            self._empty.set()

    async def wait_empty(self) -> None:
        """Return when nobody waits."""
        await self._empty.wait()

    def turn_away(self) -> None:
        """Refuse everybody with DRAINING."""
        for client in list(self._clients):
            client.turn_away()

    def __len__(self) -> int:
        return len(self._clients)
