from __future__ import annotations

import random
import string
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshless_core.errors import LocalProtocolError, RemoteProtocolError
from meshless_core.handshake.server import ServerHandshake
from meshless_core.handshake.states import SERVER, State, Step
from meshless_core.hookspecs import HandshakeProtocol, HandshakeRequest
from meshless_core.testing.handshake import check_handshake
from meshless_core.types import ReplyCode, ServiceId

REQUEST = b"\x01\x0ehttp.cart.shop"
HTTP = HandshakeRequest(ServiceId("http", "cart", "shop"))

# How to bring a fresh object into each state of the table.
PATHS: dict[State, list[bytes | ReplyCode]] = {
    State.AWAITING_VERSION: [],
    State.AWAITING_SIZE: [b"\x01"],
    State.AWAITING_SERVICE_ID: [b"\x01\x0e"],
    State.REQUESTED: [REQUEST],
    State.REJECTED: [b"\x02"],
    State.ESTABLISHED: [REQUEST, ReplyCode.OK],
    State.REFUSED: [REQUEST, ReplyCode.NO_ENDPOINT],
}
# One way to cause each step in the states that list it.
CAUSES: dict[Step, bytes | ReplyCode] = {
    Step.VERSION_1: b"\x01",
    Step.OTHER_VERSION: b"\x02",
    Step.SIZE: b"\x0e",
    Step.SIZE_ZERO: b"\x00",
    Step.PART_OF_SERVICE_ID: b"http",
    Step.SERVICE_ID: b"http.cart.shop",
    Step.NOT_A_SERVICE_ID: b"http_cart_shop",
    Step.CODE_OK: ReplyCode.OK,
    Step.CODE_REFUSAL: ReplyCode.TIMEOUT,
    Step.END_OF_FILE: b"",
}


def act(handshake: ServerHandshake, cause: bytes | ReplyCode) -> HandshakeRequest | bytes | RemoteProtocolError | None:
    if isinstance(cause, ReplyCode):
        return handshake.reply(cause)
    try:
        return handshake.receive_data(cause)
    except RemoteProtocolError as error:
        return error


def brought_to(state: State) -> ServerHandshake:
    handshake = ServerHandshake()
    for cause in PATHS[state]:
        act(handshake, cause)
    assert handshake.state is state
    return handshake


def test_satisfies_the_plugin_protocol() -> None:
    handshake: HandshakeProtocol = ServerHandshake()
    assert handshake.receive_data(REQUEST) == HTTP


def test_keeps_the_contract_of_handshakes() -> None:
    check_handshake(ServerHandshake, [(REQUEST, HTTP, b""), (REQUEST + b"GET / HTTP/1.1", HTTP, b"GET / HTTP/1.1")], most=257)


@pytest.mark.parametrize(("state", "step"), [(state, step) for state, steps in SERVER.items() for step in steps])
def test_every_line_of_the_table_can_be_walked(state: State, step: Step) -> None:
    handshake = brought_to(state)
    outcome = act(handshake, CAUSES[step])
    assert handshake.state is SERVER[state][step]
    assert isinstance(outcome, RemoteProtocolError) is (SERVER[state][step] is State.REJECTED)
    assert isinstance(outcome, HandshakeRequest) is (SERVER[state][step] is State.REQUESTED)


@pytest.mark.parametrize("state", [State.REQUESTED, State.REJECTED, State.ESTABLISHED, State.REFUSED])
@pytest.mark.parametrize("data", [b"", b"x", REQUEST])
def test_data_after_the_verdict_is_a_mistake_of_the_caller(state: State, data: bytes) -> None:
    handshake = brought_to(state)
    with pytest.raises(LocalProtocolError, match=f"cannot receive data in a handshake that is {state.value}"):
        handshake.receive_data(data)
    assert handshake.state is state


@pytest.mark.parametrize("state", [state for state in SERVER if state is not State.REQUESTED])
def test_ok_is_never_said_without_a_request_nor_twice(state: State) -> None:
    handshake = brought_to(state)
    with pytest.raises(LocalProtocolError, match=f"cannot reply OK to a handshake that is {state.value}"):
        handshake.reply(ReplyCode.OK)
    assert handshake.state is state


def test_nothing_can_be_replied_after_ok() -> None:
    with pytest.raises(LocalProtocolError, match="cannot reply TIMEOUT to a handshake that is established"):
        brought_to(State.ESTABLISHED).reply(ReplyCode.TIMEOUT)


@pytest.mark.parametrize("state", [state for state in SERVER if state is not State.ESTABLISHED])
@pytest.mark.parametrize("code", [code for code in ReplyCode if code])
def test_every_refusal_can_be_said_in_every_state_before_ok_and_repeated(state: State, code: ReplyCode) -> None:
    handshake = brought_to(state)
    assert handshake.reply(code, "for people") == bytes((1, code))
    assert handshake.reply(code) == bytes((1, code))


def test_errors_name_what_came_and_what_to_send() -> None:
    for data, message in [
        (b"\x07", "no handshake has version 7; send version 1"),
        (b"\x01\x00", "the service id has size 0; send <service>.<meshlet>.<namespace>"),
        (b"\x01\x04cart", "'cart' is not a service id: write <service>.<meshlet>.<namespace>, each a DNS label"),
    ]:
        with pytest.raises(RemoteProtocolError) as caught:
            ServerHandshake().receive_data(data)
        assert str(caught.value) == message
    with pytest.raises(RemoteProtocolError, match="the client sent end of file while the agent was awaiting version"):
        ServerHandshake().receive_data(b"")


def test_what_a_peer_sent_is_cut_at_256_characters_in_messages() -> None:
    with pytest.raises(RemoteProtocolError) as caught:
        ServerHandshake().receive_data(b"\x01\xff" + b"\xff" * 255)
    assert len(str(caught.value)) == 256


labels = st.text(string.ascii_lowercase + string.digits + "-", min_size=1, max_size=63).filter(
    lambda label: not (label.startswith("-") or label.endswith("-"))
)
service_ids = st.builds(ServiceId, labels, labels, labels)
almost_requests = st.builds(
    lambda version, size, body: bytes((version, size)) + body,
    st.sampled_from([1, 1, 1, 2]),
    st.integers(0, 255),
    st.text("ab-.é\x00", max_size=20).map(str.encode) | st.binary(max_size=300),
)


@given(service_ids, st.binary(max_size=64))
def test_every_service_id_comes_through_with_what_is_behind_it(service_id: ServiceId, behind: bytes) -> None:
    text = str(service_id).encode()
    handshake = ServerHandshake()
    assert handshake.receive_data(bytes((1, len(text))) + text + behind) == HandshakeRequest(service_id)
    assert handshake.trailing_data == behind


def verdict(parts: list[bytes]) -> tuple[object, State, bytes]:
    """The verdict on `parts`, with the trailing bytes; anything but an event or a protocol error escapes."""
    handshake = ServerHandshake()
    for index, part in enumerate(parts):
        outcome = act(handshake, part)
        if isinstance(outcome, RemoteProtocolError):
            return outcome.code, handshake.state, b""
        if outcome is not None:
            return outcome, handshake.state, handshake.trailing_data + b"".join(parts[index + 1 :])
    return None, handshake.state, b""


@given(almost_requests | st.binary(max_size=400), st.lists(st.integers(1, 400), max_size=8))
def test_any_bytes_give_the_same_verdict_whole_and_in_pieces(data: bytes, cuts: list[int]) -> None:
    at = [0, *sorted(cut for cut in cuts if cut < len(data)), len(data)]
    pieces = [part for part in map(data.__getitem__, map(slice, at, at[1:])) if part]
    singles = [data[index : index + 1] for index in range(len(data))]
    whole = verdict([data]) if data else verdict([])
    assert verdict(pieces) == whole
    assert verdict(singles) == whole


@given(st.lists(st.binary(max_size=40) | almost_requests | st.sampled_from(ReplyCode), max_size=12))
def test_any_sequence_of_calls_gives_an_event_or_a_protocol_error(causes: list[bytes | ReplyCode]) -> None:
    handshake = ServerHandshake()
    for cause in causes:
        before = handshake.state
        try:
            outcome = act(handshake, cause)
        except LocalProtocolError:
            assert handshake.state is before
            continue
        if isinstance(outcome, RemoteProtocolError):
            assert outcome.code in {ReplyCode.UNSUPPORTED_VERSION, ReplyCode.MALFORMED_REQUEST}


def test_random_bytes_never_cause_anything_but_a_verdict_and_never_fill_memory() -> None:
    dice = random.Random(1)  # bounded and repeatable on purpose; hypothesis explores, this one runs long
    for _ in range(20_000):
        handshake = ServerHandshake()
        data = dice.randbytes(dice.randrange(1, 12))
        if dice.random() < 0.8:
            data = b"\x01" + data
        for part in (data, dice.randbytes(40), b""):
            outcome = act(handshake, part)
            assert sys.getsizeof(handshake._buffer) - sys.getsizeof(b"") < 257
            if outcome is not None:
                assert handshake._buffer == b""
                break
        else:
            pytest.fail(f"{data!r} and end of file gave no verdict")


def test_an_incomplete_request_holds_at_most_256_bytes() -> None:
    handshake = ServerHandshake()
    for byte in b"\x01\xff" + b"a" * 254:
        assert handshake.receive_data(bytes((byte,))) is None
    assert len(handshake._buffer) == 256
    with pytest.raises(RemoteProtocolError):
        handshake.receive_data(b"a" + b"x" * 1000)
    assert handshake._buffer == b""
