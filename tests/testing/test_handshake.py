"""The check of client handshakes: what keeps the contract passes, and each way to break it is told."""

from __future__ import annotations

from typing import Any

import pytest

from meshless_core import HandshakeRequest, RemoteProtocolError, ReplyCode, ReplyDetails, ServiceId
from meshless_core.testing.handshake import check_handshake
from tests.testing.line_protocol import EXAMPLES, HTTP, MOST, Line


class TakesWholeRequestsOnly(Line):
    def receive_data(self, data: bytes) -> HandshakeRequest | None:
        if b"\n" not in data:
            raise self.refusal("come again in one piece")
        return super().receive_data(data)


class LosesWhatIsBehind(Line):
    def receive_data(self, data: bytes) -> HandshakeRequest | None:
        request = super().receive_data(data)
        self.trailing_data = b""
        return request


class KeepsWhatCameLastOnly(Line):
    def receive_data(self, data: bytes) -> HandshakeRequest | None:
        self.buffer = b""
        return super().receive_data(data)


class ShowsTheRequestAsTrailing(Line):
    def receive_data(self, data: bytes) -> HandshakeRequest | None:
        request = super().receive_data(data)
        if request is None:
            self.trailing_data = self.buffer
        return request


class HasNothingForNobody(Line):
    trailing_data: Any

    def receive_data(self, data: bytes) -> HandshakeRequest | None:
        request = super().receive_data(data)
        self.trailing_data = self.trailing_data or None
        return request


class TakesUpperCaseInOnePieceOnly(Line):
    def receive_data(self, data: bytes) -> HandshakeRequest | None:
        return super().receive_data(data.lower().replace(b"\xff", b"") if len(data) > 3 else data)


class IgnoresTheEnd(Line):
    def receive_data(self, data: bytes) -> HandshakeRequest | None:
        return super().receive_data(data) if data else None


class TakesTheEndForALineFeed(Line):
    def receive_data(self, data: bytes) -> HandshakeRequest | None:
        try:
            return super().receive_data(data or b"\n")
        except RemoteProtocolError:
            return HTTP


class FailsAtTheEnd(Line):
    def receive_data(self, data: bytes) -> HandshakeRequest | None:
        assert data[0] >= 0
        return super().receive_data(data)


class ReadsAscii(Line):
    def receive_data(self, data: bytes) -> HandshakeRequest | None:
        data.decode("ascii")
        return super().receive_data(data)


class TrustsNames(Line):
    def receive_data(self, data: bytes) -> HandshakeRequest | None:
        self.buffer += data
        if data and b"\n" in self.buffer and self.buffer.count(b".") == 2:
            line, _, self.trailing_data = self.buffer.partition(b"\n")
            return HandshakeRequest(ServiceId(*line[1:].decode("latin-1").split(".")[:3]))
        self.buffer = self.buffer[: len(self.buffer) - len(data)]
        return super().receive_data(data)


class GivesTheServiceId(Line):
    def receive_data(self, data: bytes) -> Any:
        request = super().receive_data(data)
        return request and request.service_id


class IsAsync(Line):
    async def receive_data(self, data: bytes) -> HandshakeRequest | None:  # type: ignore[override]  # this is what is wrong
        return super().receive_data(data)


class HasNoLimit(Line):
    def receive_data(self, data: bytes) -> HandshakeRequest | None:
        if data and b"\n" not in data:
            self.buffer += data
            return None
        return super().receive_data(data)


class RefusesWithOk(Line):
    @staticmethod
    def refusal(text: str) -> RemoteProtocolError:
        return RemoteProtocolError(text, code=ReplyCode.OK)


class RefusesWithAStatus(Line):
    @staticmethod
    def refusal(text: str) -> RemoteProtocolError:
        return RemoteProtocolError(text, code=400)


class RepliesToRequestsOnly(Line):
    def reply(self, code: ReplyCode, text: str = "", details: ReplyDetails | None = None) -> bytes:
        assert b"\n" in self.buffer
        return super().reply(code, text, details)


class CannotReplyBeforeAnything(Line):
    def reply(self, code: ReplyCode, text: str = "", details: ReplyDetails | None = None) -> bytes:
        assert self.buffer
        return super().reply(code, text, details)


class RefusesReplies(Line):
    """Fails to reply in one situation."""

    def reply(self, code: ReplyCode, text: str = "", details: ReplyDetails | None = None) -> bytes:
        assert not self.fails(code)
        return super().reply(code, text, details)

    def fails(self, code: ReplyCode) -> bool:
        raise NotImplementedError


class CannotReplyInTheMiddle(RefusesReplies):
    def fails(self, code: ReplyCode) -> bool:
        return b"L" in self.buffer and b"\n" not in self.buffer


class CannotReplyInTheMiddleOfNoise(RefusesReplies):
    def fails(self, code: ReplyCode) -> bool:
        return b"\xff" in self.buffer and b"\n" not in self.buffer


class CannotReplyToNonsense(RefusesReplies):
    def fails(self, code: ReplyCode) -> bool:
        return (
            self.buffer.count(b"\n") > 0
            and code is ReplyCode.MALFORMED_REQUEST
            and self.buffer not in (EXAMPLES[0][0], EXAMPLES[1][0])
        )


class CannotReplyAfterTheEnd(RefusesReplies):
    ended = False

    def receive_data(self, data: bytes) -> HandshakeRequest | None:
        self.ended = not data
        return super().receive_data(data)

    def fails(self, code: ReplyCode) -> bool:
        return self.ended


class SaysYesToOneService(RefusesReplies):
    def fails(self, code: ReplyCode) -> bool:
        return code is ReplyCode.OK and b"http.cart.shop" not in self.buffer


class IgnoresTheEndOfNoise(Line):
    def receive_data(self, data: bytes) -> HandshakeRequest | None:
        return None if not data and b"\xff" in self.buffer else super().receive_data(data)


class HasNoReplyForDraining(Line):
    def reply(self, code: ReplyCode, text: str = "", details: ReplyDetails | None = None) -> bytes:
        if code is ReplyCode.DRAINING:
            raise KeyError(code)
        return super().reply(code, text, details)


class NeedsDetails(Line):
    def reply(self, code: ReplyCode, text: str = "", details: ReplyDetails | None = None) -> bytes:
        assert details is not None
        return details.connection_id


class NeedsAdvice(Line):
    def reply(self, code: ReplyCode, text: str = "", details: ReplyDetails | None = None) -> bytes:
        advice: Any = None if details is None else details.retry_after
        return b"" if details is None else b"%f" % advice


class WritesAscii(Line):
    def reply(self, code: ReplyCode, text: str = "", details: ReplyDetails | None = None) -> bytes:
        return text.encode("ascii")


class WritesALengthByte(Line):
    def reply(self, code: ReplyCode, text: str = "", details: ReplyDetails | None = None) -> bytes:
        return bytes((len(text),))


class RepliesWithText(Line):
    def reply(self, code: ReplyCode, text: str = "", details: ReplyDetails | None = None) -> Any:
        return text


class CannotSayYes(Line):
    def reply(self, code: ReplyCode, text: str = "", details: ReplyDetails | None = None) -> bytes:
        return {code: b"no" for code in ReplyCode if code}[code]


def test_a_handshake_that_keeps_the_contract_passes() -> None:
    check_handshake(Line, EXAMPLES)


@pytest.mark.parametrize(
    ("make", "promise"),
    [
        (lambda one=Line(): one, "each connection has a protocol object of its own"),  # noqa: B008 - the same one each time
        (TakesWholeRequestsOnly, "an example is a request; .* in pieces of .* was refused"),
        (LosesWhatIsBehind, "b'hello' has to reach the service, it was b''"),
        (KeepsWhatCameLastOnly, "an example is a request; .* in pieces of .* was refused"),
        (ShowsTheRequestAsTrailing, "nothing is for the service before there is a request"),
        (HasNothingForNobody, "trailing_data is bytes, not None"),
        (TakesUpperCaseInOnePieceOnly, "bytes mean the same however they are cut"),
        (IgnoresTheEnd, "an end of file in the middle of a request is a RemoteProtocolError"),
        (TakesTheEndForALineFeed, "an end of file in the middle of a request is a RemoteProtocolError"),
        (FailsAtTheEnd, "receive_data gives a request, None or RemoteProtocolError, nothing else; b'L' gave IndexError"),
        (ReadsAscii, "receive_data gives a request, None or RemoteProtocolError, nothing else; .* gave UnicodeDecodeError"),
        (TrustsNames, "a request names a service by a legal ServiceId"),
        (GivesTheServiceId, "receive_data gives a HandshakeRequest or None; .* gave ServiceId"),
        (IsAsync, "receive_data must not be async: nobody waits for it"),
        (HasNoLimit, "a request that never ends has to be refused, within 65536 bytes"),
        (RefusesWithOk, "a RemoteProtocolError carries the ReplyCode to refuse with; .* gave code <ReplyCode.OK"),
        (RefusesWithAStatus, "a RemoteProtocolError carries the ReplyCode to refuse with; .* gave code 400"),
        (RepliesToRequestsOnly, "a refusal may be asked for in every state before OK; .* gave AssertionError"),
        (CannotReplyBeforeAnything, "in every state before OK; UNSUPPORTED_VERSION after b'' gave AssertionError"),
        (CannotReplyInTheMiddle, "in every state before OK; UNSUPPORTED_VERSION after b'L' gave AssertionError"),
        (CannotReplyInTheMiddleOfNoise, "in every state before OK; TIMEOUT after .* gave AssertionError"),
        (CannotReplyToNonsense, "in every state before OK; MALFORMED_REQUEST after .* gave AssertionError"),
        (CannotReplyAfterTheEnd, "in every state before OK; MALFORMED_REQUEST after b'L' and the end of file gave"),
        (SaysYesToOneService, "OK may be said once the request is complete; after .* gave AssertionError"),
        (IgnoresTheEndOfNoise, "an end of file in the middle of a request is a RemoteProtocolError"),
        (HasNoReplyForDraining, "in every state before OK; DRAINING after b'' gave KeyError"),
        (NeedsDetails, "in every state before OK; UNSUPPORTED_VERSION after b'' gave AssertionError"),
        (NeedsAdvice, "in every state before OK; UNSUPPORTED_VERSION after b'' gave TypeError"),
        (WritesAscii, "in every state before OK; UNSUPPORTED_VERSION after b'' gave UnicodeEncodeError"),
        (WritesALengthByte, "in every state before OK; UNSUPPORTED_VERSION after b'' gave ValueError"),
        (RepliesWithText, "a reply is bytes"),
        (CannotSayYes, "OK may be said once the request is complete; .* gave KeyError"),
    ],
)
def test_a_broken_promise_is_told(make: Any, promise: str) -> None:
    with pytest.raises(AssertionError, match=promise):
        check_handshake(make, EXAMPLES)


def test_a_request_that_is_read_as_another_than_the_example_says_is_told() -> None:
    other = HandshakeRequest(HTTP.service_id, version_pin="v2")
    with pytest.raises(AssertionError, match=r"has to give .*version_pin='v2'.*, it gave .*version_pin=None"):
        check_handshake(Line, [(b"Lhttp.cart.shop\n", other, b"")])


def test_a_limit_that_is_met_to_the_byte_is_met_and_one_that_is_not_is_told() -> None:
    check_handshake(Line, EXAMPLES, most=MOST + 1)
    with pytest.raises(AssertionError, match="within 100 bytes"):
        check_handshake(Line, EXAMPLES, most=100)


def test_without_an_example_there_is_nothing_to_check() -> None:
    with pytest.raises(ValueError, match="there is no example"):
        check_handshake(Line, [])


def test_a_failure_comes_again_with_the_same_seed() -> None:
    told = []
    for _ in range(2):
        with pytest.raises(AssertionError) as caught:
            check_handshake(ReadsAscii, EXAMPLES, seed=7)
        told.append(str(caught.value))
    assert told[0] == told[1]
