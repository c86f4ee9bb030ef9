from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from meshless_handshake_v2 import ClientHandshake, Established, Refused, ServerHandshake
from meshless_handshake_v2.states import CLIENT, State, Step

from meshless_core import HandshakeRequest, LocalProtocolError, RemoteProtocolError, ReplyCode, ReplyDetails, ServiceId

OFFER = HandshakeRequest(ServiceId("http", "cart", "shop"), accepts_descriptor=True)
HAND_OFF = b"\x02\x00\x00\x03\x96\x00\x00"
CAUSES: dict[Step, bytes] = {
    Step.VERSION_2: b"\x02",
    Step.VERSION_1: b"\x01",
    Step.OTHER_VERSION: b"\x05",
    Step.LENGTH: b"\x00\x00\x03",
    Step.LENGTH_OUT_OF_BOUNDS: b"\x00\xff\xff",
    Step.MALFORMED_BODY: b"\xaa\x00\x00",
    Step.CODE_OK: b"\x2a\x00\x00",
    Step.CODE_OK_DESCRIPTOR: b"\x16\x00\x00",
    Step.CODE_REFUSAL: b"\x04",
    Step.END_OF_FILE: b"",
}
PATHS: dict[State, list[bytes]] = {
    State.AWAITING_VERSION: [],
    State.AWAITING_VERSION_1_CODE: [b"\x01"],
    State.AWAITING_HEADER: [b"\x02"],
    State.AWAITING_FIELDS: [b"\x02\x00\x00\x03"],
    State.ESTABLISHED: [b"\x02\x00\x00\x00"],
    State.REFUSED: [b"\x02\x04\x00\x00"],
    State.BROKEN: [b""],
    State.AWAITING_DESCRIPTOR: [HAND_OFF],
}


def feed(client: ClientHandshake, data: bytes) -> Established | Refused | RemoteProtocolError | None:
    try:
        return client.receive_data(data)
    except RemoteProtocolError as error:
        return error


def brought_to(state: State) -> ClientHandshake:
    client = ClientHandshake(OFFER)
    for data in PATHS[state]:
        feed(client, data)
    assert client.state is state
    return client


@pytest.mark.parametrize(
    ("state", "step"), [(state, step) for state in (State.AWAITING_VERSION, State.AWAITING_HEADER) for step in CLIENT[state]]
)
def test_every_line_about_the_start_of_a_reply_can_be_walked(state: State, step: Step) -> None:
    client = brought_to(state)
    outcome = feed(client, CAUSES[step])
    assert client.state is CLIENT[state][step]
    assert isinstance(outcome, RemoteProtocolError) is (client.state is State.BROKEN)


@pytest.mark.parametrize(
    ("step", "data"),
    [
        (Step.CODE_OK, b"\x02\x00\x00\x03\x2a\x00\x00"),
        (Step.CODE_OK_DESCRIPTOR, HAND_OFF),
        (Step.CODE_REFUSAL, b"\x02\x04\x00\x03\x2a\x00\x00"),
        (Step.MALFORMED_BODY, b"\x02\x00\x00\x03\xaa\x00\x00"),
        (Step.END_OF_FILE, b""),
    ],
)
def test_every_line_about_the_fields_can_be_walked(step: Step, data: bytes) -> None:
    client = ClientHandshake(OFFER)
    if data:
        assert feed(client, data[:5]) is None
        feed(client, data[5:])
    else:
        feed(client, HAND_OFF[:5])
        feed(client, b"")
    assert client.state is CLIENT[State.AWAITING_FIELDS][step]


@pytest.mark.parametrize(
    ("data", "code", "form"),
    [
        (b"\x01\x01", ReplyCode.UNSUPPORTED_VERSION, 1),
        (b"\x01\x0a", ReplyCode.DRAINING, 1),
        (b"\x02\x01\x00\x00", ReplyCode.UNSUPPORTED_VERSION, 2),
    ],
)
def test_a_refusal_tells_the_form_it_came_in(data: bytes, code: ReplyCode, form: int) -> None:
    answer = feed(ClientHandshake(OFFER), data)
    assert isinstance(answer, Refused)
    assert (answer.code, answer.form) == (code, form)


@pytest.mark.parametrize("state", [State.ESTABLISHED, State.REFUSED, State.BROKEN, State.AWAITING_DESCRIPTOR])
def test_data_after_the_verdict_is_a_mistake_of_the_caller(state: State) -> None:
    with pytest.raises(LocalProtocolError, match=f"cannot receive data in a handshake that is {state.value}"):
        brought_to(state).receive_data(b"x")


@pytest.mark.parametrize(
    ("byte", "descriptors", "message"),
    [
        (b"", 0, "closed the connection before it sent the descriptor"),
        (b"\x00", 0, "bytes 00 came with 0 descriptors"),
        (b"\x00", 2, "bytes 00 came with 2 descriptors"),
        (b"\x01", 1, "bytes 01 came with 1 descriptors"),
        (b"\x00\x00", 1, "bytes 0000 came with 1 descriptors"),
    ],
)
def test_anything_but_the_byte_0_with_one_descriptor_breaks(byte: bytes, descriptors: int, message: str) -> None:
    client = brought_to(State.AWAITING_DESCRIPTOR)
    with pytest.raises(RemoteProtocolError, match=message):
        client.receive_descriptor(byte, descriptors)
    assert client.state is State.BROKEN


def test_the_byte_0_with_one_descriptor_makes_a_lease() -> None:
    client = brought_to(State.AWAITING_DESCRIPTOR)
    client.receive_descriptor(b"\x00", 1)
    assert client.state is State.LEASED
    with pytest.raises(LocalProtocolError, match="cannot receive a descriptor in a handshake that is leased"):
        client.receive_descriptor(b"\x00", 1)


def test_an_unknown_code_is_a_final_refusal() -> None:
    answer = feed(ClientHandshake(OFFER), b"\x02\x4d\x00\x00")
    assert isinstance(answer, Refused)
    assert (answer.code, answer.name, answer.retryable) == (77, "UNKNOWN", False)


@given(
    st.sampled_from(ReplyCode),
    st.text(max_size=80),
    st.none() | st.builds(
        ReplyDetails,
        connection_id=st.binary(min_size=16, max_size=16),
        version=st.none() | st.sampled_from(["v1", "v" * 63]),
        endpoint=st.sampled_from(["", "shop/cart-0"]),
        retry_after=st.none() | st.integers(0, 10_000).map(lambda ms: ms / 1000),
        descriptor_follows=st.booleans(),
    ),
    st.binary(max_size=20),
)  # fmt: skip
def test_the_two_sides_understand_each_other_and_the_client_reads_no_byte_too_many(
    code: ReplyCode, text: str, details: ReplyDetails | None, behind: bytes
) -> None:
    client, server = ClientHandshake(OFFER), ServerHandshake()
    assert server.receive_data(client.request) == OFFER
    wire = server.reply(code, text, details) + behind
    answer = None
    while client.wanted:
        part, wire = wire[: client.wanted], wire[client.wanted :]
        answer = client.receive_data(part)
    assert isinstance(answer, Refused if code else Established)
    assert (wire, client.trailing_data, answer.text) == (behind, b"", text)
    if details is not None:
        assert (answer.connection_id, answer.version) == (details.connection_id, details.version)
        assert (answer.endpoint, answer.retry_after) == (details.endpoint, details.retry_after)
    if isinstance(answer, Established):
        assert answer.descriptor_follows is bool(details and details.descriptor_follows)
    else:
        assert (answer.code, answer.name, answer.retryable) == (code, code.name, code.retryable)


@given(st.lists(st.binary(max_size=9), max_size=6))
def test_any_bytes_give_an_event_or_a_protocol_error(parts: list[bytes]) -> None:
    client = ClientHandshake(OFFER)
    for part in parts:
        if feed(client, part) is not None:
            assert client.wanted == 0
            break
        assert client.wanted > 0
        assert len(client._buffer) < 4100
