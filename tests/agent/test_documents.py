"""The document store: from bus and disk to complete sets, with the bus coming and going."""

import asyncio
import logging
import os
from collections.abc import AsyncGenerator, Mapping
from pathlib import Path
from typing import Any

import pytest

from meshless_core.agent.documents import BACKOFF_MAX, DocumentStore
from meshless_core.bus import DirectoryBus, InProcessBus
from meshless_core.documents import Document, MeshletDocument, NodeManifest, TopicState, manifest_topic
from meshless_core.documents_codec import encode_document, make_document
from meshless_core.errors import BusError, InvalidNameError
from meshless_core.hookspecs import Bus, BusUpdate
from meshless_core.types import MeshletRef

MANIFEST = manifest_topic("node-a")


def meshlet(name: str, *, epoch: int = 1, generation: int = 1, provides: tuple[str, ...] = ()) -> Document:
    return make_document(MeshletDocument(MeshletRef("shop", name), (), provides), epoch=epoch, generation=generation)


def manifest(*listed: Document, epoch: int = 1, generation: int = 1) -> Document:
    topics = {document.topic: TopicState(document.generation, document.digest) for document in listed}
    return make_document(NodeManifest("node-a", (), topics), epoch=epoch, generation=generation)


async def publish(bus: Bus, *documents: Document) -> None:
    for document in documents:
        await bus.publish(document.topic, encode_document(document))


class Sets:
    """Collects what the store hands over and lets a test wait for it."""

    def __init__(self) -> None:
        self.seen: list[Mapping[str, Document]] = []
        self._grown = asyncio.Event()

    def __call__(self, documents: Mapping[str, Document]) -> None:
        self.seen.append(documents)
        self._grown.set()

    async def until(self, *documents: Document) -> None:
        expected = {document.topic: document for document in documents}
        async with asyncio.timeout(10):
            while not self.seen or self.seen[-1] != expected:
                self._grown.clear()
                await self._grown.wait()


class Harness:
    def __init__(self, bus: Bus, state_dir: Path, **options: Any) -> None:
        self.sets = Sets()
        self.now = 1000.0
        self.delays: list[float] = []
        self.store = DocumentStore(
            "node-a",
            bus,
            state_dir,
            self.sets,
            clock=lambda: self.now,
            rng=lambda: 0.5,
            sleep=self._sleep,
            **{"fold": 0.0, "settle": 0.0, **options},
        )

    async def _sleep(self, seconds: float) -> None:
        self.delays.append(seconds)
        await asyncio.sleep(0)

    async def __aenter__(self) -> "Harness":
        await self.store.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.store.stop()


async def test_it_hands_over_exactly_what_the_manifest_lists_and_follows_changes(tmp_path: Path) -> None:
    bus, cart, web = InProcessBus(), meshlet("cart"), meshlet("web")
    await publish(bus, cart, web, meshlet("other"), manifest(cart, web))
    async with Harness(bus, tmp_path) as harness:
        await harness.sets.until(cart, web, manifest(cart, web))
        newer = meshlet("cart", generation=2, provides=("http",))
        await publish(bus, newer)
        await harness.sets.until(newer, web, manifest(cart, web))
        last = manifest(newer, generation=3)
        await publish(bus, last)
        await harness.sets.until(newer, last)
        assert harness.store.documents == harness.sets.seen[-1]
        assert harness.store.source == "bus"
        assert harness.store.connected


async def test_a_newly_listed_topic_is_subscribed_and_none_of_its_changes_is_lost(tmp_path: Path) -> None:
    bus, cart = InProcessBus(), meshlet("cart")
    await publish(bus, cart, manifest(cart))
    async with Harness(bus, tmp_path) as harness:
        await harness.sets.until(cart, manifest(cart))
        for generation in range(2, 30):
            web = meshlet(f"web{generation}", generation=generation)
            grown = manifest(cart, web, generation=generation)
            await publish(bus, web, grown)
            newer = meshlet(f"web{generation}", generation=generation + 100)
            await publish(bus, newer)
            await harness.sets.until(cart, newer, grown)


async def test_an_incomplete_set_waits_for_what_is_missing(tmp_path: Path) -> None:
    bus, cart, web = InProcessBus(), meshlet("cart"), meshlet("web")
    await publish(bus, cart, manifest(cart, web))
    async with Harness(bus, tmp_path, settle=3600.0) as harness:
        while not harness.store.behind:
            await asyncio.sleep(0)
        assert harness.sets.seen == []
        await publish(bus, web)
        await harness.sets.until(cart, web, manifest(cart, web))
        assert len(harness.sets.seen) == 1


async def test_one_bad_document_holds_the_others_up_only_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    bus, cart, web = InProcessBus(), meshlet("cart"), meshlet("web")
    await bus.publish(web.topic, b"not json")
    await publish(bus, cart, manifest(cart, web))
    async with Harness(bus, tmp_path, settle=0.02) as harness:
        await harness.sets.until(cart, manifest(cart, web))
        assert harness.store.rejected.keys() == {web.topic}
        assert f"the announced document has not come for {web.topic}" in caplog.text
        assert "refused: document 'meshlet/shop/web'" in caplog.text
        harness.store._settle = 3600.0
        newer = meshlet("cart", generation=2)
        await publish(bus, newer)
        await harness.sets.until(newer, manifest(cart, web))


async def test_a_burst_is_one_change(tmp_path: Path) -> None:
    bus = InProcessBus()
    many = [meshlet(f"m{number}") for number in range(200)]
    await publish(bus, *many, manifest(*many))
    async with Harness(bus, tmp_path, fold=0.02, settle=10.0) as harness:
        await harness.sets.until(*many, manifest(*many))
        assert len(harness.sets.seen) == 1


async def test_after_a_restart_it_serves_from_disk_before_the_bus_answers(tmp_path: Path) -> None:
    bus, cart = InProcessBus(), meshlet("cart")
    await publish(bus, cart, manifest(cart))
    async with Harness(bus, tmp_path) as harness:
        await harness.sets.until(cart, manifest(cart))
    restarted = Harness(InProcessBus(), tmp_path)
    restarted.now = 1060.0
    async with restarted:
        assert restarted.sets.seen == [{cart.topic: cart, MANIFEST: manifest(cart)}]
        assert restarted.store.source == "disk"
        assert not restarted.store.connected
        assert restarted.store.age_seconds() == 60.0
        await restarted.store.wait_available()


async def test_without_any_state_it_says_so(tmp_path: Path) -> None:
    async with Harness(InProcessBus(), tmp_path) as harness:
        assert harness.store.source == "none"
        assert harness.store.age_seconds() is None
        assert harness.sets.seen == []


async def test_it_never_goes_back_across_a_restart(tmp_path: Path) -> None:
    bus, new = InProcessBus(), meshlet("cart", epoch=2, generation=9)
    await publish(bus, new, manifest(new, epoch=2, generation=9))
    async with Harness(bus, tmp_path) as harness:
        await harness.sets.until(new, manifest(new, epoch=2, generation=9))
    rolled_back, old = InProcessBus(), meshlet("cart", epoch=1, generation=3, provides=("x",))
    await publish(rolled_back, old, manifest(old, epoch=1, generation=3))
    async with Harness(rolled_back, tmp_path) as harness:
        while not harness.store.connected:
            await asyncio.sleep(0)
        assert harness.store.documents[new.topic] == new
        assert harness.store.source == "disk"


async def test_dropped_documents_leave_the_disk_too(tmp_path: Path) -> None:
    bus, cart, web = InProcessBus(), meshlet("cart"), meshlet("web")
    await publish(bus, cart, web, manifest(cart, web))
    async with Harness(bus, tmp_path) as harness:
        await harness.sets.until(cart, web, manifest(cart, web))
        await publish(bus, manifest(cart, generation=2))
        await harness.sets.until(cart, manifest(cart, generation=2))
    files = sorted(
        os.path.relpath(os.path.join(folder, name), tmp_path) for folder, _, names in os.walk(tmp_path) for name in names
    )
    assert files == ["documents/meshlet/shop/cart.json", "documents/node/node-a/manifest.json"]


async def test_a_torn_file_on_disk_is_left_out_with_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    bus, cart, web = InProcessBus(), meshlet("cart"), meshlet("web")
    await publish(bus, cart, web, manifest(cart, web))
    async with Harness(bus, tmp_path) as harness:
        await harness.sets.until(cart, web, manifest(cart, web))
    path = tmp_path / "documents/meshlet/shop/web.json"
    path.write_bytes(path.read_bytes()[:50])
    async with Harness(InProcessBus(), tmp_path) as harness:
        await harness.sets.until(cart, manifest(cart, web))
    assert "last known good of meshlet/shop/web is not usable" in caplog.text
    async with Harness(bus, tmp_path) as harness:
        await harness.sets.until(cart, web, manifest(cart, web))


async def test_a_disk_that_cannot_be_written_is_logged_and_the_agent_serves(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "documents").write_text("in the way")
    bus, cart = InProcessBus(), meshlet("cart")
    await publish(bus, cart, manifest(cart))
    async with Harness(bus, tmp_path) as harness:
        await harness.sets.until(cart, manifest(cart))
    assert f"last known good of {cart.topic} is not on disk" in caplog.text


async def test_a_confirmed_manifest_makes_the_state_young_again(tmp_path: Path) -> None:
    bus, cart = InProcessBus(), meshlet("cart")
    await publish(bus, cart, manifest(cart))
    async with Harness(bus, tmp_path) as harness:
        await harness.sets.until(cart, manifest(cart))
        harness.now += 500
        assert harness.store.age_seconds() == 500
        await publish(bus, manifest(cart))
        while harness.store.age_seconds() != 0:
            await asyncio.sleep(0)
        assert len(harness.sets.seen) == 1
        assert harness.store.age_seconds(now=0.0) == 0.0
    assert os.stat(tmp_path / "documents/node/node-a/manifest.json").st_mtime == 1500.0


class BrokenBus:
    """Fails as often as told, then works."""

    def __init__(self, bus: InProcessBus, failures: list[Exception | None]) -> None:
        self._bus = bus
        self._failures = failures

    async def publish(self, topic: str, payload: bytes | None) -> None:
        raise NotImplementedError

    async def topics(self) -> frozenset[str]:
        raise NotImplementedError

    async def subscribe(self, topics: frozenset[str]) -> AsyncGenerator[BusUpdate, None]:
        if self._failures:
            failure = self._failures.pop(0)
            if failure is None:
                return
            raise failure
        async for update in self._bus.subscribe(topics):
            yield update


async def test_a_lost_bus_is_tried_again_with_growing_jittered_delays(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    bus, cart = InProcessBus(), meshlet("cart")
    await publish(bus, cart, manifest(cart))
    failures: list[Exception | None] = [BusError("no route")] * 12
    failures[1] = None
    failures[2] = RuntimeError("a bug in a plugin")
    async with Harness(BrokenBus(bus, failures), tmp_path) as harness:
        await harness.sets.until(cart, manifest(cart))
        assert harness.delays[:4] == [0.05, 0.1, 0.2, 0.4]
        assert max(harness.delays) == BACKOFF_MAX / 2
        for reason in ("no route", "ended the subscription", "RuntimeError: a bug in a plugin"):
            assert reason in caplog.text


async def test_state_stays_in_force_while_the_bus_is_gone_and_is_current_when_it_is_back(tmp_path: Path) -> None:
    bus, cart = InProcessBus(), meshlet("cart")
    await publish(bus, cart, manifest(cart))
    async with Harness(bus, tmp_path) as harness:
        await harness.sets.until(cart, manifest(cart))
        for generation in range(2, 6):
            bus.lose()
            assert harness.store.documents
            newer = meshlet("cart", generation=generation)
            await publish(bus, newer)
            await harness.sets.until(newer, manifest(cart))
        assert set(harness.delays) == {0.05}


async def test_a_consumer_that_fails_does_not_end_the_news(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    bus, cart = InProcessBus(), meshlet("cart")
    await publish(bus, cart, manifest(cart))
    calls: list[int] = []
    twice = asyncio.Event()

    def fail(documents: Mapping[str, Document]) -> None:
        calls.append(len(documents))
        if len(calls) > 1:
            twice.set()
        raise RuntimeError("cannot apply")

    store = DocumentStore("node-a", bus, tmp_path, fail, fold=0.0, settle=0.0)
    await store.start()
    await store.wait_available()
    await publish(bus, meshlet("cart", generation=2))
    await asyncio.wait_for(twice.wait(), 10)
    await store.stop()
    await store.stop()
    assert "could not apply 2 documents" in caplog.text


async def test_it_works_on_the_directory_bus(tmp_path: Path) -> None:
    bus, cart = DirectoryBus(str(tmp_path / "bus"), rescan=3600.0), meshlet("cart")
    async with Harness(DirectoryBus(str(tmp_path / "bus"), rescan=3600.0), tmp_path / "state", settle=5.0) as harness:
        await publish(bus, cart, manifest(cart))
        await harness.sets.until(cart, manifest(cart))
        newer = meshlet("cart", generation=2)
        await publish(bus, newer, manifest(newer, generation=2))
        await harness.sets.until(newer, manifest(newer, generation=2))


def test_a_node_name_that_cannot_be_a_topic_is_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(InvalidNameError, match="'node/Node_A/manifest' is not a topic"):
        DocumentStore("Node_A", InProcessBus(), tmp_path, lambda documents: None)


async def test_stop_without_start_is_harmless(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        await DocumentStore("node-a", InProcessBus(), tmp_path, lambda documents: None).stop()
    assert caplog.text == ""
