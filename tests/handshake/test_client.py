from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshless_core.errors import LocalProtocolError, RemoteProtocolError
from meshless_core.handshake.client import ClientHandshake, Established, Refused
from meshless_core.handshake.states import CLIENT, State, Step
from meshless_core.types import ReplyCode, ServiceId

HTTP = ServiceId("http", "cart", "shop")
CAUSES = {
    Step.VERSION_1: b"\x01",
    Step.OTHER_VERSION: b"\x02",
    Step.CODE_OK: b"\x00",
    Step.CODE_REFUSAL: b"\x04",
    Step.END_OF_FILE: b"",
}
PATHS = {
    State.AWAITING_VERSION: [],
    State.AWAITING_CODE: [b"\x01"],
    State.ESTABLISHED: [b"\x01\x00"],
    State.REFUSED: [b"\x01\x05"],
    State.BROKEN: [b""],
}


def brought_to(state: State) -> ClientHandshake:
    client = ClientHandshake(HTTP)
    for data in PATHS[state]:
        feed(client, data)
    assert client.state is state
    return client


def feed(client: ClientHandshake, data: bytes) -> Established | Refused | RemoteProtocolError | None:
    try:
        return client.receive_data(data)
    except RemoteProtocolError as error:
        return error


@pytest.mark.parametrize(("state", "step"), [(state, step) for state, steps in CLIENT.items() for step in steps])
def test_every_line_of_the_table_can_be_walked(state: State, step: Step) -> None:
    client = brought_to(state)
    outcome = feed(client, CAUSES[step])
    assert client.state is CLIENT[state][step]
    assert isinstance(outcome, RemoteProtocolError) is (client.state is State.BROKEN)
    assert isinstance(outcome, Established) is (client.state is State.ESTABLISHED)
    assert isinstance(outcome, Refused) is (client.state is State.REFUSED)


@pytest.mark.parametrize("state", [State.ESTABLISHED, State.REFUSED, State.BROKEN])
def test_data_after_the_verdict_is_a_mistake_of_the_caller(state: State) -> None:
    with pytest.raises(LocalProtocolError, match=f"cannot receive data in a handshake that is {state.value}"):
        brought_to(state).receive_data(b"x")


def test_wanted_never_reaches_into_the_applications_bytes() -> None:
    client = ClientHandshake(HTTP)
    wire = b"\x01\x00hello"
    while client.wanted:
        part, wire = wire[: client.wanted], wire[client.wanted :]
        client.receive_data(part)
    assert (client.state, client.trailing_data, wire) == (State.ESTABLISHED, b"", b"hello")
    assert brought_to(State.AWAITING_CODE).wanted == 1
    assert brought_to(State.REFUSED).wanted == 0


def test_errors_say_what_came() -> None:
    with pytest.raises(RemoteProtocolError, match="the agent closed the connection without a reply"):
        ClientHandshake(HTTP).receive_data(b"")
    with pytest.raises(RemoteProtocolError, match="the reply has version 72 instead of 1: is this the socket of an agent"):
        ClientHandshake(HTTP).receive_data(b"HTTP/1.1")


@pytest.mark.parametrize("code", [code for code in ReplyCode if code])
def test_a_refusal_knows_its_name_and_whether_it_is_retryable(code: ReplyCode) -> None:
    event = ClientHandshake(HTTP).receive_data(bytes((1, code)))
    assert isinstance(event, Refused)
    assert (event.code, event.name, event.retryable) == (code, code.name, code.retryable)


def test_an_unknown_code_is_a_final_refusal() -> None:
    event = ClientHandshake(HTTP).receive_data(b"\x01\x4d")
    assert isinstance(event, Refused)
    assert (event.code, event.name, event.retryable) == (77, "UNKNOWN", False)


@given(st.lists(st.binary(max_size=5), max_size=6))
def test_any_bytes_give_an_event_or_a_protocol_error(parts: list[bytes]) -> None:
    client = ClientHandshake(HTTP)
    for part in parts:
        if feed(client, part) is not None:
            assert not CLIENT[client.state]
            break
        assert client.wanted in {1, 2}
