from __future__ import annotations

import h11
import pytest
from meshless_handshake_http.head import Head, RejectedRequestError, check_trailers, read_head

from meshless_core import ReplyCode


def parsed(raw: bytes) -> h11.Request:
    connection = h11.Connection(h11.SERVER)
    connection.receive_data(raw)
    event = connection.next_event()
    assert isinstance(event, h11.Request)
    return event


def head_of(line: str, *fields: str) -> Head:
    raw = "".join(f"{text}\r\n" for text in (line, *fields, "")).encode("latin-1")
    return read_head(parsed(raw), raw)


def rejected(line: str, *fields: str, status: int = 400) -> str:
    with pytest.raises(RejectedRequestError) as caught:
        head_of(line, *fields)
    assert caught.value.status == status
    return str(caught.value)


@pytest.mark.parametrize(
    ("line", "host"),
    [
        ("GET / HTTP/1.1", "http.cart.shop"),
        ("GET / HTTP/1.1", "http.cart.shop:8080"),
        ("GET / HTTP/1.1", "http.cart.shop:"),
        ("GET / HTTP/1.1", "HTTP.Cart.Shop"),
        ("GET / HTTP/1.1", "http.cart.shop."),
        ("GET / HTTP/1.0", "http.cart.shop"),
        ("OPTIONS * HTTP/1.1", "http.cart.shop"),
        ("PROPFIND /a HTTP/1.1", "http.cart.shop"),
        ("GET http://http.cart.shop/a HTTP/1.1", "http.cart.shop"),
        ("GET HTTP://http.cart.shop?q HTTP/1.1", "http.cart.shop"),
        ("GET http://http.cart.shop:80/a HTTP/1.1", "http.cart.shop"),
        ("GET http://http.cart.shop:81/a HTTP/1.1", "http.cart.shop:81"),
        ("CONNECT http.cart.shop:443 HTTP/1.1", "http.cart.shop:443"),
        ("CONNECT http.cart.shop:443 HTTP/1.1", "http.cart.shop"),
    ],
)
def test_the_service_is_the_host(line: str, host: str) -> None:
    assert str(head_of(line, f"Host: {host}").service_id) == "http.cart.shop"


def test_a_tunnel_needs_no_host_since_its_target_says_it() -> None:
    head = head_of("CONNECT http.cart.shop:1 HTTP/1.0")
    assert head.is_connect
    assert str(head.service_id) == "http.cart.shop"


@pytest.mark.parametrize(
    ("line", "fields", "said"),
    [
        ("GET / HTTP/1.0", [], "has no Host"),
        ("GET / HTTP/1.1", ["Host:"], "Host ''"),
        ("GET / HTTP/1.1", ["Host: example.com"], "not a service id"),
        ("GET / HTTP/1.1", ["Host: [::1]:80"], "Host '\\[::1\\]:80'"),
        ("GET / HTTP/1.1", ["Host: a@http.cart.shop"], "a@http"),
        ("GET / HTTP/1.1", ["Host: http.cart.shop, http.cart.shop"], "Host 'http.cart.shop, http"),
        ("GET / HTTP/1.1", ["Host: http.cart.shop:80:80"], ":80:80"),
        ("GET / HTTP/1.1", ["Host: http.cart.shop:x"], ":x"),
        ("GET / HTTP/1.1", ["Host: http.cart.shop.."], "not a service id"),
        ("GET / HTTP/1.1", ["Host: http.cart.shop/"], "shop/"),
        ("GET http.cart.shop/a HTTP/1.1", ["Host: http.cart.shop"], "no path"),
        ("GET * HTTP/1.1", ["Host: http.cart.shop"], "no path"),
        ("GET http://http.other.shop/ HTTP/1.1", ["Host: http.cart.shop"], "have to be the same"),
        ("GET http://http.cart.shop:81/ HTTP/1.1", ["Host: http.cart.shop"], "have to be the same"),
        ("GET http://x@http.cart.shop/ HTTP/1.1", ["Host: http.cart.shop"], "request target 'x@"),
        ("GET http://http.cart.shop\\@http.other.shop/ HTTP/1.1", ["Host: http.cart.shop"], "request target"),
        ("GET https://http.cart.shop/ HTTP/1.1", ["Host: http.cart.shop"], "https:// address"),
        ("CONNECT http.cart.shop HTTP/1.1", ["Host: http.cart.shop"], "no port"),
        ("CONNECT http.cart.shop: HTTP/1.1", ["Host: http.cart.shop"], "no port"),
        ("CONNECT /path HTTP/1.1", ["Host: http.cart.shop"], "target of CONNECT '/path'"),
        ("CONNECT http.cart.shop:80 HTTP/1.1", ["Host: http.other.shop:80"], "name one service"),
        ("CONNECT http.cart.shop:80 HTTP/1.1", ["Host: http.cart.shop", "Content-Length: 3"], "has a body"),
        ("CONNECT http.cart.shop:80 HTTP/1.1", ["Host: http.cart.shop", "Transfer-Encoding: chunked"], "has a body"),
    ],
)
def test_a_request_that_does_not_name_one_service_is_rejected(line: str, fields: list[str], said: str) -> None:
    with pytest.raises(RejectedRequestError, match=said):
        head_of(line, *fields)


@pytest.mark.parametrize(
    "fields",
    [
        ["Content-Length: 5", "Content-Length: 5"],
        ["Content-Length: 5, 5"],
        ["content-length:5", "X: y", "CONTENT-LENGTH:\t5"],
        ["Content-Length: 1000000000000000000"],
        ["Content-Length: 5", "Transfer-Encoding: chunked"],
        ["Transfer-Encoding: chunked", "Content-Length: 0"],
    ],
)
def test_a_body_of_which_there_are_two_readings_is_rejected(fields: list[str]) -> None:
    rejected("POST / HTTP/1.1", "Host: http.cart.shop", *fields)


@pytest.mark.parametrize(
    "raw",
    [
        b"GET / HTTP/1.1\r\nHost: http.cart.shop\r\nX: a\r\n b\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: http.cart.shop\r\nX: a\r\n\tContent-Length: 3\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: http.cart.shop\nX: y\r\n\r\n",
        b"GET / HTTP/1.1\nHost: http.cart.shop\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: http.cart.shop\r\n\n",
        b"GET / HTTP/1.1\nHost: http.cart.shop\n\n",
    ],
)
def test_a_line_of_which_there_are_two_readings_is_rejected(raw: bytes) -> None:
    with pytest.raises(RejectedRequestError, match="bare CR or LF"):
        read_head(parsed(raw), raw)


def test_chunks_are_unknown_to_http_1_0() -> None:
    assert "HTTP/1.0" in rejected("POST / HTTP/1.0", "Host: http.cart.shop", "Transfer-Encoding: chunked")


@pytest.mark.parametrize("version", ["0.9", "1.2", "2.0", "3.0"])
def test_other_versions_are_told_so(version: str) -> None:
    with pytest.raises(RejectedRequestError) as caught:
        head_of(f"PRI * HTTP/{version}")
    assert (caught.value.status, caught.value.code) == (505, ReplyCode.UNSUPPORTED_VERSION)


@pytest.mark.parametrize(
    ("line", "fields", "asked"),
    [
        ("GET / HTTP/1.1", ["Connection: Upgrade", "Upgrade: websocket"], True),
        ("GET / HTTP/1.1", ["Connection: keep-alive, UPGRADE", "Upgrade: h2c, WebSocket"], True),
        ("GET / HTTP/1.1", ["Upgrade: websocket"], False),
        ("GET / HTTP/1.1", ["Connection: Upgrade", "Upgrade: h2c"], False),
        ("POST / HTTP/1.1", ["Connection: Upgrade", "Upgrade: websocket"], False),
        ("GET / HTTP/1.0", ["Connection: Upgrade", "Upgrade: websocket"], False),
    ],
)
def test_websocket_is_asked_for_as_rfc_6455_says(line: str, fields: list[str], asked: bool) -> None:
    assert head_of(line, "Host: http.cart.shop", *fields).websocket is asked


def test_a_valid_traceparent_is_passed_on_and_no_other() -> None:
    good = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    assert head_of("GET / HTTP/1.1", "Host: http.cart.shop", f"traceparent: {good}").traceparent == good
    for fields in (["traceparent: x"], [f"traceparent: {good}", f"traceparent: {good}"]):
        assert head_of("GET / HTTP/1.1", "Host: http.cart.shop", *fields).traceparent is None


def ended(*names: str) -> h11.EndOfMessage:
    return h11.EndOfMessage(headers=[(name, "x") for name in names])


@pytest.mark.parametrize("raw", [b"\r\n", b"0\r\n\r\n", b"3\r\nabc\r\n0\r\n\r\n"])
def test_no_trailers_are_fine(raw: bytes) -> None:
    check_trailers(ended(), raw)


def test_trailers_are_fine() -> None:
    check_trailers(ended("A", "B"), b"0\r\nA: x\r\nB: x\r\n\r\n")
    check_trailers(ended("A", "B"), b"A: x\r\nB: x\r\n\r\n")


@pytest.mark.parametrize("raw", [b"\n", b"0\r\nA: x\n\r\n", b"0\r\nA: x\n\n", b"0\r\nA: x\r\n y\r\n\r\n", b"A: x\r\n\n"])
def test_trailers_of_which_there_are_two_readings_are_rejected(raw: bytes) -> None:
    with pytest.raises(RejectedRequestError, match="trailer line"):
        check_trailers(ended("A") if b"A" in raw else ended(), raw)


@pytest.mark.parametrize("name", ["Host", "Content-Length", "Transfer-Encoding", "Content_Length", "Transfer_Encoding"])
def test_what_belongs_into_the_head_must_not_come_late(name: str) -> None:
    values = {"Host": "a", "Content-Length": "3", "Transfer-Encoding": "chunked"}
    event = h11.EndOfMessage(headers=[(name, values[name.replace("_", "-")])])
    with pytest.raises(RejectedRequestError, match="belongs into the head"):
        check_trailers(event, f"0\r\n{name}: x\r\n\r\n".encode())
