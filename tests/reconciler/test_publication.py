"""Publishing: only what changed, documents before manifests before deletions, and never a generation twice."""

import pytest

from meshless_core.bus import InProcessBus
from meshless_core.documents import MeshletDocument, NodeManifest, ServiceDocument
from meshless_core.documents_codec import decode_document
from meshless_core.errors import BusError
from meshless_core.reconciler.compilation import Desired, NodeNeeds
from meshless_core.reconciler.publication import Publisher
from meshless_core.types import MeshletRef, ServiceId


class RecordingBus(InProcessBus):
    def __init__(self) -> None:
        super().__init__()
        self.log: list[tuple[str, bool]] = []
        self.fail_at: str | None = None

    async def publish(self, topic: str, payload: bytes | None) -> None:
        if topic == self.fail_at:
            raise BusError(f"{topic}: no route")
        self.log.append((topic, payload is not None))
        await super().publish(topic, payload)

    def take(self) -> list[tuple[str, bool]]:
        log, self.log = self.log, []
        return log


def desired(*names: str, provides: tuple[str, ...] = (), nodes: tuple[str, ...] = ("node-a",)) -> Desired:
    documents = {f"meshlet/shop/{name}": MeshletDocument(MeshletRef("shop", name), (), provides) for name in names}
    return Desired(documents, {node: NodeNeeds((), tuple(sorted(documents))) for node in nodes}, {})


def publisher(bus: InProcessBus, epoch: int = 5) -> Publisher:
    return Publisher(bus, lambda highest: max(epoch, highest + 1))


async def read(bus: InProcessBus, topic: str) -> tuple[int, int]:
    document = decode_document(topic, bus._values[topic])
    return document.epoch, document.generation


async def test_documents_come_before_manifests_and_deletions_last() -> None:
    bus = RecordingBus()
    one = publisher(bus)
    await one.apply(desired("cart", "web"))
    assert bus.take() == [("meshlet/shop/cart", True), ("meshlet/shop/web", True), ("node/node-a/manifest", True)]
    await one.apply(desired("cart", "new"))
    assert bus.take() == [("meshlet/shop/new", True), ("node/node-a/manifest", True), ("meshlet/shop/web", False)]


async def test_only_what_changed_is_written_and_the_generation_grows_once_per_pass() -> None:
    bus = RecordingBus()
    one = publisher(bus)
    assert (await one.apply(desired("cart", "web"))).generation == 1
    bus.take()
    again = await one.apply(desired("cart", "web"))
    assert (again.generation, again.written, bus.take()) == (1, (), [])
    changed = await one.apply(desired("cart", "web", provides=("http",)))
    assert changed.generation == 2
    assert changed.written == ("meshlet/shop/cart", "meshlet/shop/web", "node/node-a/manifest")
    assert await read(bus, "meshlet/shop/cart") == (5, 2)


async def test_the_manifest_names_generation_and_digest_of_what_is_on_the_bus() -> None:
    bus = InProcessBus()
    await publisher(bus).apply(desired("cart"))
    manifest = decode_document("node/node-a/manifest", bus._values["node/node-a/manifest"]).body
    assert isinstance(manifest, NodeManifest)
    cart = decode_document("meshlet/shop/cart", bus._values["meshlet/shop/cart"])
    state = manifest.topics["meshlet/shop/cart"]
    assert (state.generation, state.digest) == (cart.generation, cart.digest)


async def test_a_restarted_reconciler_that_finds_everything_right_publishes_nothing() -> None:
    bus = RecordingBus()
    await publisher(bus).apply(desired("cart"))
    bus.take()
    second = publisher(bus)
    await second.apply(desired("cart"))
    assert bus.take() == []
    await second.apply(desired("cart", provides=("x",)))
    assert await read(bus, "meshlet/shop/cart") == (6, 2)


async def test_a_wrong_document_on_the_bus_is_written_again() -> None:
    bus = RecordingBus()
    await publisher(bus).apply(desired("cart", "web"))
    await bus.publish("meshlet/shop/cart", b"garbage")
    bus.take()
    await publisher(bus).apply(desired("cart", "web"))
    assert [topic for topic, _ in bus.take()] == ["meshlet/shop/cart", "node/node-a/manifest"]


async def test_a_resync_writes_everything_unchanged_and_repairs_what_a_foreign_hand_did() -> None:
    bus = RecordingBus()
    one = publisher(bus)
    await one.apply(desired("cart"))
    before = dict(bus._values)
    await bus.publish("meshlet/shop/cart", None)
    await bus.publish("meshlet/shop/intruder", b"x")
    await bus.publish("agent/node-a/report", b"not ours")
    bus.take()
    result = await one.apply(desired("cart"), everything=True)
    assert bus.take() == [("meshlet/shop/cart", True), ("node/node-a/manifest", True), ("meshlet/shop/intruder", False)]
    assert {**before, "agent/node-a/report": b"not ours"} == bus._values
    assert (result.generation, result.written) == (1, ())


async def test_a_node_that_is_gone_loses_its_manifest() -> None:
    bus = RecordingBus()
    one = publisher(bus)
    await one.apply(desired("cart", nodes=("node-a", "node-b")))
    bus.take()
    await one.apply(desired("cart"))
    assert bus.take() == [("node/node-b/manifest", False)]


@pytest.mark.parametrize("failing", ["meshlet/shop/web", "node/node-a/manifest"])
async def test_after_a_failure_half_way_the_rest_is_written_with_a_new_generation(failing: str) -> None:
    bus = RecordingBus()
    one = publisher(bus)
    bus.fail_at = failing
    with pytest.raises(BusError, match="no route"):
        await one.apply(desired("cart", "web"))
    assert ("meshlet/shop/cart", True) in bus.take()
    bus.fail_at = None
    result = await one.apply(desired("cart", "web"))
    assert failing in result.written
    assert "meshlet/shop/cart" not in result.written
    assert await read(bus, failing) == (5, 2)


async def test_a_document_that_is_too_large_costs_itself_only() -> None:
    bus = InProcessBus()
    one = publisher(bus)
    small = Desired({"service/shop/cart/http": service(1)}, {"node-a": NodeNeeds((), ("service/shop/cart/http",))}, {})
    await one.apply(small)
    before = bus._values["service/shop/cart/http"]
    large = Desired(
        {"service/shop/cart/http": service(30_000), **desired("web").documents},
        {"node-a": NodeNeeds((), ("meshlet/shop/web", "service/shop/cart/http"))},
        {},
    )
    result = await one.apply(large)
    assert "more than 1048576" in result.failed["service/shop/cart/http"]
    assert bus._values["service/shop/cart/http"] == before
    manifest = decode_document("node/node-a/manifest", bus._values["node/node-a/manifest"]).body
    assert isinstance(manifest, NodeManifest)
    assert manifest.topics.keys() == {"meshlet/shop/web", "service/shop/cart/http"}
    assert manifest.topics["service/shop/cart/http"].generation == 1


async def test_a_document_every_broker_may_refuse_is_published_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    bus = InProcessBus()
    await publisher(bus).apply(Desired({"service/shop/cart/http": service(9000)}, {}, {}))
    assert "brokers may refuse over 262144" in caplog.text


def service(count: int) -> ServiceDocument:
    clients = tuple(MeshletRef("shop", f"client-{number}") for number in range(count))
    return ServiceDocument(ServiceId("http", "cart", "shop"), clients, None, None, None, None, None, ())


async def test_a_write_that_failed_may_have_arrived_and_is_not_taken_for_undone() -> None:
    class Forgetful(InProcessBus):
        acknowledge = True

        async def publish(self, topic: str, payload: bytes | None) -> None:
            await super().publish(topic, payload)
            if not self.acknowledge:
                raise BusError("the answer was lost")

    bus = Forgetful()
    one = publisher(bus)
    await one.apply(desired("cart"))
    bus.acknowledge = False
    with pytest.raises(BusError, match="the answer was lost"):
        await one.apply(desired("cart", provides=("new",)))
    bus.acknowledge = True
    await one.apply(desired("cart"))
    body = decode_document("meshlet/shop/cart", bus._values["meshlet/shop/cart"]).body
    assert isinstance(body, MeshletDocument)
    assert body.provides == ()
    assert (await read(bus, "meshlet/shop/cart"))[1] == 3
