"""The reconciler as a whole: inputs that change, things that fail, and what reaches the bus and the status."""

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from meshless_core.agent.documents import DocumentStore
from meshless_core.bus import InProcessBus
from meshless_core.documents import NodeManifest, ServiceDocument
from meshless_core.documents_codec import decode_document
from meshless_core.errors import BusError, ConfigError, DiscoveryError, InvalidNameError, Problem
from meshless_core.hookspecs import DiscoverySnapshot
from meshless_core.reconciler import Published, Reconciler
from meshless_core.types import MeshletRef, PodRef

NODES = {"node-a": "127.0.0.1:7001", "node-b": "127.0.0.1:7002"}
HTTP = "service/shop/cart/http"
CART = MeshletRef("shop", "cart")


def meshlet(name: str = "cart", **spec: Any) -> dict[str, Any]:
    return {"apiVersion": "meshless.dev/v1", "kind": "Meshlet", "metadata": {"namespace": "shop", "name": name}, "spec": spec}


def pod(name: str, node: str = "node-a") -> dict[str, Any]:
    labels = {"meshless/meshlet": "cart"}
    return {
        "kind": "Pod",
        "metadata": {"namespace": "shop", "name": name, "uid": f"u-{name}", "labels": labels},
        "spec": {"nodeName": node},
    }


SERVER = {"services": [{"name": "http"}]}
SHOP = (meshlet(server=SERVER), pod("cart-0"))


class Scripted:
    """Discovery that says what the test says."""

    def __init__(self, *objects: dict[str, Any]) -> None:
        self._said: asyncio.Queue[Any] = asyncio.Queue()
        if objects:
            self.say(*objects)

    def say(self, *objects: dict[str, Any], problems: tuple[Problem, ...] = ()) -> None:
        self._said.put_nowait(DiscoverySnapshot(objects, ["mesh.yaml:1"] * len(objects), problems))

    def fail(self, error: Exception | None) -> None:
        self._said.put_nowait(error)

    async def watch(self) -> AsyncIterator[DiscoverySnapshot]:
        while True:
            said = await self._said.get()
            if said is None:
                return
            if isinstance(said, Exception):
                raise said
            yield said


class Flaky(InProcessBus):
    """A bus that can be down."""

    down = False

    async def publish(self, topic: str, payload: bytes | None) -> None:
        if self.down:
            raise BusError("no route to the bus")
        await super().publish(topic, payload)

    async def topics(self) -> frozenset[str]:
        if self.down:
            raise BusError("no route to the bus")
        return await super().topics()


class Harness:
    def __init__(self, tmp_path: Path, *objects: dict[str, Any], bus: InProcessBus | None = None, **options: Any) -> None:
        self.discovery = Scripted(*objects)
        self.bus = bus if bus is not None else InProcessBus()
        self.delays: list[float] = []
        self.passes: list[Published] = []
        self._passed = asyncio.Event()
        self.reconciler = Reconciler(
            self.discovery,
            self.bus,
            options.pop("nodes", NODES),
            state_dir=tmp_path / "state",
            on_applied=self._applied,
            clock=lambda: 1000.0,
            rng=lambda: 0.5,
            sleep=self._sleep,
            **options,
        )

    def _applied(self, snapshot: DiscoverySnapshot, published: Published) -> None:
        self.passes.append(published)
        self._passed.set()

    async def _sleep(self, seconds: float) -> None:
        self.delays.append(seconds)
        await asyncio.sleep(0)

    async def __aenter__(self) -> "Harness":
        await self.reconciler.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.reconciler.stop()

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(10):
            while not condition():
                await asyncio.sleep(0)

    def service(self) -> ServiceDocument:
        body = decode_document(HTTP, self.bus._values[HTTP]).body
        assert isinstance(body, ServiceDocument)
        return body

    def manifest(self, node: str) -> NodeManifest:
        topic = f"node/{node}/manifest"
        body = decode_document(topic, self.bus._values[topic]).body
        assert isinstance(body, NodeManifest)
        return body


async def test_what_discovery_says_is_on_the_bus_when_it_settled(tmp_path: Path) -> None:
    async with Harness(tmp_path, *SHOP) as harness:
        status = await asyncio.wait_for(harness.reconciler.settled(), 10)
        assert await harness.bus.topics() == {"meshlet/shop/cart", HTTP, "node/node-a/manifest", "node/node-b/manifest"}
        assert harness.manifest("node-a").topics.keys() == {"meshlet/shop/cart", HTTP}
        assert (status.epoch, status.generation, status.nodes) == (1000, 1, {"node-a": 1, "node-b": 0})
        assert json.loads((tmp_path / "state/status.json").read_bytes())["epoch"] == 1000
        assert harness.reconciler.snapshot is not None


async def test_a_change_of_the_objects_is_published(tmp_path: Path) -> None:
    async with Harness(tmp_path, *SHOP) as harness:
        await harness.reconciler.settled()
        harness.discovery.say(*SHOP, pod("cart-1", "node-b"))
        await harness.until(lambda: len(harness.passes) == 2)
        assert [endpoint.pod.name for endpoint in harness.service().endpoints] == ["cart-0", "cart-1"]
        assert harness.passes[1].written == (HTTP, "node/node-a/manifest", "node/node-b/manifest")
        harness.discovery.say()
        await harness.until(lambda: len(harness.passes) == 3)
        assert harness.passes[2].deleted == ("meshlet/shop/cart", HTTP)


async def test_an_invalid_meshlet_keeps_its_documents_and_its_condition_says_why(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with Harness(tmp_path, *SHOP) as harness:
        await harness.reconciler.settled()
        harness.discovery.say(meshlet(sever=SERVER), SHOP[1])
        await harness.until(lambda: len(harness.passes) == 2)
        assert harness.passes[1].written == ()
        status = harness.reconciler.status.of(CART)
        assert status is not None
        accepted = status.condition("Accepted")
        assert accepted is not None
        assert accepted.message.startswith("its last good version stays in force")
        assert "sever" in accepted.message
        assert "sever" in caplog.text


async def test_an_invalid_meshlet_keeps_its_documents_over_a_restart(tmp_path: Path) -> None:
    async with Harness(tmp_path, *SHOP) as harness:
        await harness.reconciler.settled()
    async with Harness(tmp_path, meshlet(sever=SERVER), SHOP[1], bus=harness.bus) as restarted:
        status = await restarted.reconciler.settled()
        assert restarted.passes[0].written == ()
        assert restarted.passes[0].deleted == ()
        assert status.epoch == 1001


async def test_a_pods_readiness_can_be_set_and_taken_back(tmp_path: Path) -> None:
    async with Harness(tmp_path, *SHOP) as harness:
        await harness.reconciler.settled()
        for ready, expected in ((False, False), (True, True), (False, False), (None, True)):
            harness.reconciler.set_pod_ready(PodRef("shop", "cart-0"), ready)
            await asyncio.wait_for(harness.reconciler.settled(), 10)
            assert harness.service().endpoints[0].ready is expected
        passes = len(harness.passes)
        harness.reconciler.set_pod_ready(PodRef("shop", "cart-0"), None)
        await asyncio.sleep(0)
        assert len(harness.passes) == passes


async def test_a_pod_that_comes_back_has_no_override(tmp_path: Path) -> None:
    async with Harness(tmp_path, *SHOP) as harness:
        harness.reconciler.set_pod_ready(PodRef("shop", "cart-0"), False)
        await harness.reconciler.settled()
        harness.discovery.say(SHOP[0])
        await harness.until(lambda: len(harness.passes) >= 2)
        harness.discovery.say(*SHOP)
        await harness.until(lambda: len(harness.passes) >= 3)
        assert harness.service().endpoints[0].ready


async def test_nodes_come_and_go(tmp_path: Path) -> None:
    async with Harness(tmp_path, *SHOP, pod("cart-1", "node-b"), nodes={}) as harness:
        await harness.reconciler.settled()
        assert harness.service().endpoints == ()
        harness.reconciler.set_nodes(NODES)
        await harness.reconciler.settled()
        assert [endpoint.address for endpoint in harness.service().endpoints] == ["127.0.0.1:7001", "127.0.0.1:7002"]
        harness.reconciler.set_nodes({"node-a": "127.0.0.1:7001"})
        await harness.reconciler.settled()
        assert "node/node-b/manifest" not in await harness.bus.topics()
        with pytest.raises(InvalidNameError, match="Node_C"):
            harness.reconciler.set_nodes({"Node_C": "127.0.0.1:1"})


async def test_a_bus_that_is_down_is_tried_again_and_gets_everything(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    bus = Flaky()
    bus.down = True
    async with Harness(tmp_path, *SHOP, bus=bus) as harness:
        await harness.until(lambda: len(harness.delays) >= 12)
        assert harness.delays[:4] == [0.05, 0.1, 0.2, 0.4]
        assert max(harness.delays) == 15.0
        assert harness.reconciler.status.bus_error == "no route to the bus"
        bus.down = False
        settled = await harness.reconciler.settled()
        assert HTTP in await bus.topics()
        assert settled.bus_error is None
        assert "the bus failed (no route to the bus)" in caplog.text


async def test_without_news_everything_is_written_again_on_a_slow_cycle(tmp_path: Path) -> None:
    async with Harness(tmp_path, *SHOP, resync=0.01) as harness:
        await harness.reconciler.settled()
        await harness.bus.publish(HTTP, None)
        await harness.until(lambda: HTTP in harness.bus._values)
        assert harness.reconciler.status.generation == 1


async def test_no_first_snapshot_is_an_error_and_takes_nothing_from_the_bus(tmp_path: Path) -> None:
    bus = InProcessBus()
    await bus.publish(HTTP, b"old")
    harness = Harness(tmp_path, bus=bus)
    harness.discovery.fail(DiscoveryError([Problem("", "is not YAML", "mesh.yaml", 3)]))
    await harness.reconciler.start()
    with pytest.raises(DiscoveryError, match=r"mesh\.yaml:3: is not YAML"):
        await asyncio.wait_for(harness.reconciler.settled(), 10)
    await harness.reconciler.stop()
    assert await bus.topics() == {HTTP}
    again = Harness(tmp_path, bus=bus)
    again.discovery.fail(DiscoveryError([Problem("", "is not YAML", "mesh.yaml", 3)]))
    with pytest.raises(DiscoveryError, match="is not YAML"):
        await asyncio.wait_for(again.reconciler.run(), 10)


async def test_a_discovery_that_fails_later_is_watched_again_and_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with Harness(tmp_path, *SHOP) as harness:
        await harness.reconciler.settled()
        harness.discovery.fail(RuntimeError("a bug in a plugin"))
        harness.discovery.fail(None)
        harness.discovery.fail(DiscoveryError([Problem("", "gone", "mesh.yaml")]))
        await harness.until(lambda: len(harness.delays) == 3)
        await harness.reconciler.settled()
        assert [str(problem) for problem in harness.reconciler.status.problems] == ["mesh.yaml: gone"]
        assert HTTP in await harness.bus.topics()
        harness.discovery.say(*SHOP)
        await harness.until(lambda: not harness.reconciler.status.problems)
        assert "a bug in a plugin" in caplog.text


async def test_what_discovery_kept_out_is_in_the_status_and_logged_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="meshless_core.reconciler.reconciler")
    async with Harness(tmp_path, *SHOP) as harness:
        await harness.reconciler.settled()
        harness.discovery.say(*SHOP, problems=(Problem("", "not valid yaml", "mesh.yaml", 7),))
        await harness.until(lambda: bool(harness.reconciler.status.problems))
        assert str(harness.reconciler.status.problems[0]) == "mesh.yaml:7: not valid yaml"
        assert b"not valid yaml" in (tmp_path / "state/status.json").read_bytes()
        harness.discovery.say(*SHOP)
        await harness.until(lambda: not harness.reconciler.status.problems)
    assert caplog.messages[-3:] == [
        "reconciler: mesh.yaml:7: not valid yaml",
        "reconciler: the last good state stays in force until this is fixed",
        "reconciler: everything is read without a problem again",
    ]


async def test_two_reconcilers_do_not_share_a_state_folder(tmp_path: Path) -> None:
    async with Harness(tmp_path, *SHOP):
        with pytest.raises(ConfigError, match="in use by another reconciler"):
            await Harness(tmp_path, *SHOP).reconciler.start()
    async with Harness(tmp_path, *SHOP) as again:
        await again.reconciler.settled()


async def test_a_status_that_cannot_be_written_is_logged_and_publishing_goes_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    async with Harness(tmp_path, *SHOP, status_path=tmp_path / "file" / "status.json") as harness:
        await harness.reconciler.settled()
        assert "status not written" in caplog.text


async def test_stop_is_idempotent_and_ends_the_discovery(tmp_path: Path) -> None:
    closed = asyncio.Event()

    class Watched(Scripted):
        async def watch(self) -> AsyncGenerator[DiscoverySnapshot, None]:
            try:
                async for snapshot in super().watch():
                    yield snapshot
            finally:
                closed.set()

    reconciler = Reconciler(Watched(*SHOP), InProcessBus(), NODES, state_dir=tmp_path)
    await reconciler.start()
    await reconciler.settled()
    await reconciler.stop()
    await reconciler.stop()
    assert closed.is_set()


async def test_an_agent_has_what_the_reconciler_said_end_to_end(tmp_path: Path) -> None:
    changed: asyncio.Queue[frozenset[str]] = asyncio.Queue()
    async with Harness(tmp_path, *SHOP) as harness:
        store = DocumentStore(
            "node-b", harness.bus, tmp_path / "agent", lambda documents: changed.put_nowait(frozenset(documents))
        )
        await store.start()
        assert await asyncio.wait_for(changed.get(), 10) == {"node/node-b/manifest"}
        harness.discovery.say(*SHOP, pod("cart-1", "node-b"))
        while await asyncio.wait_for(changed.get(), 10) != {"node/node-b/manifest", "meshlet/shop/cart", HTTP}:
            pass
        assert not store.behind
        harness.discovery.say(*SHOP)
        while await asyncio.wait_for(changed.get(), 10) != {"node/node-b/manifest"}:
            pass
        await store.stop()
