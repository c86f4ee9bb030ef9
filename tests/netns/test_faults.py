"""What clients see when the network between two nodes fails: a code in time, another endpoint, or late but right bytes."""

from __future__ import annotations

import fcntl
import hashlib
import os
import random
import selectors
import socket
import struct
import threading
import time
from collections.abc import Iterator, Mapping
from typing import Any, Final

import pytest

from meshless_core.types import ReplyCode

pytestmark = pytest.mark.netns

CONNECT_TIMEOUT: Final = 1.5  # seconds, as the fixture sets agent.connect_timeout
DEAD_PEER_TIMEOUT: Final = 4.0  # seconds, as the fixture sets it for the transport
_TUNSETIFF: Final = 0x400454CA
_IFF_TUN, _IFF_NO_PI = 0x0001, 0x1000


@pytest.fixture(autouse=True)
def plugged(network: Any) -> Iterator[None]:
    """The cable is in before and after each test, and the node reachable again."""
    yield
    for node in (network.a, network.b):
        network.cable(node, "up")
    recover(network)


def recover(network: Any) -> None:
    """Return when the other node serves again."""
    deadline = time.monotonic() + 20
    while True:
        client, code = network.open(network.a)
        client.close()
        if code is ReplyCode.OK:
            return
        assert code in (ReplyCode.TIMEOUT, ReplyCode.TUNNEL_FAILED), code
        assert time.monotonic() < deadline, "the cable is back, but the service is not"


def ended(client: socket.socket) -> bool:
    """Wait for the end of a connection; whether it was a reset or a plain end."""
    try:
        return client.recv(1) == b""
    except ConnectionError:
        return True


@pytest.mark.parametrize(
    ("end", "code"),
    [("ours", ReplyCode.TUNNEL_FAILED), ("theirs", ReplyCode.TIMEOUT)],
    ids=["our end is unplugged", "their end is unplugged"],
)
@pytest.mark.parametrize("warm", [True, False], ids=["warm session", "no session"])
def test_a_connect_without_a_cable_is_refused_in_time_and_served_when_it_is_back(
    network: Any, tools: Mapping[str, Any], end: str, code: ReplyCode, warm: bool
) -> None:
    network.dial(network.a).close()
    if warm:
        idle = ("meshless_tunnel_sessions", {"role": "client", "state": "idle"})
        tools["wait_until"](lambda: network.metric(network.a, idle[0], **idle[1]) > 0, "a session is idle")
    else:
        held = [network.dial(network.a) for _ in range(int(network.metric(network.a, "meshless_tunnel_sessions")) + 1)]
    network.cable(network.a if end == "ours" else network.b, "down")
    begin = time.monotonic()
    client, got = network.open(network.a)
    took = time.monotonic() - begin
    # on a warm session the kernel keeps trying, so that nobody can tell an unplugged cable from a slow one
    assert got is (ReplyCode.TIMEOUT if warm else code)
    assert took < 10 * CONNECT_TIMEOUT  # the kernel alone tries for two minutes
    assert client.recv(1) == b""
    client.close()
    if not warm:
        for one in held:
            one.close()
    network.cable(network.a if end == "ours" else network.b, "up")
    recover(network)


def test_another_endpoint_takes_over_while_the_cable_is_out(network: Any) -> None:
    network.cable(network.b, "down")
    for _ in range(5):  # v1 has 99 of 100 shares and is on the other node, v2 is here
        client = network.dial(network.a, service="sql.db.shop")
        assert client.recv(2) == b"v2"
        client.close()
    assert "for pod shop/db-0" in network.log(f"agent {network.a}"), "the other node was tried first"
    network.cable(network.b, "up")
    recover(network)
    deadline = time.monotonic() + 20
    served = b""
    while served != b"v1":
        assert time.monotonic() < deadline, "v1 is not used again"
        client = network.dial(network.a, service="sql.db.shop")
        served = client.recv(2)
        client.close()


def test_a_short_fault_delays_bytes_and_loses_none(network: Any, tools: Mapping[str, Any]) -> None:
    client = network.dial(network.a)
    data = os.urandom(200_000)
    network.cable(network.b, "down")
    sender = threading.Thread(target=client.sendall, args=(data,))
    sender.start()
    network.cable(network.b, "up")
    assert tools["receive_exactly"](client, len(data)) == data
    sender.join()
    client.close()


def test_a_lost_peer_is_given_up_at_both_ends_whether_it_was_talking_or_silent(network: Any, tools: Mapping[str, Any]) -> None:
    silent, talking = network.dial(network.a), network.dial(network.a)
    active = {"state": "active"}
    for node, role in ((network.a, "client"), (network.b, "server")):
        tools["wait_until"](
            lambda node=node, role=role: network.metric(node, "meshless_tunnel_sessions", role=role, **active) == 2, "two live"
        )
    network.cable(network.b, "down")
    begin = time.monotonic()
    talking.sendall(b"is anybody there")
    assert ended(talking)
    assert ended(silent)
    took = time.monotonic() - begin
    assert took < 10 * DEAD_PEER_TIMEOUT  # the kernel alone tries for a quarter of an hour
    for node, role in ((network.a, "client"), (network.b, "server")):
        tools["wait_until"](
            lambda node=node, role=role: network.metric(node, "meshless_tunnel_sessions", role=role) == 0,
            f"{node} has given up its sessions",
        )
        assert network.metric(node, "meshless_connections_active") == 0
    silent.close()
    talking.close()


class BadCable:
    """Two network interfaces joined by a thread that loses, doubles, delays and reorders packets at random.

    What `tc netem` does, on kernels that do not have it.
    """

    def __init__(self, network: Any) -> None:
        self._network = network
        self._ends = [network.inside(node, self._interface) for node in (network.a, network.b)]
        self._chance = random.Random(7)
        self.lost = self.reordered = self.doubled = 0
        self._stop, self._told = os.pipe()
        self._thread = threading.Thread(target=self._carry)

    @staticmethod
    def _interface() -> int:
        descriptor = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        fcntl.ioctl(descriptor, _TUNSETIFF, struct.pack("16sH22x", b"bad0", _IFF_TUN | _IFF_NO_PI))
        return descriptor

    def __enter__(self) -> BadCable:
        for node, peer in ((self._network.a, "10.99.0.2"), (self._network.b, "10.99.0.1")):
            self._network.ip(node, "link", "set", "bad0", "up", "mtu", "1400")
            self._network.ip(node, "route", "add", f"{peer}/32", "dev", "bad0")
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        os.write(self._told, b"x")
        self._thread.join()
        for descriptor in (*self._ends, self._stop, self._told):
            os.close(descriptor)  # the interfaces and their routes go with them

    def _carry(self) -> None:
        held: list[tuple[int, bytes]] = []
        with selectors.DefaultSelector() as selector:
            for here, there in (self._ends, reversed(self._ends)):
                selector.register(here, selectors.EVENT_READ, there)
            selector.register(self._stop, selectors.EVENT_READ)
            while True:
                ready = selector.select(0.005)
                for key, _ in ready:
                    if key.fd == self._stop:
                        return
                    packet = os.read(key.fd, 2000)
                    chance = self._chance.random()
                    if chance < 0.02:
                        self.lost += 1
                    elif chance < 0.06:
                        self.reordered += 1
                        held.append((key.data, packet))
                        continue
                    elif chance < 0.08:
                        self.doubled += 1
                        self._put(key.data, packet)
                        self._put(key.data, packet)
                    else:
                        self._put(key.data, packet)
                if held and (not ready or len(held) > 3):
                    for target, packet in held:
                        self._put(target, packet)
                    held.clear()

    def _put(self, target: int, packet: bytes) -> None:
        try:
            os.write(target, packet)
        except BlockingIOError:
            self.lost += 1


def test_bytes_are_right_over_a_cable_that_loses_doubles_and_reorders_packets(network: Any, tools: Mapping[str, Any]) -> None:
    data = os.urandom(3 << 20)
    with BadCable(network) as cable:
        client = network.dial(network.a)
        sender = threading.Thread(target=client.sendall, args=(data,))
        sender.start()
        received = tools["receive_exactly"](client, len(data))
        sender.join()
        client.close()
        assert hashlib.sha256(received).digest() == hashlib.sha256(data).digest()
        assert min(cable.lost, cable.reordered, cable.doubled) > 10, "the cable was not bad enough to show anything"
