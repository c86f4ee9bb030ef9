from __future__ import annotations

import tracemalloc

import h11
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from meshless_handshake_http.head import RejectedRequestError
from meshless_handshake_http.requests import RequestStream

MAX_HEAD = 16 * 1024
CART = b"Host: http.cart.shop\r\n"
OTHER = b"Host: http.other.shop\r\n"
GET = b"GET /a HTTP/1.1\r\n" + CART + b"\r\n"
GET_OTHER = b"GET /secret HTTP/1.1\r\n" + OTHER + b"\r\n"
POST = b"POST /b HTTP/1.1\r\n" + CART + b"Content-Length: 5\r\n\r\nhello"
CHUNKED = b"POST /c HTTP/1.1\r\n" + CART + b"Transfer-Encoding: chunked\r\n\r\n"
CHUNKS = CHUNKED + b"3\r\nabc\r\n2;x=y\r\nde\r\n0\r\nTrailer: z\r\n\r\n"
WEBSOCKET = b"GET /ws HTTP/1.1\r\n" + CART + b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: x\r\n\r\n"
FRAME = b"\x81\x85abcd\x00\x01\x02\x03\x04"


def stream() -> RequestStream:
    return RequestStream(MAX_HEAD)


def after_get() -> RequestStream:
    requests = stream()
    assert requests.receive_data(GET) == GET
    return requests


def feed(requests: RequestStream, data: bytes, size: int, through: bytearray) -> None:
    for at in range(0, len(data), size):
        through += requests.receive_data(data[at : at + size])


def run(data: bytes, size: int) -> tuple[bytes, str]:
    """What gets through when `data` comes in pieces of `size`, and why it ended."""
    through = bytearray()
    try:
        feed(stream(), data, size, through)
    except RejectedRequestError as error:
        return bytes(through), str(error)
    return bytes(through), ""


@pytest.mark.parametrize("size", [1, 2, 3, 7, 64, 100_000])
@pytest.mark.parametrize(
    "data",
    [GET, POST, CHUNKS, GET + POST + CHUNKS + GET, CHUNKS + CHUNKS, WEBSOCKET + FRAME * 3, WEBSOCKET + GET + POST + WEBSOCKET],
)
def test_requests_for_one_service_pass_byte_for_byte(data: bytes, size: int) -> None:
    through, problem = run(data, size)
    assert problem == ""
    assert through == data


@pytest.mark.parametrize("before", [GET, POST, CHUNKS, WEBSOCKET, GET + POST])
@pytest.mark.parametrize("size", [1, 3, 17])
def test_a_request_for_another_service_never_passes(before: bytes, size: int) -> None:
    through, problem = run(before + GET_OTHER + GET, size)
    assert through == before
    assert "a request for http.other.shop comes behind one for http.cart.shop" in problem


def test_a_request_for_another_service_in_the_same_read_lets_nothing_of_it_pass() -> None:
    with pytest.raises(RejectedRequestError) as caught:
        after_get().receive_data(GET + GET_OTHER)
    assert caught.value.status == 421


def test_an_incomplete_head_is_held_back() -> None:
    requests = after_get()
    for at in range(len(GET) - 1):
        assert requests.receive_data(GET[at : at + 1]) == b""
    assert requests.receive_data(GET[-1:]) == GET


def test_a_chunk_s_line_is_held_back_until_its_size_is_known() -> None:
    requests = stream()
    assert requests.receive_data(CHUNKED + b"3") == CHUNKED
    assert requests.receive_data(b";x=y") == b""
    assert requests.receive_data(b"\r\na") == b"3;x=y\r\na"


SMUGGLING = {
    "two Content-Length": b"POST / HTTP/1.1\r\n" + CART + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello!",
    "the same Content-Length twice": b"POST / HTTP/1.1\r\n" + CART + b"Content-Length: 5\r\nContent-Length: 5\r\n\r\nhello",
    "Content-Length and chunks": b"POST / HTTP/1.1\r\n"
    + CART
    + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunks and Content-Length": b"POST / HTTP/1.1\r\n"
    + CART
    + b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
    "two Transfer-Encoding": b"POST / HTTP/1.1\r\n"
    + CART
    + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n",
    "another coding": b"POST / HTTP/1.1\r\n" + CART + b"Transfer-Encoding: gzip, chunked\r\n\r\n",
    "a coding in disguise": b"POST / HTTP/1.1\r\n" + CART + b"Transfer-Encoding: \x0bchunked\r\n\r\n",
    "a space before the colon": b"POST / HTTP/1.1\r\n" + CART + b"Content-Length : 5\r\n\r\nhello",
    "obs-fold": b"GET / HTTP/1.1\r\n" + CART + b"X: y\r\n Host: http.other.shop\r\n\r\n",
    "obs-fold of Host": b"GET / HTTP/1.1\r\nHost:\r\n http.cart.shop\r\n\r\n",
    "bare LF": b"GET / HTTP/1.1\n" + CART + b"\r\n",
    "bare CR": b"GET / HTTP/1.1\r\n" + CART + b"X: y\rHost: http.other.shop\r\n\r\n",
    "NUL": b"GET / HTTP/1.1\r\n" + CART + b"X: \x00\r\n\r\n",
    "two Hosts": b"GET / HTTP/1.1\r\n" + CART + OTHER + b"\r\n",
    "the same Host twice": b"GET / HTTP/1.1\r\n" + CART + CART + b"\r\n",
    "no Host": b"GET / HTTP/1.1\r\n\r\n",
    "no Host in 1.0": b"GET / HTTP/1.0\r\n\r\n",
    "absolute-form against Host": b"GET http://http.other.shop/ HTTP/1.1\r\n" + CART + b"\r\n",
    "CONNECT against Host": b"CONNECT http.other.shop:80 HTTP/1.1\r\n" + CART + b"\r\n",
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "HTTP/0.9": b"GET /\r\n\r\n",
    "an empty line first": b"\r\n" + GET,
    "a signed length": b"POST / HTTP/1.1\r\n" + CART + b"Content-Length: +5\r\n\r\nhello",
    "a length that wraps": b"POST / HTTP/1.1\r\n" + CART + b"Content-Length: 18446744073709551621\r\n\r\nhello",
}


@pytest.mark.parametrize("data", SMUGGLING.values(), ids=SMUGGLING)
@pytest.mark.parametrize("before", [b"", GET])
@pytest.mark.parametrize("size", [1, 100_000])
def test_what_can_be_read_in_two_ways_is_rejected_first_and_later(data: bytes, before: bytes, size: int) -> None:
    through, problem = run(before + data, size)
    assert problem
    assert through == (before if size == 1 else b"")


BAD_CHUNKS = {
    "a size with a prefix": b"0x3\r\nabc\r\n0\r\n\r\n",
    "a signed size": b"+3\r\nabc\r\n0\r\n\r\n",
    "a size with a space in front": b" 3\r\nabc\r\n0\r\n\r\n",
    "a size that wraps": b"100000000000000000003\r\nabc\r\n0\r\n\r\n",
    "an empty size": b"\r\n\r\n",
    "bare LF after a size": b"3\nabc\r\n0\r\n\r\n",
    "bare LF in an extension": b"3;\nabc\r\n0\r\n\r\n",
    "no line end after a chunk": b"3\r\nabc0\r\n\r\n",
    "another line end after a chunk": b"3\r\nabcXX0\r\n\r\n",
    "bare LF at the end": b"0\r\n\n",
    "a folded trailer": b"0\r\nX: y\r\n z\r\n\r\n",
    "a trailer with bare LF": b"0\r\nX: y\n\r\n",
    "Host as a trailer": b"0\r\nHost: http.other.shop\r\n\r\n",
    "Content-Length as a trailer": b"0\r\nContent-Length: 7\r\n\r\n",
}


@pytest.mark.parametrize("chunks", BAD_CHUNKS.values(), ids=BAD_CHUNKS)
@pytest.mark.parametrize("size", [1, 2, 100_000])
def test_a_chunk_that_is_not_as_rfc_9112_writes_it_cuts_the_connection(chunks: bytes, size: int) -> None:
    requests = stream()
    assert requests.receive_data(CHUNKED) == CHUNKED
    through = bytearray()
    with pytest.raises(RejectedRequestError):
        feed(requests, chunks + GET, size, through)
    assert GET not in through


def test_connect_lets_everything_behind_its_head_pass_and_itself_not() -> None:
    requests = stream()
    head = b"CONNECT http.cart.shop:1 HTTP/1.1\r\nHost: http.cart.shop:1\r\n\r\n"
    assert requests.receive_data(head + b"\x16\x03" + GET_OTHER) == b"\x16\x03" + GET_OTHER
    assert requests.receive_data(GET_OTHER) == GET_OTHER
    assert requests.receive_data(b"") == b""


def test_connect_behind_another_request_is_rejected() -> None:
    with pytest.raises(RejectedRequestError, match="CONNECT comes behind"):
        after_get().receive_data(b"CONNECT http.cart.shop:1 HTTP/1.1\r\nHost: http.cart.shop:1\r\n\r\n")


def test_frames_pass_once_the_mask_bit_is_seen() -> None:
    requests = stream()
    requests.receive_data(WEBSOCKET)
    assert requests.receive_data(FRAME[:1]) == b""
    assert requests.receive_data(FRAME[1:2]) == FRAME[:2]
    assert requests.receive_data(GET_OTHER) == GET_OTHER, "a message's text may be anything"


def test_without_a_mask_bit_a_websocket_request_was_not_accepted_and_requests_are_looked_at() -> None:
    requests = stream()
    requests.receive_data(WEBSOCKET)
    assert requests.receive_data(GET) == GET
    with pytest.raises(RejectedRequestError):
        requests.receive_data(GET_OTHER)


@pytest.mark.parametrize(
    "what",
    [b"\x16\x03\x01\x00", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"\x80\x03\x00\x01", b"SSH-2.0-x\r\n\r\n", b"\xff", b" GET"],
)
def test_any_other_protocol_behind_an_upgrade_is_cut(what: bytes) -> None:
    requests = stream()
    requests.receive_data(GET[:-2] + b"Connection: Upgrade\r\nUpgrade: h2c, TLS/1.0, tcp\r\n\r\n")
    with pytest.raises(RejectedRequestError):
        requests.receive_data(what)


@pytest.mark.parametrize(
    "data", [GET, POST, CHUNKS, POST[:-2], CHUNKED, CHUNKED + b"3\r\nab", CHUNKED + b"3", WEBSOCKET, WEBSOCKET + FRAME]
)
def test_an_end_of_file_behind_a_request_or_in_its_body_passes(data: bytes) -> None:
    requests = stream()
    requests.receive_data(data)
    assert requests.receive_data(b"") == b""


@pytest.mark.parametrize("data", [b"", b"G", GET[:-1], GET + b"G", GET + GET[:-1], WEBSOCKET + b"\x81"])
def test_an_end_of_file_in_a_head_is_an_error(data: bytes) -> None:
    requests = stream()
    if data:
        requests.receive_data(data)
    with pytest.raises(RejectedRequestError, match="ended its side"):
        requests.receive_data(b"")


@pytest.mark.parametrize("size", [1000, 10_000_000])
@pytest.mark.parametrize("before", [b"", GET])
def test_a_head_may_be_as_large_as_the_limit_and_no_larger(before: bytes, size: int) -> None:
    def head(length: int) -> bytes:
        return GET[:-2] + b"X: " + b"x" * (length - len(GET) - 5) + b"\r\n\r\n"

    assert len(head(MAX_HEAD)) == MAX_HEAD
    assert run(before + head(MAX_HEAD), size) == (before + head(MAX_HEAD), "")
    assert "larger" in run(before + head(MAX_HEAD + 1), size)[1] or "too long" in run(before + head(MAX_HEAD + 1), size)[1]


def test_a_head_that_never_ends_is_answered_with_431() -> None:
    requests = stream()
    through = bytearray()
    with pytest.raises(RejectedRequestError) as caught:
        feed(requests, b"G" * 100_000, 1024, through)
    assert through == b""
    assert caught.value.status == 431


def test_a_chunk_line_that_never_ends_is_cut() -> None:
    requests = stream()
    requests.receive_data(CHUNKED)
    through = bytearray()
    with pytest.raises(RejectedRequestError):
        feed(requests, b"3;" + b"x" * 100_000, 1024, through)
    assert through == b""


@pytest.mark.parametrize("chunked", [False, True])
def test_a_large_body_streams_in_little_memory(chunked: bool) -> None:
    piece, count = bytes(64 * 1024), 256
    requests = stream()
    if chunked:
        requests.receive_data(CHUNKED)
        piece = b"%x\r\n%b\r\n" % (len(piece), piece)
    else:
        requests.receive_data(b"PUT / HTTP/1.1\r\n" + CART + b"Content-Length: %d\r\n\r\n" % (len(piece) * count))
    tracemalloc.start()
    try:
        for _ in range(count):
            assert requests.receive_data(piece) == piece
        assert tracemalloc.get_traced_memory()[1] < 1024 * 1024
    finally:
        tracemalloc.stop()
    assert requests.receive_data(b"0\r\n\r\n" + GET if chunked else GET)


def seen_by_a_server(data: bytes) -> list[bytes]:
    """The Hosts of the requests that a server built on `h11` would answer, none of them with an upgrade."""
    server = h11.Connection(h11.SERVER)
    hosts: list[bytes] = []
    server.receive_data(data)
    while True:
        try:
            event = server.next_event()
        except h11.RemoteProtocolError:
            return hosts
        if isinstance(event, h11.Request):
            hosts += [value for name, value in event.headers if name == b"host"]
        elif isinstance(event, h11.EndOfMessage):
            server.send(h11.Response(status_code=200, headers=[("Content-Length", "0")]))
            server.send(h11.EndOfMessage())
            if server.our_state is h11.MUST_CLOSE:  # a server that goes on all the same sees what follows
                rest, server = server.trailing_data[0], h11.Connection(h11.SERVER)
                server.receive_data(rest)
            else:
                server.start_next_cycle()
        elif not isinstance(event, h11.Data):
            return hosts


PIECES = st.one_of(
    st.sampled_from([GET, POST, CHUNKS, WEBSOCKET, GET_OTHER, GET.replace(b"shop", b"SHOP")]),
    st.sampled_from(list(SMUGGLING.values())),
    st.sampled_from([CHUNKED + chunks for chunks in BAD_CHUNKS.values()]),
    st.sampled_from(
        [b"\r\n", b"\n", b"\r", b" ", b"0\r\n\r\n", b"Host: http.other.shop\r\n\r\n", b"Content-Length: 40\r\n", b"5\r\n"]
    ),
    st.sampled_from([GET[:-2], POST[:-5], CHUNKED, GET_OTHER[5:], b"GET / HTTP/1.0\r\n" + CART + b"\r\n"]),
    st.binary(max_size=4),
)


@settings(max_examples=400)
@given(st.lists(PIECES, max_size=6), st.data())
def test_a_server_sees_only_requests_for_the_service_whatever_is_sent(pieces: list[bytes], draw: st.DataObject) -> None:
    data = GET + b"".join(pieces)
    requests, through = stream(), b""
    cuts = sorted(draw.draw(st.sets(st.integers(1, len(data)), max_size=12)))
    try:
        for begin, end in zip([0, *cuts], [*cuts, len(data)], strict=True):
            if data[begin:end]:
                through += requests.receive_data(data[begin:end])
    except RejectedRequestError:
        pass
    assert data.startswith(through), "nothing is added, left out or moved"
    assert {host.lower() for host in seen_by_a_server(through)} <= {b"http.cart.shop"}


@settings(max_examples=300)
@given(st.lists(PIECES, max_size=5).map(b"".join), st.integers(1, 50))
def test_what_passes_byte_by_byte_does_not_depend_on_how_it_is_split(data: bytes, size: int) -> None:
    whole = GET + data
    slowly, slow_problem = run(whole, 1)
    faster, fast_problem = run(whole, size)
    assert bool(slow_problem) == bool(fast_problem)
    assert slowly.startswith(faster)
    assert fast_problem or slowly == faster


def test_nothing_is_kept_of_what_is_no_http_any_more() -> None:
    requests, tunnelled = stream(), b"x" * 60_000
    assert requests.receive_data(b"CONNECT http.cart.shop:1 HTTP/1.1\r\n" + CART + b"\r\n" + tunnelled) == tunnelled
    assert requests._parser.trailing_data == (b"", False)
