"""What crosses the network between two nodes, as somebody on the cable sees it: nothing, or one TCP connection of TLS 1.3.

A packet socket in each namespace sees every packet of every interface, loopback included. It is open before the traffic
begins, and read up to a packet the test sends itself when the traffic is over: nothing is waited for and nothing can be missed.
"""

from __future__ import annotations

import contextlib
import socket
import struct
from collections.abc import Iterator, Mapping
from typing import Any, Final

import attrs
import pytest

pytestmark = pytest.mark.netns

MARKER: Final = b"seven-green-bottles-standing-on-the-wall"
END: Final = b"end of the capture"
_ETH_P_ALL: Final = 3
_SOL_PACKET: Final = 263
_PACKET_STATISTICS: Final = 6
_SYN, _ACK = 0x02, 0x10
PORT: Final = 7443


@attrs.frozen
class Segment:
    """A TCP segment."""

    source: tuple[str, int]
    target: tuple[str, int]
    sequence: int
    flags: int
    payload: bytes


class Capture:
    """All packets of one namespace."""

    def __init__(self, network: Any, node: str) -> None:
        self._network, self._node = network, node
        self._socket: socket.socket = network.inside(
            node, lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ETH_P_ALL))
        )
        self._socket.settimeout(10)
        self._socket.setsockopt(socket.SOL_SOCKET, 33, 64 << 20)  # SO_RCVBUFFORCE: room for everything
        self.frames: list[tuple[str, bytes]] = []

    def finish(self) -> None:
        """Read up to a datagram sent now, which proves that this capture would have seen what was sent before it."""

        def send() -> None:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
                sender.sendto(END, ("127.0.0.1", 9))

        self._network.inside(self._node, send)
        while True:
            frame, (interface, *_) = self._socket.recvfrom(1 << 17)
            if END in frame:
                break
            self.frames.append((interface, frame))
        _, dropped = struct.unpack("II", self._socket.getsockopt(_SOL_PACKET, _PACKET_STATISTICS, 8))
        assert dropped == 0, "the capture has holes"
        self._socket.close()
        # the kernel's refusal of the datagram (ICMP) is ours too
        self.frames = [(interface, frame) for interface, frame in self.frames if not _is_icmp(frame)]

    def segments(self) -> list[Segment]:
        """TCP segments in the order they were seen; an outgoing one is seen once."""
        return [segment for _, frame in self.frames if (segment := _segment(frame)) is not None]


def _is_icmp(frame: bytes) -> bool:
    return frame[12:14] == b"\x08\x00" and frame[23] == socket.IPPROTO_ICMP


def _segment(frame: bytes) -> Segment | None:
    if frame[12:14] != b"\x08\x00" or frame[23] != socket.IPPROTO_TCP:
        return None
    header = 14 + (frame[14] & 15) * 4
    (total,) = struct.unpack_from(">H", frame, 16)
    source, target, sequence = struct.unpack_from(">HHI", frame, header)
    payload = frame[header + (frame[header + 12] >> 4) * 4 : 14 + total]
    return Segment(
        (socket.inet_ntoa(frame[26:30]), source),
        (socket.inet_ntoa(frame[30:34]), target),
        sequence,
        frame[header + 13],
        payload,
    )


@contextlib.contextmanager
def captured(network: Any) -> Iterator[tuple[Capture, Capture]]:
    """Capture both namespaces during the block."""
    captures = Capture(network, network.a), Capture(network, network.b)
    yield captures
    for capture in captures:
        capture.finish()


def streams(segments: list[Segment]) -> dict[tuple[tuple[str, int], tuple[str, int]], bytes]:
    """The bytes of each direction of each connection, by source and target."""
    pieces: dict[tuple[tuple[str, int], tuple[str, int]], dict[int, bytes]] = {}
    for segment in segments:
        if segment.payload:
            pieces.setdefault((segment.source, segment.target), {})[segment.sequence] = segment.payload
    joined = {}
    for direction, parts in pieces.items():
        data, expected = b"", None
        for sequence in sorted(parts):
            assert expected in (None, sequence), "the capture has holes, or sequence numbers wrapped: run it again"
            data += parts[sequence]
            expected = sequence + len(parts[sequence])
        joined[direction] = data
    return joined


def records(stream: bytes) -> list[tuple[int, bytes]]:
    """TLS records: type and content."""
    found, at = [], 0
    while at < len(stream):
        kind, version, size = struct.unpack_from(">BHH", stream, at)
        assert version in (0x0301, 0x0303), "no TLS record here"
        found.append((kind, stream[at + 5 : at + 5 + size]))
        at += 5 + size
    assert at == len(stream), "the stream ends inside a record"
    return found


def extensions(hello: bytes) -> dict[int, bytes]:
    """Extensions of a ClientHello or ServerHello (RFC 8446, 4.1)."""
    kind = hello[0]
    assert kind in (1, 2)
    at = 4 + 2 + 32
    at += 1 + hello[at]  # session id
    if kind == 1:
        at += 2 + int.from_bytes(hello[at : at + 2])  # cipher suites
        at += 1 + hello[at]  # compression methods
    else:
        at += 3
    end = at + 2 + int.from_bytes(hello[at : at + 2])
    at += 2
    found = {}
    while at < end:
        number, size = struct.unpack_from(">HH", hello, at)
        found[number] = hello[at + 4 : at + 4 + size]
        at += 4 + size
    return found


def exchange(network: Any, tools: Mapping[str, Any], node: str, data: bytes = MARKER, **where: str) -> None:
    """One whole connection that ends cleanly at both ends."""
    with network.dial(node, **where) as client:
        client.sendall(data)
        assert tools["receive_exactly"](client, len(data)) == data
        client.shutdown(socket.SHUT_WR)
        assert client.recv(1) == b""


def test_traffic_within_a_node_puts_no_packet_on_any_interface(network: Any, tools: Mapping[str, Any]) -> None:
    with captured(network) as (on_a, on_b):
        for _ in range(20):
            exchange(network, tools, network.b, pod="web-1")  # web-1 and cart-0 are both on this node
    assert on_a.frames == []
    assert on_b.frames == []
    assert network.metric(network.b, "meshless_connections_opened_total", reporter="destination") == 0


def test_traffic_between_nodes_is_one_connection_of_tls_1_3_that_tells_nothing(network: Any, tools: Mapping[str, Any]) -> None:
    count = 25
    with captured(network) as (on_a, on_b):
        for number in range(count):
            exchange(network, tools, network.a, MARKER * (number + 1))
            # the next one must find the session idle, not in the last milliseconds of its predecessor
            tools["wait_until"](
                lambda: network.metric(network.a, "meshless_tunnel_sessions", role="client", state="idle") == 1,
                "the session is idle again",
            )
    for capture in (on_a, on_b):
        assert {name for name, frame in capture.frames if frame[12:14] != b"\x08\x06"} <= {"veth-a", "veth-b"}  # 0806 is ARP
        segments = capture.segments()
        assert all(PORT in (segment.source[1], segment.target[1]) for segment in segments)
        assert sum(segment.flags & (_SYN | _ACK) == _SYN for segment in segments) == 1, "one TCP connection carries them all"
        assert len({frozenset((segment.source, segment.target)) for segment in segments}) == 1
        everything = b"".join(frame for _, frame in capture.frames)
        for secret in (MARKER, b"http.cart.shop", b"cart-0", b"web-0", b"shop/cart", b"shop/web", b"spiffe"):
            assert secret not in everything
        assert b"cart.shop.meshlet.mesh.example.org" in everything, "the page says that this much is in clear"
        assert b".web.shop" not in everything
        assert b"web.shop.meshlet" not in everything

    assert network.metric(network.a, "meshless_connections_opened_total", reporter="source") == count
    both = streams(on_b.segments())
    up = next(stream for (_, target), stream in both.items() if target[1] == PORT)
    down = next(stream for (source, _), stream in both.items() if source[1] == PORT)
    for stream in (up, down):
        (first, hello), *rest = records(stream)
        assert first == 22
        # after the hello: one change_cipher_spec that means nothing (RFC 8446, D.4), all else is application data
        assert {kind for kind, _ in rest} <= {20, 23}
        assert sum(kind == 20 for kind, _ in rest) <= 1
        if stream is up:
            assert hello[0] == 1
            assert extensions(hello)[43] == b"\x02\x03\x04", "the client offers TLS 1.3 and nothing else"
            assert extensions(hello)[16] == b"\x00\x0b\x0ameshless/1"
        else:
            assert hello[0] == 2
            assert extensions(hello)[43] == b"\x03\x04"
    carried = sum(len(content) for kind, content in records(up) if kind == 23)
    assert carried > len(MARKER) * count * (count + 1) // 2, "the payload went this way"


def test_connections_at_the_same_time_have_a_tcp_connection_each(network: Any, tools: Mapping[str, Any]) -> None:
    warm = int(network.metric(network.a, "meshless_tunnel_sessions", role="client", state="idle"))
    with captured(network) as (_, on_b):
        clients = [network.dial(network.a) for _ in range(4)]
        for client in clients:
            client.close()
    started = sum(segment.flags & (_SYN | _ACK) == _SYN for segment in on_b.segments())
    assert started == 4 - warm
