from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from meshless_handshake_v2 import ClientLease, Notice
from meshless_handshake_v2.states import CLIENT, State, Step
from meshless_handshake_v2.wire import encode_notice

from meshless_core import LocalProtocolError

CAUSES = {
    Step.NOTICE_DRAIN: encode_notice(1, "soon"),
    Step.NOTICE_UNKNOWN: encode_notice(7, "newer"),
    Step.NOTICE_REVOKED: encode_notice(2, "no longer allowed"),
    Step.NOTICE_MALFORMED: b"\x01\xff\xff",
    Step.END_OF_FILE: b"",
}


@pytest.mark.parametrize("step", CLIENT[State.LEASED])
def test_every_line_of_the_table_can_be_walked(step: Step) -> None:
    lease = ClientLease()
    lease.receive_data(CAUSES[step])
    assert lease.state is CLIENT[State.LEASED][step]
    assert bool(lease.error) is (lease.state is State.BROKEN)


def test_nothing_is_read_after_the_end() -> None:
    lease = ClientLease()
    lease.receive_data(b"")
    with pytest.raises(LocalProtocolError, match="cannot receive data on a lease that is released"):
        lease.receive_data(b"")


@pytest.mark.parametrize("end", [CAUSES[Step.NOTICE_REVOKED], CAUSES[Step.NOTICE_MALFORMED]])
def test_what_follows_a_revocation_or_a_mistake_is_ignored(end: bytes) -> None:
    lease = ClientLease()
    lease.receive_data(end)
    state = lease.state
    assert lease.receive_data(encode_notice(1, "soon")) == []
    assert lease.receive_data(b"") == []
    assert lease.state is state


@given(st.lists(st.tuples(st.sampled_from(["drain", "revoked"]), st.text(max_size=30)), max_size=5), st.integers(1, 20))
def test_notices_come_through_however_they_are_split_up_to_a_revocation(said: list[tuple[str, str]], size: int) -> None:
    wire = b"".join(encode_notice({"drain": 1, "revoked": 2}[kind], text) for kind, text in said)
    lease = ClientLease()
    heard = [notice for at in range(0, len(wire), size) for notice in lease.receive_data(wire[at : at + size])]
    kinds = [kind for kind, _ in said]
    until = kinds.index("revoked") + 1 if "revoked" in kinds else len(said)
    assert heard == [Notice(kind, text) for kind, text in said[:until]]


@given(st.lists(st.binary(min_size=1, max_size=4200), max_size=5))
def test_any_bytes_are_read_within_bounds(parts: list[bytes]) -> None:
    lease = ClientLease()
    for part in parts:
        lease.receive_data(part)
        assert len(lease._buffer) <= 4098
        assert lease.state in {State.LEASED, State.REVOKED, State.BROKEN}
