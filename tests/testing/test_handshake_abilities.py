"""The checks of what a client handshake can do besides: what keeps the contract passes, and each way to break it is told."""

from __future__ import annotations

from typing import Any

import pytest

from meshless_core import FilteringHandshake, InteractiveHandshake, LeaseHandshake, ReplyCode, ReplyDetails
from meshless_core.testing.handshake import check_handshake
from tests.testing.line_protocol import EXAMPLES, LEASE, Filtering, Leasing, Line, Talking, filtered

LINE = b"Lhttp.cart.shop\n"
FILTERED = [filtered(LINE), filtered(LINE, LINE, LINE)]


class SaysItTwice(Talking):
    def data_to_send(self) -> bytes:
        return self.unsaid


class SaysItAgainInTheReply(Talking):
    def reply(self, code: ReplyCode, text: str = "", details: ReplyDetails | None = None) -> bytes:
        return b"hello\n" + Line.reply(self, code, text, details)


class ForgetsItWhenEverythingComesAtOnce(Talking):
    def reply(self, code: ReplyCode, text: str = "", details: ReplyDetails | None = None) -> bytes:
        return Line.reply(self, code, text, details)


class SaysTooMuch(Talking):
    def data_to_send(self) -> bytes:
        return super().data_to_send() * 1000


class SaysText(Talking):
    def data_to_send(self) -> Any:
        return super().data_to_send().decode()

    def reply(self, code: ReplyCode, text: str = "", details: ReplyDetails | None = None) -> bytes:
        return Line.reply(self, code, text, details)


class FailsToSpeak(Talking):
    def data_to_send(self) -> bytes:
        raise KeyError("nothing to say")

    def reply(self, code: ReplyCode, text: str = "", details: ReplyDetails | None = None) -> bytes:
        return Line.reply(self, code, text, details)


class Invents(Filtering):
    def filter_data(self, data: bytes) -> bytes:
        passed = super().filter_data(data)
        return passed.replace(b"cart", b"bank") if self.open else passed


class AddsToTheEnd(Filtering):
    def filter_data(self, data: bytes) -> bytes:
        return super().filter_data(data) + (b"" if data or not self.open else b"end")


class HoldsEverything(Filtering):
    def filter_data(self, data: bytes) -> bytes:
        self.buffer += data
        return b"" if data else self.buffer


class FailsInTheFilter(Filtering):
    def filter_data(self, data: bytes) -> bytes:
        data.decode("ascii")
        return super().filter_data(data)


class FailsAtTheEnd(Filtering):
    def filter_data(self, data: bytes) -> bytes:
        return super().filter_data(data) if not self.open or data[0] else b""


class PassesNothing(Filtering):
    def filter_data(self, data: bytes) -> Any:
        return super().filter_data(data) or (None if self.open else b"")


class CutsWhatIsRight(Filtering):
    def filter_data(self, data: bytes) -> bytes:
        if self.open and data:
            raise self.refusal("one line is enough")
        return super().filter_data(data)


class DoesNotKnow(Filtering):
    @property
    def filtering(self) -> Any:
        return None


class NoticesAreText(Leasing):
    def notice(self, kind: str, text: str = "") -> Any:
        return kind


class CannotDrain(Leasing):
    def notice(self, kind: str, text: str = "") -> bytes:
        return {"revoked": b"r"}[kind]


class CannotSayYesWithADescriptor(Leasing):
    def reply(self, code: ReplyCode, text: str = "", details: ReplyDetails | None = None) -> bytes:
        if details is not None and details.descriptor_follows:
            raise NotImplementedError
        return super().reply(code, text, details)


def test_the_abilities_tested_here_are_those_of_the_contract() -> None:
    assert isinstance(Talking(), InteractiveHandshake)
    filtering = Filtering()
    filtering.open = True
    assert isinstance(filtering, FilteringHandshake)
    assert isinstance(Leasing(), LeaseHandshake)


@pytest.mark.parametrize(("make", "examples"), [(Talking, EXAMPLES), (Filtering, FILTERED), (Leasing, [LEASE])])
def test_an_ability_that_keeps_its_contract_passes(make: Any, examples: Any) -> None:
    check_handshake(make, examples)


def test_a_filter_that_is_not_wanted_on_a_connection_is_not_asked() -> None:
    class Off(FailsInTheFilter):
        @property
        def filtering(self) -> bool:
            return False

        def receive_data(self, data: bytes) -> Any:
            return Line.receive_data(self, data)

    check_handshake(Off, EXAMPLES)


@pytest.mark.parametrize(
    ("make", "promise"),
    [
        (SaysItTwice, "data_to_send gives each byte once; .* gave b'hello..' when it was asked again"),
        (SaysItAgainInTheReply, "in front of the reply, each byte once; .* fed whole and .* fed byte by byte"),
        (ForgetsItWhenEverythingComesAtOnce, "what data_to_send has not said yet comes in front of the reply"),
        (SaysTooMuch, "data_to_send gives at most a few hundred bytes; .* it gave 6000"),
        (FailsToSpeak, "data_to_send gives bytes, it does not raise; after b'L' it gave KeyError"),
        (SaysText, "data_to_send gives bytes, not 'hello"),
    ],
)
def test_what_speaks_before_the_request_is_held_to_it(make: Any, promise: str) -> None:
    with pytest.raises(AssertionError, match=promise):
        check_handshake(make, EXAMPLES)


@pytest.mark.parametrize(
    ("make", "promise"),
    [
        (Invents, "a filter lets bytes through that came, in order|has to reach the service, it was .*bank"),
        (AddsToTheEnd, "a filter lets bytes through that came, in order"),
        (HoldsEverything, "a filter holds back a bounded number of bytes, at most 65536"),
        (FailsInTheFilter, "filter_data gives bytes or RemoteProtocolError, nothing else; .* gave UnicodeDecodeError"),
        (FailsAtTheEnd, "filter_data gives bytes or RemoteProtocolError, nothing else; b'' gave IndexError"),
        (PassesNothing, "filter_data gives bytes; .* gave None"),
        (CutsWhatIsRight, "an example passes the filter; .* was cut"),
        (DoesNotKnow, "filtering is True or False after OK, not None"),
    ],
)
def test_a_filter_is_held_to_it(make: Any, promise: str) -> None:
    examples = [filtered(LINE)] if make is HoldsEverything else FILTERED
    with pytest.raises(AssertionError, match=promise):
        check_handshake(make, examples)


@pytest.mark.parametrize(
    ("make", "promise"),
    [
        (NoticesAreText, "a notice is bytes; 'drain' gave 'drain'"),
        (CannotDrain, "a lease has a notice 'drain'; it raised KeyError"),
        (CannotSayYesWithADescriptor, "OK may be said once the request is complete; with a descriptor .* NotImplementedError"),
    ],
)
def test_a_lease_is_held_to_it(make: Any, promise: str) -> None:
    with pytest.raises(AssertionError, match=promise):
        check_handshake(make, [LEASE])
