"""A measured plugin does what the plugin does; what it costs is known under the plugin's name."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import AsyncGenerator
from functools import partial
from typing import Any, cast

import pytest

from meshless_core.agent.hook_times import HookTimes
from meshless_core.agent.measured_plugins import MeasuredBus, MeasuredCanary, MeasuredHandshakes, MeasuredTransport
from meshless_core.bus import InProcessBus
from meshless_core.errors import BusError, RemoteProtocolError, TransportError
from meshless_core.handshake import ServerHandshake
from meshless_core.hookspecs import BusUpdate, CanaryRequest, HandshakeProtocol, HandshakeRequest, ReplyDetails, SecureStream
from meshless_core.types import Identity, ReplyCode, ServiceId, VersionShare

SHARES = (VersionShare("v1", 90, 1), VersionShare("v2", 10, 1))
REQUEST = CanaryRequest(ServiceId("http", "cart", "shop"), SHARES)
SOME = Identity("mesh.local", "shop", "web")


@pytest.fixture
def times() -> HookTimes:
    return HookTimes()


def measured(times: HookTimes) -> dict[tuple[str, str], int]:
    return {key: sum(histogram.counts) for key, histogram in times.times.items()}


class Choosing:
    def choose(self, request: CanaryRequest) -> str | None:
        if request.version_pin == "raise":
            raise ValueError("no such version")
        if request.version_pin == "invent":
            return "v9"
        return "v2"


def test_a_canary_selector_is_asked_each_time_and_measured_now_and_then(times: HookTimes) -> None:
    canary = MeasuredCanary("by_weight", Choosing(), times)
    assert {canary.choose(REQUEST) for _ in range(300)} == {"v2"}
    assert 1 <= measured(times)["by_weight", "choose"] < 100


def test_a_canary_selector_that_raises_is_counted_each_time(times: HookTimes) -> None:
    canary = MeasuredCanary("by_weight", Choosing(), times)
    for _ in range(40):
        with pytest.raises(ValueError, match="no such version"):
            canary.choose(CanaryRequest(REQUEST.target, SHARES, version_pin="raise"))
    assert times.failures == {("by_weight", "choose", "raised"): 40}


def test_a_version_that_was_not_offered_is_refused_with_the_selectors_name(times: HookTimes) -> None:
    canary = MeasuredCanary("by_weight", Choosing(), times)
    with pytest.raises(ValueError, match="canary selector by_weight chose 'v9', but the versions to choose from are v1, v2"):
        canary.choose(CanaryRequest(REQUEST.target, SHARES, version_pin="invent"))
    assert times.failures == {("by_weight", "choose", "raised"): 1}


class Answering:
    """A handshake that answers what it was made with."""

    trailing_data = b""

    def __init__(self, answer: Any) -> None:
        self._answer = answer

    def receive_data(self, data: bytes) -> HandshakeRequest | None:
        if isinstance(self._answer, Exception):
            raise self._answer
        answer: HandshakeRequest | None = self._answer
        return answer

    def reply(self, code: ReplyCode, text: str = "", details: ReplyDetails | None = None) -> bytes:
        return b""


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        ("http.cart.shop", "handshake line answered 'http.cart.shop', not a HandshakeRequest with a ServiceId"),
        (HandshakeRequest(cast("ServiceId", "http.cart.shop")), "not a HandshakeRequest with a ServiceId"),
        (RemoteProtocolError("bad", code=0), "handshake line raised RemoteProtocolError with code 0, which is no refusal"),
        (RemoteProtocolError("bad", code=99), "code 99, which is no refusal: give a ReplyCode other than OK"),
    ],
)
def test_what_a_handshake_answers_that_is_none_is_the_plugins_failure(times: HookTimes, answer: object, why: str) -> None:
    made = MeasuredHandshakes({9: partial(Answering, answer)}, {9: "line"}, times)
    with pytest.raises((TypeError, ValueError), match=why):
        made.receive_data(Answering(answer), b"x")
    assert times.failures == {("line", "receive_data", "raised"): 1}


def test_what_a_client_did_wrong_is_no_failure_of_the_handshake(times: HookTimes) -> None:
    answer = RemoteProtocolError("bad", code=ReplyCode.MALFORMED_REQUEST)
    made = MeasuredHandshakes({9: partial(Answering, answer)}, {9: "line"}, times)
    with pytest.raises(RemoteProtocolError):
        made.receive_data(Answering(answer), b"x")
    assert not times.failures


def _broken() -> HandshakeProtocol:
    raise RuntimeError("cannot be made")


def test_a_handshake_is_known_by_its_plugins_name_whatever_makes_it(times: HookTimes) -> None:
    made = MeasuredHandshakes({1: partial(ServerHandshake), 9: _broken}, {1: "handshake_v1", 9: "broken"}, times)
    request = made.receive_data(ServerHandshake(), b"\x01\x0ehttp.cart.shop")
    assert request is not None
    assert request.service_id == REQUEST.target
    assert measured(times) == {("handshake_v1", "receive_data"): 1}


class Transporting:
    async def connect(self, address: str, *, source: Identity, target: Identity) -> SecureStream:
        raise TransportError(f"nobody at {address}", reason="connect_failed")

    async def accept(self, connection: socket.socket) -> SecureStream:
        raise AttributeError("a bug")


async def test_a_transport_that_finds_nobody_works_and_one_with_a_bug_does_not(times: HookTimes) -> None:
    transport = MeasuredTransport("quic", Transporting(), times)
    with pytest.raises(TransportError):
        await transport.connect("127.0.0.1:1", source=SOME, target=SOME)
    assert not times.failures
    with contextlib.closing(socket.socket()) as connection, pytest.raises(AttributeError):
        await transport.accept(connection)
    assert times.failures == {("quic", "accept", "raised"): 1}
    assert measured(times) == {("quic", "connect"): 1, ("quic", "accept"): 1}


async def test_a_bus_is_measured_up_to_its_first_update_and_closed_with_its_subscription(times: HookTimes) -> None:
    inner = InProcessBus()
    bus = MeasuredBus("mqtt", inner, times)
    await bus.publish("meshlet/shop/web", b"1")
    await bus.publish("meshlet/shop/cart", b"2")
    assert await bus.topics() == {"meshlet/shop/web", "meshlet/shop/cart"}
    async with contextlib.aclosing(bus.subscribe(frozenset({"meshlet/shop/web", "meshlet/shop/cart"}))) as updates:
        assert {update.payload async for update in _first(updates, 2)} == {b"1", b"2"}
    assert measured(times) == {("mqtt", "publish"): 2, ("mqtt", "topics"): 1, ("mqtt", "subscribe"): 1}


async def _first(updates: AsyncGenerator[BusUpdate, None], count: int) -> AsyncGenerator[BusUpdate, None]:
    for _ in range(count):
        yield await anext(updates)


class Breaking(InProcessBus):
    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error: Exception | None = error

    async def subscribe(self, topics: frozenset[str]) -> AsyncGenerator[BusUpdate, None]:
        if self.error is not None:
            raise self.error
        yield BusUpdate("", None)


@pytest.mark.parametrize(
    ("error", "failures"),
    [(BusError("lost"), {}), (KeyError("bug"), {("mqtt", "subscribe", "raised"): 1})],
    ids=["lost", "bug"],
)
async def test_a_bus_that_is_lost_is_no_failure_of_the_plugin(
    times: HookTimes, error: Exception, failures: dict[tuple[str, str, str], int]
) -> None:
    bus = MeasuredBus("mqtt", Breaking(error), times)
    with pytest.raises(type(error)):
        await anext(bus.subscribe(frozenset({"x"})))
    assert times.failures == failures
