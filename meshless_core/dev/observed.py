"""Lets the supervisor see every snapshot of the world before the reconciler works on it.

New nodes need sockets and addresses before documents name them, so the supervisor acts first and the reconciler second.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable

from meshless_core.hookspecs import Discovery, DiscoverySnapshot

__all__ = ["ObservedDiscovery"]


class ObservedDiscovery:
    """A discovery that calls `observe` with each snapshot, then hands it on.

    Args:
        discovery: the real one.
        observe: awaited before the snapshot is handed on.
    """

    def __init__(self, discovery: Discovery, observe: Callable[[DiscoverySnapshot], Awaitable[None]]) -> None:
        self._discovery = discovery
        self._observe = observe

    async def watch(self) -> AsyncIterator[DiscoverySnapshot]:
        """See `Discovery.watch`."""
        async for snapshot in self._discovery.watch():
            await self._observe(snapshot)
            yield snapshot
