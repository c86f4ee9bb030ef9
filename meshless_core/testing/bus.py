"""What every bus promises, as one function: `await check_bus(make_bus)`.

The checks know nothing of how a bus works; they wait for what has to come and never for time to pass.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Final

from meshless_core.errors import InvalidNameError
from meshless_core.hookspecs import Bus, BusUpdate

__all__ = ["check_bus"]

_PATIENCE: Final = 10.0  # seconds until a check gives up; a bus that works needs milliseconds


async def check_bus(make_bus: Callable[[], Awaitable[Bus]]) -> None:
    """Check a bus against the contract in `meshless_core.hookspecs.Bus`.

    Args:
        make_bus: gives a started bus without documents, a new one for each check.

    Raises:
        AssertionError: a promise is broken; the message says which.
    """
    for check in (
        _present_values_come_at_once,
        _changes_and_deletions_come,
        _only_the_exact_topics_come,
        _a_slow_reader_gets_the_newest_value_only,
        _every_reader_gets_every_topic,
        _a_reader_that_left_disturbs_nobody,
        _topics_tells_what_is_there,
        _what_is_no_topic_is_refused,
        _payloads_are_bytes_of_any_kind,
        _a_new_subscription_starts_afresh,
    ):
        await check(await make_bus())


async def _next(updates: AsyncGenerator[BusUpdate, None], promise: str) -> BusUpdate:
    try:
        return await asyncio.wait_for(anext(updates), _PATIENCE)
    except TimeoutError:
        raise AssertionError(f"{promise}: nothing came in {_PATIENCE} s") from None


async def _until(updates: AsyncGenerator[BusUpdate, None], wanted: BusUpdate, promise: str) -> list[BusUpdate]:
    """Read until `wanted` comes: a bus may tell the same value twice, but never an older one after a newer."""
    seen: list[BusUpdate] = []
    while not seen or seen[-1] != wanted:
        seen.append(await _next(updates, promise))
    return seen


async def _present_values_come_at_once(bus: Bus) -> None:
    await bus.publish("node/a/manifest", b"1")
    await bus.publish("service/shop/cart/http", b"2")
    updates = bus.subscribe(frozenset({"node/a/manifest", "service/shop/cart/http", "service/shop/cart/none"}))
    first = {await _next(updates, "present values come at once"), await _next(updates, "present values come at once")}
    await updates.aclose()
    expected = {BusUpdate("node/a/manifest", b"1"), BusUpdate("service/shop/cart/http", b"2")}
    assert first == expected, f"a subscription has to begin with the present values, got {first}"


async def _changes_and_deletions_come(bus: Bus) -> None:
    updates = bus.subscribe(frozenset({"meshlet/shop/cart"}))
    waiting = asyncio.ensure_future(_next(updates, "a change comes"))
    await asyncio.sleep(0)  # the reader waits before there is anything
    for payload in (b"1", b"2", None, b"3", None):
        await bus.publish("meshlet/shop/cart", payload)
        update = await waiting
        assert update == BusUpdate("meshlet/shop/cart", payload), f"expected the change to {payload!r}, got {update}"
        waiting = asyncio.ensure_future(_next(updates, "a change comes"))
        await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    await updates.aclose()


async def _only_the_exact_topics_come(bus: Bus) -> None:
    updates = bus.subscribe(frozenset({"meshlet/shop/cart"}))
    for topic in ("meshlet/shop/cart2", "meshlet/shop", "meshlet/shop/cart/more", "meshlet/shop2/cart", "meshlet"):
        await bus.publish(topic, b"other")
    await bus.publish("meshlet/shop/cart", b"mine")
    update = await _next(updates, "a topic's value comes")
    await updates.aclose()
    assert update == BusUpdate("meshlet/shop/cart", b"mine"), f"only exact topics may come, got {update}"


async def _a_slow_reader_gets_the_newest_value_only(bus: Bus) -> None:
    updates = bus.subscribe(frozenset({"meshlet/shop/cart", "meshlet/shop/end"}))
    await bus.publish("meshlet/shop/cart", b"first")
    await _until(updates, BusUpdate("meshlet/shop/cart", b"first"), "the first value comes")
    for number in range(500):
        await bus.publish("meshlet/shop/cart", b"%d" % number)
    seen = await _until(updates, BusUpdate("meshlet/shop/cart", b"499"), "the newest value comes")
    await bus.publish("meshlet/shop/end", b"end")
    seen += await _until(updates, BusUpdate("meshlet/shop/end", b"end"), "a later topic comes")
    await updates.aclose()
    assert len(seen) <= 6, f"a slow reader gets the newest value, not the {len(seen)} it missed"


async def _every_reader_gets_every_topic(bus: Bus) -> None:
    topics = [f"service/shop/cart/s{number}" for number in range(50)]
    readers = [bus.subscribe(frozenset(topics)) for _ in range(3)]
    tasks = [asyncio.ensure_future(_collect(reader, len(topics))) for reader in readers]
    await asyncio.sleep(0)
    for topic in topics:
        await bus.publish(topic, topic.encode())
    for values in await asyncio.gather(*tasks):
        assert values == {topic: topic.encode() for topic in topics}, "every reader gets the last value of every topic"
    for reader in readers:
        await reader.aclose()


async def _collect(reader: AsyncGenerator[BusUpdate, None], count: int) -> dict[str, bytes | None]:
    values: dict[str, bytes | None] = {}
    while len(values) < count:
        update = await _next(reader, "every topic comes")
        values[update.topic] = update.payload
    return values


async def _a_reader_that_left_disturbs_nobody(bus: Bus) -> None:
    stays = bus.subscribe(frozenset({"meshlet/shop/cart"}))
    leaves = bus.subscribe(frozenset({"meshlet/shop/cart"}))
    await bus.publish("meshlet/shop/cart", b"1")
    await _until(leaves, BusUpdate("meshlet/shop/cart", b"1"), "the first value comes")
    await leaves.aclose()
    cancelled = asyncio.ensure_future(anext(bus.subscribe(frozenset({"meshlet/shop/none"}))))
    await asyncio.sleep(0)
    cancelled.cancel()
    await asyncio.gather(cancelled, return_exceptions=True)
    assert cancelled.cancelled(), "a waiting reader can be cancelled"
    await bus.publish("meshlet/shop/cart", b"2")
    await _until(stays, BusUpdate("meshlet/shop/cart", b"2"), "a reader goes on after another one left")
    await stays.aclose()


async def _topics_tells_what_is_there(bus: Bus) -> None:
    assert await bus.topics() == frozenset(), "a new bus has no topics"
    await bus.publish("meshlet/shop/cart", b"1")
    await bus.publish("meshlet/shop/web", b"1")
    await bus.publish("meshlet/shop/cart", None)
    await bus.publish("meshlet/shop/never", None)
    topics = await bus.topics()
    assert topics == frozenset({"meshlet/shop/web"}), f"topics has to tell what has a document, got {topics}"


async def _what_is_no_topic_is_refused(bus: Bus) -> None:
    for text in ("", "../escape", "a/../b", "UPPER", "a//b", "a/+", "#"):
        try:
            await bus.publish(text, b"1")
        except InvalidNameError:
            continue
        raise AssertionError(f"{text!r} is no topic: publish has to raise InvalidNameError")


async def _payloads_are_bytes_of_any_kind(bus: Bus) -> None:
    updates = bus.subscribe(frozenset({"meshlet/shop/cart"}))
    for payload in (b"", bytes(range(256)), b"x" * 300_000):
        await bus.publish("meshlet/shop/cart", payload)
        await _until(updates, BusUpdate("meshlet/shop/cart", payload), f"a payload of {len(payload)} bytes comes whole")
    await updates.aclose()


async def _a_new_subscription_starts_afresh(bus: Bus) -> None:
    await bus.publish("meshlet/shop/cart", b"1")
    for _ in range(2):
        updates = bus.subscribe(frozenset({"meshlet/shop/cart"}))
        await _until(updates, BusUpdate("meshlet/shop/cart", b"1"), "present values come to each new subscription")
        await updates.aclose()
