from __future__ import annotations

from collections.abc import AsyncIterator

from meshless_core.dev.observed import ObservedDiscovery
from meshless_core.hookspecs import DiscoverySnapshot


class Once:
    """A discovery with a list of snapshots."""

    def __init__(self, *snapshots: DiscoverySnapshot) -> None:
        self._snapshots = snapshots

    async def watch(self) -> AsyncIterator[DiscoverySnapshot]:
        for snapshot in self._snapshots:
            yield snapshot


async def test_each_snapshot_is_observed_before_it_is_handed_on() -> None:
    snapshots = [DiscoverySnapshot((), "one"), DiscoverySnapshot(({"kind": "Pod"},), "two")]
    order: list[tuple[str, DiscoverySnapshot]] = []

    async def observe(snapshot: DiscoverySnapshot) -> None:
        order.append(("observed", snapshot))

    async for snapshot in ObservedDiscovery(Once(*snapshots), observe).watch():
        order.append(("handed on", snapshot))  # noqa: PERF401 - a comprehension would collect all before it extends
    assert order == [(what, snapshot) for snapshot in snapshots for what in ("observed", "handed on")]
