"""Round trip and hostility of the document codec."""

import hashlib
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshless_core.documents import (
    Document,
    MeshletDocument,
    NodeManifest,
    PodPlacement,
    ServiceDocument,
    TopicState,
    VersionWeight,
)
from meshless_core.documents_codec import (
    MAX_DOCUMENT_BYTES,
    body_digest,
    check_topic,
    decode_document,
    encode_document,
    make_document,
    topic_of,
)
from meshless_core.errors import DocumentError, InvalidNameError
from meshless_core.types import Endpoint, MeshletRef, PodRef, ServiceId

labels = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,8}[a-z0-9])?", fullmatch=True)
versions = st.from_regex(r"[A-Za-z0-9]([A-Za-z0-9_.-]{0,8}[A-Za-z0-9])?", fullmatch=True)
counts = st.integers(0, 2**53 - 1)
meshlets = st.builds(MeshletRef, labels, labels)
pods = st.builds(PodRef, labels, st.lists(labels, min_size=1, max_size=3).map(".".join))
services = st.builds(ServiceId, labels, labels, labels)
uids = st.uuids().map(str)
addresses = st.sampled_from(["127.0.0.1:7001", "[::1]:7001", "node-a.example:65535"])
endpoints = st.builds(Endpoint, pods, uids, labels, addresses, st.none() | versions, st.booleans())
meshlet_bodies = st.builds(
    MeshletDocument, meshlets, st.lists(services, max_size=4).map(tuple), st.lists(labels, max_size=4).map(tuple)
)
service_bodies = st.builds(
    ServiceDocument,
    services,
    st.lists(meshlets, max_size=4).map(tuple),
    st.none() | st.lists(meshlets, max_size=4).map(tuple),
    st.none() | st.integers(1, 2**31),
    st.none() | st.integers(0, 2**63 - 1),
    st.none() | st.just("v2"),
    st.none() | st.lists(st.builds(VersionWeight, versions, counts), max_size=3).map(tuple),
    st.lists(endpoints, max_size=4).map(tuple),
)
states = st.builds(TopicState, counts, st.binary(min_size=32, max_size=32).map(lambda raw: "sha256:" + raw.hex()))
manifest_bodies = st.builds(
    NodeManifest,
    labels,
    st.lists(st.builds(PodPlacement, pods, uids, st.none() | meshlets, st.none() | versions), max_size=3).map(tuple),
    st.dictionaries(st.lists(labels, min_size=1, max_size=4).map("/".join), states, max_size=4),
)
documents = st.builds(
    lambda body, epoch, generation: make_document(body, epoch=epoch, generation=generation),
    meshlet_bodies | service_bodies | manifest_bodies,
    counts,
    counts,
)

CART = MeshletDocument(MeshletRef("shop", "cart"), (ServiceId("sql", "db", "shop"),), ("http",))
SERVICE = ServiceDocument(
    ServiceId("http", "cart", "shop"),
    (MeshletRef("shop", "web"),),
    (MeshletRef("shop", "web"),),
    100,
    60_000_000_000,
    "v2",
    (VersionWeight("v1", 99), VersionWeight("v2", 1)),
    (Endpoint(PodRef("shop", "cart-0"), "u-1", "node-a", "127.0.0.1:7001", "v1", True),),
)
MANIFEST = NodeManifest(
    "node-a",
    (PodPlacement(PodRef("shop", "cart-0"), "u-1", MeshletRef("shop", "cart"), "v1"),),
    {"meshlet/shop/cart": TopicState(3, "sha256:" + "0" * 64)},
)


@given(documents)
def test_every_document_comes_back_as_it_was(document: Document) -> None:
    payload = encode_document(document)
    assert decode_document(document.topic, payload) == document
    assert encode_document(decode_document(document.topic, payload)) == payload


@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
def test_arbitrary_bytes_are_a_document_or_a_document_error(payload: bytes) -> None:
    with pytest.raises(DocumentError):
        decode_document("meshlet/shop/cart", payload)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    found = [path]
    if isinstance(value, dict):
        for key, item in value.items():
            found += places(item, (*path, key))
    if isinstance(value, list):
        for index, item in enumerate(value):
            found += places(item, (*path, index))
    return found


@settings(max_examples=300)
@given(st.sampled_from([CART, SERVICE, MANIFEST]), st.data(), json_values)
def test_a_changed_field_is_a_document_or_a_document_error_even_with_a_right_digest(body: Any, data: Any, value: Any) -> None:
    document = make_document(body, epoch=1, generation=2)
    raw = json.loads(encode_document(document))
    path = data.draw(st.sampled_from([place for place in places(raw) if place]))
    parent = raw
    for step in path[:-1]:
        parent = parent[step]
    parent[path[-1]] = value
    if path[0] == "body":
        canonical = json.dumps(raw["body"], sort_keys=True, separators=(",", ":")).encode()
        raw["digest"] = f"sha256:{hashlib.sha256(canonical).hexdigest()}"
    try:
        result = decode_document(document.topic, json.dumps(raw).encode())
    except DocumentError:
        return
    assert topic_of(result.body) == document.topic
    assert body_digest(result.body) == result.digest


def mutate(**changes: Any) -> bytes:
    raw = json.loads(encode_document(make_document(CART, epoch=1, generation=2)))
    return json.dumps({**raw, **changes}).encode()


@pytest.mark.parametrize(
    ("payload", "message"),
    [
        (b"", "is not JSON"),
        (b"[" * 100_000, "is not JSON"),
        (b"\xff\xfe", "is not JSON"),
        (b"9" * 5000, "is not JSON"),
        (b"NaN", "is not JSON"),
        (b'{"a":1,"a":2}', "same key twice"),
        (b" " * (MAX_DOCUMENT_BYTES + 1), "more than 1048576"),
        (b"[]", "$ is not an object"),
        (b"{}", "$ lacks topic, epoch"),
        (mutate(extra=1), "does not know: extra"),
        (mutate(topic="meshlet/shop/other"), "names another topic: 'meshlet/shop/other'"),
        (mutate(epoch=True), "$.epoch is not an integer"),
        (mutate(epoch=-1), "$.epoch is not an integer"),
        (mutate(generation="2"), "$.generation is not an integer"),
        (mutate(generation=2.0), "no field is a fraction"),
        (mutate(digest="sha256:" + "0" * 64), "does not fit the body"),
        (mutate(digest="md5:0"), "$.digest is not sha256"),
        (mutate(kind="Sidecar"), "not a kind this version knows: 'Sidecar'"),
        (mutate(kind=["MeshletDocument"]), "not a kind this version knows"),
    ],
)
def test_a_bad_document_is_refused_with_topic_and_field(payload: bytes, message: str) -> None:
    with pytest.raises(DocumentError) as caught:
        decode_document("meshlet/shop/cart", payload)
    assert message in str(caught.value)
    assert "'meshlet/shop/cart'" in str(caught.value)


def test_a_document_of_another_topic_cannot_be_replayed_under_this_one() -> None:
    other = make_document(MeshletDocument(MeshletRef("shop", "evil"), (), ()), epoch=9, generation=9)
    raw = json.loads(encode_document(other))
    raw["topic"] = "meshlet/shop/cart"
    with pytest.raises(DocumentError, match="belongs under topic 'meshlet/shop/evil'"):
        decode_document("meshlet/shop/cart", json.dumps(raw).encode())


def test_encoding_refuses_an_envelope_that_does_not_fit_its_body() -> None:
    with pytest.raises(DocumentError, match="does not fit the body"):
        encode_document(Document("meshlet/shop/cart", 1, 1, "sha256:" + "0" * 64, CART))


def test_encoding_refuses_what_is_too_large_for_the_bus() -> None:
    many = tuple(ServiceId(f"s{number}", "m" * 60, "n" * 60) for number in range(9000))
    with pytest.raises(DocumentError, match="more than 1048576"):
        encode_document(make_document(MeshletDocument(CART.ref, many, ()), epoch=1, generation=1))


def test_the_digest_is_over_sorted_ascii_json_without_blanks() -> None:
    # Pinned: other implementations have to compute the same.
    assert body_digest(MeshletDocument(MeshletRef("a", "b"), (), ("c",))) == (
        "sha256:" + hashlib.sha256(b'{"provides":["c"],"ref":{"name":"b","namespace":"a"},"uses":[]}').hexdigest()
    )


@pytest.mark.parametrize("topic", ["", "/", "a//b", "../a", "a/..", "A/b", "a/b.json", "a/" * 200 + "a" * 200, "a/b\n"])
def test_a_text_that_is_no_topic_never_becomes_a_path(topic: str) -> None:
    with pytest.raises(InvalidNameError, match="is not a topic"):
        check_topic(topic)
