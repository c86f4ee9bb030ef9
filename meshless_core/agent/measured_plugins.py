"""The plugins' objects, measured: each does what the one inside does, and `HookTimes` learns how long it took.

Kinds with one object per agent are wrapped. Handshakes have one per connection, which stays what the plugin made: the call is
measured from outside. Authorizers are measured where they are asked, since that is where a late answer becomes a no.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import AsyncGenerator, Callable, Mapping
from typing import Final

from meshless_core.agent.hook_times import Countdown, HookTimes
from meshless_core.errors import BusError, RemoteProtocolError, TransportError
from meshless_core.hookspecs import (
    Bus,
    BusUpdate,
    CanaryRequest,
    CanarySelector,
    HandshakeProtocol,
    HandshakeRequest,
    SecureStream,
    Transport,
)
from meshless_core.types import Identity, ReplyCode, ServiceId

__all__ = ["MeasuredBus", "MeasuredCanary", "MeasuredHandshakes", "MeasuredTransport"]

_HANDSHAKE: Final = "handshake"
_REFUSALS: Final = frozenset(ReplyCode) - {ReplyCode.OK}


class MeasuredCanary:
    """A canary selector; it is asked inside each connection that has a choice, so only a sample is measured.

    Attributes:
        name: the plugin's name.
    """

    def __init__(self, name: str, selector: CanarySelector, times: HookTimes) -> None:
        self.name = name
        self._times = times
        self._choose = selector.choose
        self._measured = times.measured(name, "choose", selector.choose)
        self._countdown = Countdown()

    def choose(self, request: CanaryRequest) -> str | None:
        """The selector's choice.

        Raises:
            ValueError: it is none of the versions that were offered.
        """
        countdown = self._countdown
        countdown.left -= 1
        try:
            if countdown.left:
                version = self._choose(request)
            else:
                countdown.restart()
                version = self._measured(request)
            for share in request.shares:
                if share.version == version:
                    return version
            offered = ", ".join(str(share.version) for share in request.shares)
            raise ValueError(f"canary selector {self.name} chose {version!r}, but the versions to choose from are {offered}")
        except Exception:
            self._times.failed(self.name, "choose", "raised")
            raise


class MeasuredHandshakes:
    """The handshakes of all connections; a sample of what they do with the client's bytes is measured.

    Args:
        handshakes: factory of the handshake that claims a first byte.
        names: name of the plugin behind it.
        times: learns how long it took.
    """

    def __init__(
        self, handshakes: Mapping[int, Callable[[], HandshakeProtocol]], names: Mapping[int, str], times: HookTimes
    ) -> None:
        self._handshakes = handshakes
        self._names_by_byte = names
        self._names: dict[type, str] = {}
        self._times = times
        self._countdown = Countdown()

    def receive_data(self, handshake: HandshakeProtocol, data: bytes) -> HandshakeRequest | None:
        """What `handshake` makes of `data`.

        Raises:
            RemoteProtocolError: the client's fault; `code` is a refusal.
            Exception: whatever else the plugin raises; TypeError and ValueError also for an answer that is none.
        """
        countdown = self._countdown
        countdown.left -= 1
        try:
            if countdown.left:
                request = handshake.receive_data(data)
            else:
                countdown.restart()
                name = self._name_of(type(handshake))
                request = self._times.measured(name, "receive_data", handshake.receive_data)(data)
            if _is_answer(request):
                return request
        except RemoteProtocolError as error:
            if error.code in _REFUSALS:
                raise
            self._times.failed(self._name_of(type(handshake)), "receive_data", "raised")
            what = f"raised RemoteProtocolError with code {error.code!r}, which is no refusal: give a ReplyCode other than OK"
            raise ValueError(f"handshake {self._name_of(type(handshake))} {what}") from error
        except Exception:
            self._times.failed(self._name_of(type(handshake)), "receive_data", "raised")
            raise
        self._times.failed(self._name_of(type(handshake)), "receive_data", "raised")
        answered = f"answered {request!r:.256}, not a HandshakeRequest with a ServiceId, or None"
        raise TypeError(f"handshake {self._name_of(type(handshake))} {answered}")

    def _name_of(self, kind: type) -> str:
        """Whose objects are of this class: factories may be any callables, so one object of each is made to find out."""
        if (known := self._names.get(kind)) is not None:
            return known
        for byte, factory in self._handshakes.items():
            with contextlib.suppress(Exception):  # a factory that raises is reported by the connection that needs it
                self._names[type(factory())] = self._names_by_byte.get(byte, _HANDSHAKE)
        return self._names.setdefault(kind, _HANDSHAKE)


def _is_answer(answer: object) -> bool:
    """Whether it is what a handshake may answer, whatever its annotations say."""
    return answer is None or (isinstance(answer, HandshakeRequest) and isinstance(answer.service_id, ServiceId))


class MeasuredTransport:
    """A tunnel transport. `accept` takes as long as the peer makes it; so does `connect`, within the agent's timeouts."""

    def __init__(self, name: str, transport: Transport, times: HookTimes) -> None:
        self._name = name
        self._transport = transport
        self._times = times

    async def connect(self, address: str, *, source: Identity, target: Identity) -> SecureStream:
        """The transport's stream to another agent."""
        with self._times.measuring(self._name, "connect", expected=TransportError):
            return await self._transport.connect(address, source=source, target=target)

    async def accept(self, connection: socket.socket) -> SecureStream:
        """The transport's stream from another agent."""
        with self._times.measuring(self._name, "accept", expected=TransportError):
            return await self._transport.accept(connection)


class MeasuredBus:
    """A bus; what is measured is the time from a subscription to its first update, which is when documents are there."""

    def __init__(self, name: str, bus: Bus, times: HookTimes) -> None:
        self._name = name
        self._bus = bus
        self._times = times

    async def publish(self, topic: str, payload: bytes | None) -> None:
        """Hand it on."""
        with self._times.measuring(self._name, "publish", expected=BusError):
            await self._bus.publish(topic, payload)

    async def subscribe(self, topics: frozenset[str]) -> AsyncGenerator[BusUpdate, None]:
        """The bus's updates."""
        began: float | None = self._times.clock()
        try:
            async with contextlib.aclosing(self._bus.subscribe(topics)) as updates:
                async for update in updates:
                    if began is not None:
                        self._times.observe(self._name, "subscribe", self._times.clock() - began)
                        began = None
                    yield update
        except BusError:
            raise
        except Exception:
            self._times.failed(self._name, "subscribe", "raised")
            raise

    async def topics(self) -> frozenset[str]:
        """The bus's topics."""
        with self._times.measuring(self._name, "topics", expected=BusError):
            return await self._bus.topics()
