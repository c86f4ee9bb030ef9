from __future__ import annotations

import ssl

import pytest
from hypothesis import given
from hypothesis import strategies as st
from meshless_transport_tls.client_hello import TLS_1_3, ClientHello, ClientHelloReader
from meshless_transport_tls.failures import Alert

from meshless_core import RemoteProtocolError

NAME = "cart.shop.meshlet.mesh.test"


def real_hello(name: str | None = NAME, protocols: tuple[str, ...] = ("meshless/1",)) -> bytes:
    """What OpenSSL sends."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    if protocols:
        context.set_alpn_protocols(list(protocols))
    outgoing = ssl.MemoryBIO()
    tls = context.wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname=name)
    with pytest.raises(ssl.SSLWantReadError):
        tls.do_handshake()
    return outgoing.read()


HELLO = real_hello()


def read(data: bytes, limit: int = 16384) -> ClientHello | None:
    return ClientHelloReader(limit).receive_data(data)


def split_into_records(hello: bytes, size: int) -> bytes:
    body = hello[5:]
    parts = [body[start : start + size] for start in range(0, len(body), size)]
    return b"".join(b"\x16\x03\x01" + len(part).to_bytes(2, "big") + part for part in parts)


def test_a_real_client_hello_is_understood() -> None:
    hello = read(HELLO)
    assert hello is not None
    assert (hello.server_name, hello.protocols) == (NAME, (b"meshless/1",))
    assert TLS_1_3 in hello.versions


def test_what_is_not_there_is_empty() -> None:
    hello = read(real_hello(None, ()))
    assert hello is not None
    assert (hello.server_name, hello.protocols) == (None, ())


@given(st.lists(st.integers(1, 60), max_size=30), st.integers(1, 400))
def test_any_split_gives_the_same(sizes: list[int], record: int) -> None:
    data = split_into_records(HELLO, record)
    reader = ClientHelloReader(65536)
    found = None
    fed = 0
    for size in [*sizes, len(data)]:
        found = found or reader.receive_data(data[fed : fed + size])
        fed = min(fed + size, len(data))
        if found:
            break
    assert found == read(HELLO)
    assert reader.data == data[:fed]


@given(st.binary(max_size=400))
def test_any_bytes_are_a_client_hello_or_a_protocol_error(data: bytes) -> None:
    check_outcome(data)


@given(st.integers(0, len(HELLO) - 1), st.binary(min_size=1, max_size=8))
def test_any_damage_is_a_client_hello_or_a_protocol_error(position: int, junk: bytes) -> None:
    check_outcome(HELLO[:position] + junk + HELLO[position + len(junk) :])


@given(st.binary(max_size=300))
def test_any_body_is_a_client_hello_or_a_protocol_error(body: bytes) -> None:
    message = b"\x01" + len(body).to_bytes(3, "big") + body
    check_outcome(b"\x16\x03\x01" + len(message).to_bytes(2, "big") + message)


def check_outcome(data: bytes) -> None:
    try:
        found: object = read(data)
    except RemoteProtocolError as error:
        found = Alert(error.code)  # raises if it is none
    assert found is None or isinstance(found, ClientHello | Alert)


def test_every_cut_is_incomplete() -> None:
    for end in range(len(HELLO)):
        assert read(HELLO[:end]) is None


def test_an_extension_twice_is_refused() -> None:
    body = HELLO[9:]
    position = 34
    position += 1 + body[position]
    position += 2 + int.from_bytes(body[position : position + 2], "big")
    position += 1 + body[position]
    extensions = body[position + 2 :] * 2
    doubled = body[:position] + len(extensions).to_bytes(2, "big") + extensions
    message = b"\x01" + len(doubled).to_bytes(3, "big") + doubled
    with pytest.raises(RemoteProtocolError, match="twice") as caught:
        read(b"\x16\x03\x01" + len(message).to_bytes(2, "big") + message)
    assert caught.value.code == Alert.ILLEGAL_PARAMETER


def test_more_than_the_limit_is_refused_before_it_arrives() -> None:
    with pytest.raises(RemoteProtocolError, match="larger than 200") as caught:
        read(HELLO[:10], limit=200)
    assert caught.value.code == Alert.RECORD_OVERFLOW
