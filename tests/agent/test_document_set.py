"""The rules of what an agent holds: it never goes back, and only the manifest drops."""

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from meshless_core.agent.document_set import DocumentSet, Outcome
from meshless_core.documents import Document, MeshletDocument, NodeManifest, TopicState, manifest_topic, meshlet_topic
from meshless_core.documents_codec import encode_document, make_document
from meshless_core.types import MeshletRef

MANIFEST = manifest_topic("node-a")


def meshlet(name: str, *, epoch: int = 1, generation: int = 1, provides: tuple[str, ...] = ()) -> Document:
    return make_document(MeshletDocument(MeshletRef("shop", name), (), provides), epoch=epoch, generation=generation)


def manifest(*listed: Document, epoch: int = 1, generation: int = 1) -> Document:
    topics = {document.topic: TopicState(document.generation, document.digest) for document in listed}
    return make_document(NodeManifest("node-a", (), topics), epoch=epoch, generation=generation)


def offer(documents: DocumentSet, document: Document) -> Outcome:
    return documents.offer(document.topic, encode_document(document))


def test_before_the_first_manifest_nothing_else_counts() -> None:
    held = DocumentSet("node-a")
    assert held.wanted == {MANIFEST}
    assert offer(held, meshlet("cart")) is Outcome.STALE
    assert not held.complete
    assert held.documents == {}


def test_a_manifest_makes_its_topics_wanted_and_the_set_is_complete_with_the_last_of_them() -> None:
    held, cart, web = DocumentSet("node-a"), meshlet("cart"), meshlet("web")
    assert offer(held, manifest(cart, web)) is Outcome.CHANGED
    assert held.wanted == {MANIFEST, cart.topic, web.topic}
    assert offer(held, cart) is Outcome.CHANGED
    assert held.behind == {web.topic}
    assert offer(held, web) is Outcome.CHANGED
    assert held.complete
    assert held.documents == {MANIFEST: manifest(cart, web), cart.topic: cart, web.topic: web}


def test_another_nodes_manifest_is_not_ours() -> None:
    held = DocumentSet("node-a")
    other = make_document(NodeManifest("node-b", (), {}), epoch=1, generation=1)
    assert held.offer(other.topic, encode_document(other)) is Outcome.STALE
    assert held.offer(MANIFEST, encode_document(other)) is Outcome.MALFORMED
    assert held.manifest is None


def test_an_older_generation_and_an_older_epoch_never_replace() -> None:
    held, cart = DocumentSet("node-a"), meshlet("cart", epoch=3, generation=7)
    offer(held, manifest(meshlet("cart", generation=1)))
    offer(held, cart)
    for epoch, generation in ((3, 6), (2, 9), (1, 1)):
        assert offer(held, meshlet("cart", epoch=epoch, generation=generation, provides=("old",))) is Outcome.STALE
    assert held.documents[cart.topic] == cart
    assert offer(held, meshlet("cart", epoch=4, generation=1)) is Outcome.CHANGED


def test_a_deletion_on_the_bus_drops_nothing() -> None:
    held, cart = DocumentSet("node-a"), meshlet("cart")
    offer(held, manifest(cart))
    offer(held, cart)
    assert held.offer(cart.topic, None) is Outcome.STALE
    assert held.offer(MANIFEST, None) is Outcome.STALE
    assert held.complete


def test_a_topic_a_newer_manifest_does_not_list_is_dropped() -> None:
    held, cart, web = DocumentSet("node-a"), meshlet("cart"), meshlet("web")
    for document in (manifest(cart, web), cart, web, manifest(cart, generation=2)):
        offer(held, document)
    assert set(held.documents) == {MANIFEST, cart.topic}
    assert offer(held, web) is Outcome.STALE


def test_an_announced_document_that_has_not_come_leaves_the_old_one_in_force() -> None:
    held, old = DocumentSet("node-a"), meshlet("cart", generation=1)
    new = meshlet("cart", generation=5, provides=("http",))
    for document in (manifest(old), old, manifest(new, generation=5)):
        offer(held, document)
    assert held.documents[old.topic] == old
    assert held.behind == {old.topic}
    assert offer(held, new) is Outcome.CHANGED
    assert held.complete


def test_a_document_older_than_the_manifest_demands_is_not_taken_even_if_none_is_held() -> None:
    held = DocumentSet("node-a")
    offer(held, manifest(meshlet("cart", generation=5)))
    assert offer(held, meshlet("cart", generation=4)) is Outcome.STALE
    assert meshlet_topic(MeshletRef("shop", "cart")) not in held.documents


def test_a_document_newer_than_the_manifest_demands_is_taken() -> None:
    held = DocumentSet("node-a")
    offer(held, manifest(meshlet("cart", generation=5)))
    assert offer(held, meshlet("cart", generation=6, provides=("http",))) is Outcome.CHANGED
    assert held.complete


def test_the_demanded_generation_with_another_digest_is_refused_and_reported() -> None:
    held = DocumentSet("node-a")
    offer(held, manifest(meshlet("cart", generation=5)))
    forged = meshlet("cart", generation=5, provides=("backdoor",))
    assert offer(held, forged) is Outcome.CONFLICT
    assert "generation 5 has another digest than the manifest says" in held.rejected[forged.topic]
    assert offer(held, meshlet("cart", generation=5)) is Outcome.CHANGED
    assert held.rejected == {}


def test_two_contents_for_one_generation_are_reported_as_two_reconcilers() -> None:
    held = DocumentSet("node-a")
    offer(held, manifest(meshlet("cart", generation=1)))
    offer(held, meshlet("cart", generation=5))
    assert offer(held, meshlet("cart", generation=5, provides=("x",))) is Outcome.CONFLICT
    assert "is a second reconciler running?" in held.rejected["meshlet/shop/cart"]


def test_bad_bytes_are_refused_and_the_last_good_stays() -> None:
    held, cart = DocumentSet("node-a"), meshlet("cart")
    offer(held, manifest(cart))
    offer(held, cart)
    assert held.offer(cart.topic, b"{") is Outcome.MALFORMED
    assert "'meshlet/shop/cart'" in held.rejected[cart.topic]
    assert held.documents[cart.topic] == cart
    assert offer(held, cart) is Outcome.SAME


def test_what_is_held_coming_again_ends_a_complaint() -> None:
    held, cart = DocumentSet("node-a"), meshlet("cart")
    listing = manifest(cart)
    for document in (listing, cart):
        offer(held, document)
    for document in (listing, cart):
        held.offer(document.topic, b"{")
    assert held.rejected.keys() == {MANIFEST, cart.topic}
    for document in (listing, cart):
        assert offer(held, document) is Outcome.SAME
    assert held.rejected == {}


names = st.sampled_from(["a", "b", "c"])
numbers = st.integers(1, 4)
plain = st.builds(
    lambda name, epoch, generation, provides: meshlet(name, epoch=epoch, generation=generation, provides=provides),
    names,
    numbers,
    numbers,
    st.sampled_from([(), ("x",)]),
)
manifests = st.builds(
    lambda listed, epoch, generation: manifest(
        *{one.topic: one for one in listed}.values(), epoch=epoch, generation=generation
    ),
    st.lists(plain, max_size=3),
    numbers,
    numbers,
)
offers = st.lists(
    st.one_of(
        (plain | manifests).map(lambda document: (document.topic, encode_document(document))),
        st.tuples(names.map(lambda name: f"meshlet/shop/{name}") | st.just(MANIFEST), st.none() | st.binary(max_size=8)),
    ),
    max_size=30,
)


@settings(max_examples=300)
@given(offers)
def test_whatever_comes_in_whatever_order_it_never_goes_back(sequence: list[Any]) -> None:
    held = DocumentSet("node-a")
    for topic, payload in sequence:
        before = held.documents
        outcome = held.offer(topic, payload)
        after = held.documents
        assert (outcome is Outcome.CHANGED) == (after != before)
        for kept in before.keys() & after.keys():
            old, new = before[kept], after[kept]
            assert (new.epoch, new.generation) > (old.epoch, old.generation) or new is old
        if dropped := before.keys() - after.keys():
            assert topic == MANIFEST
            assert not dropped & held.wanted
        assert after.keys() <= held.wanted
        if held.manifest is not None:
            for listed, state in held.manifest.topics.items():
                if listed not in held.behind:
                    assert after[listed].generation >= state.generation


def test_a_topic_that_is_dropped_and_listed_again_is_taken_again() -> None:
    held, cart = DocumentSet("node-a"), meshlet("cart")
    for document in (manifest(cart), cart, manifest(generation=2), manifest(cart, generation=3)):
        offer(held, document)
    assert held.behind == {cart.topic}
    assert offer(held, cart) is Outcome.CHANGED
    assert held.complete
