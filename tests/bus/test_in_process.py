"""The in-process bus keeps the contract of every bus, and can be lost like a real one."""

import asyncio

import pytest

from meshless_core.bus import InProcessBus
from meshless_core.errors import BusError
from meshless_core.hookspecs import Bus
from meshless_core.testing.bus import check_bus


async def test_it_keeps_the_contract_of_a_bus() -> None:
    async def make() -> Bus:
        return InProcessBus()

    await check_bus(make)


async def test_a_lost_bus_ends_every_subscription_and_the_next_one_starts_afresh() -> None:
    bus = InProcessBus()
    await bus.publish("meshlet/shop/cart", b"1")
    updates = bus.subscribe(frozenset({"meshlet/shop/cart"}))
    await anext(updates)
    waiting = asyncio.ensure_future(anext(updates))
    await asyncio.sleep(0)
    bus.lose()
    with pytest.raises(BusError, match="connection lost"):
        await waiting
    again = bus.subscribe(frozenset({"meshlet/shop/cart"}))
    assert (await anext(again)).payload == b"1"
    await again.aclose()


async def test_a_closed_subscription_is_forgotten() -> None:
    bus = InProcessBus()
    await bus.publish("meshlet/shop/cart", b"1")
    updates = bus.subscribe(frozenset({"meshlet/shop/cart"}))
    await anext(updates)
    await updates.aclose()
    assert not bus._subscriptions
