from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from meshless_handshake_v2 import ServerHandshake, encode_request
from meshless_handshake_v2.states import SERVER, State, Step

from meshless_core import (
    HandshakeProtocol,
    HandshakeRequest,
    LeaseHandshake,
    LocalProtocolError,
    RemoteProtocolError,
    ReplyCode,
    ReplyDetails,
    ServiceId,
)
from meshless_core.testing.handshake import check_handshake

HTTP = HandshakeRequest(ServiceId("http", "cart", "shop"))
OFFER = HandshakeRequest(ServiceId("http", "cart", "shop"), accepts_descriptor=True)
PLAIN, OFFERING = encode_request(HTTP), encode_request(OFFER)
HAND_OFF = ReplyDetails(connection_id=bytes(16), descriptor_follows=True)
MALFORMED = b"\x02\x00\x02\x01A"

Cause = bytes | ReplyCode | ReplyDetails | str  # data, a reply, a reply with a descriptor, a notice

PATHS: dict[State, list[Cause]] = {
    State.AWAITING_VERSION: [],
    State.AWAITING_LENGTH: [b"\x02"],
    State.AWAITING_BODY: [OFFERING[:5]],
    State.REQUESTED: [OFFERING],
    State.REJECTED: [MALFORMED],
    State.REFUSED: [OFFERING, ReplyCode.NO_ENDPOINT],
    State.ESTABLISHED: [OFFERING, ReplyCode.OK],
    State.LEASED: [OFFERING, HAND_OFF],
    State.REVOKED: [OFFERING, HAND_OFF, "revoked"],
    State.ENDED: [OFFERING, HAND_OFF, b""],
    State.VIOLATED: [OFFERING, HAND_OFF, b"x"],
}
CAUSES: dict[Step, Cause] = {
    Step.VERSION_2: b"\x02",
    Step.OTHER_VERSION: b"\x01",
    Step.LENGTH: OFFERING[1:3],
    Step.LENGTH_OUT_OF_BOUNDS: b"\xff\xff",
    Step.PART_OF_BODY: OFFERING[5:7],
    Step.BODY: OFFERING[5:],
    Step.MALFORMED_BODY: OFFERING[5:].replace(b"h", b"H"),
    Step.CODE_OK: ReplyCode.OK,
    Step.CODE_OK_DESCRIPTOR: HAND_OFF,
    Step.CODE_REFUSAL: ReplyCode.TIMEOUT,
    Step.NOTICE_DRAIN: "drain",
    Step.NOTICE_REVOKED: "revoked",
    Step.UNEXPECTED_BYTE: b"x",
    Step.END_OF_FILE: b"",
}


def act(handshake: ServerHandshake, cause: Cause) -> HandshakeRequest | bytes | RemoteProtocolError | None:
    match cause:
        case ReplyCode():
            return handshake.reply(cause)
        case ReplyDetails():
            return handshake.reply(ReplyCode.OK, "", cause)
        case str():
            return handshake.notice(cause, "for people")
    try:
        return handshake.receive_data(cause)
    except RemoteProtocolError as error:
        return error


def test_keeps_the_contract_of_handshakes() -> None:
    wishes = HandshakeRequest(
        HTTP.service_id, b"customer-7", "v2", 1.5, f"00-{'a' * 32}-{'b' * 16}-01", accepts_descriptor=True
    )
    requests = (HTTP, OFFER, wishes)
    examples = [(encode_request(request) + behind, request, behind) for request in requests for behind in (b"", b"hello")]
    check_handshake(ServerHandshake, examples, most=4099)


def brought_to(state: State) -> ServerHandshake:
    handshake = ServerHandshake()
    for cause in PATHS[state]:
        act(handshake, cause)
    assert handshake.state is state
    return handshake


def test_satisfies_the_plugin_protocols() -> None:
    handshake: HandshakeProtocol = ServerHandshake()
    lease: LeaseHandshake = ServerHandshake()
    assert isinstance(lease, LeaseHandshake)
    assert handshake.receive_data(PLAIN) == HTTP


@pytest.mark.parametrize(("state", "step"), [(state, step) for state, steps in SERVER.items() for step in steps])
def test_every_line_of_the_table_can_be_walked(state: State, step: Step) -> None:
    handshake = brought_to(state)
    outcome = act(handshake, CAUSES[step])
    assert handshake.state is SERVER[state][step]
    assert isinstance(outcome, RemoteProtocolError) is (
        isinstance(CAUSES[step], bytes) and handshake.state in {State.REJECTED, State.VIOLATED}
    )
    assert isinstance(outcome, HandshakeRequest) is (handshake.state is State.REQUESTED)


@pytest.mark.parametrize("state", [state for state, steps in SERVER.items() if State.ENDED in steps.values()])
def test_the_end_of_a_lease_is_no_error(state: State) -> None:
    assert brought_to(state).receive_data(b"") is None


@pytest.mark.parametrize("state", [state for state, steps in SERVER.items() if Step.END_OF_FILE not in steps])
@pytest.mark.parametrize("data", [b"", b"x", PLAIN])
def test_data_after_the_verdict_is_a_mistake_of_the_caller(state: State, data: bytes) -> None:
    handshake = brought_to(state)
    with pytest.raises(LocalProtocolError, match=f"cannot receive data in a handshake that is {state.value}"):
        handshake.receive_data(data)
    assert handshake.state is state


@pytest.mark.parametrize("state", [state for state in SERVER if state is not State.REQUESTED])
@pytest.mark.parametrize("details", [None, HAND_OFF], ids=["relayed", "descriptor"])
def test_ok_is_never_said_without_a_request_nor_twice(state: State, details: ReplyDetails | None) -> None:
    handshake = brought_to(state)
    with pytest.raises(LocalProtocolError, match=f"cannot reply OK to a handshake that is {state.value}"):
        handshake.reply(ReplyCode.OK, "", details)
    assert handshake.state is state


@pytest.mark.parametrize("state", [state for state, steps in SERVER.items() if Step.CODE_REFUSAL in steps])
@pytest.mark.parametrize("code", [code for code in ReplyCode if code])
def test_every_refusal_can_be_said_in_every_state_before_ok_and_repeated(state: State, code: ReplyCode) -> None:
    handshake = brought_to(state)
    assert handshake.reply(code) == bytes((2, code, 0, 0))
    assert handshake.reply(code, "why")[:2] == bytes((2, code))
    assert handshake.state is State.REFUSED


def test_a_descriptor_is_for_a_client_that_offered_to_receive_one_and_sent_nothing_yet() -> None:
    for request, message in ((PLAIN, "did not offer to receive one"), (OFFERING + b"x", "has sent bytes behind its request")):
        handshake = ServerHandshake()
        handshake.receive_data(request)
        with pytest.raises(LocalProtocolError, match=f"cannot hand a descriptor to a client that {message}"):
            handshake.reply(ReplyCode.OK, "", HAND_OFF)
        assert handshake.state is State.REQUESTED
        assert handshake.reply(ReplyCode.OK) == b"\x02\x00\x00\x00"


def test_details_that_cannot_be_said_leave_the_handshake_where_it_was() -> None:
    handshake = brought_to(State.REQUESTED)
    with pytest.raises(LocalProtocolError, match="connection id"):
        handshake.reply(ReplyCode.OK, "", ReplyDetails(connection_id=b""))
    assert handshake.reply(ReplyCode.INTERNAL_ERROR)[:2] == b"\x02\xff"


@pytest.mark.parametrize("state", [state for state, steps in SERVER.items() if Step.NOTICE_REVOKED not in steps])
def test_a_notice_needs_a_lease(state: State) -> None:
    with pytest.raises(LocalProtocolError, match=f"cannot send a revoked notice on a handshake that is {state.value}"):
        brought_to(state).notice("revoked")


def test_a_notice_of_an_unknown_kind_is_a_mistake_of_the_caller() -> None:
    with pytest.raises(LocalProtocolError, match="'stop' is not a kind of notice: use one of drain, revoked"):
        brought_to(State.LEASED).notice("stop")


def test_what_a_peer_sent_is_cut_at_256_characters_in_messages() -> None:
    with pytest.raises(RemoteProtocolError) as caught:
        ServerHandshake().receive_data(b"\x02\x01\x00\xff" + b"\xff" * 255)
    assert len(str(caught.value)) <= 256


fields = st.builds(
    lambda kind, value, wrong: bytes((kind,)) + (len(value) + wrong).to_bytes(2, "big") + value,
    st.sampled_from([1, 2, 3, 4, 5, 0x81, 0x85, 0x2A, 0xAA]) | st.integers(0, 255),
    st.binary(max_size=5) | st.sampled_from([b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", b"v2"]),
    st.sampled_from([0, 0, 0, 0, 1]),
)
bodies = st.builds(
    lambda size, service_id, parts: bytes((size,)) + service_id + b"".join(parts),
    st.sampled_from([5, 5, 5, 0, 200]),
    st.sampled_from([b"a.b.c", b"a.b.c", b"A.b.c"]),
    st.lists(fields, max_size=4),
)
almost_requests = st.builds(
    lambda version, body, wrong: bytes((version,)) + (len(body) + wrong).to_bytes(2, "big") + body,
    st.sampled_from([2, 2, 2, 1]),
    bodies,
    st.sampled_from([0, 0, 0, 1, -1, 5000]),
)


def verdict(parts: list[bytes]) -> tuple[object, State, bytes]:
    """The verdict on `parts`, with the trailing bytes; anything but an event or a protocol error escapes."""
    handshake = ServerHandshake()
    for index, part in enumerate(parts):
        outcome = act(handshake, part)
        assert len(handshake._buffer) <= 4098
        if isinstance(outcome, RemoteProtocolError):
            return (outcome.code, str(outcome)), handshake.state, b""
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


@given(st.lists(st.binary(max_size=40) | almost_requests | st.sampled_from([*CAUSES.values()]), max_size=12))
def test_any_sequence_of_calls_gives_an_event_or_a_protocol_error(causes: list[Cause]) -> None:
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
    for _ in range(10_000):
        handshake = ServerHandshake()
        data = dice.randbytes(dice.randrange(1, 12))
        if dice.random() < 0.8:
            data = b"\x02\x00" + data
        for part in (data, dice.randbytes(dice.choice([1, 40, 5000])), b""):
            outcome = act(handshake, part)
            assert len(handshake._buffer) <= 4098
            if outcome is not None:
                assert handshake._buffer == b""
                break
        else:
            pytest.fail(f"{data!r} and end of file gave no verdict")
