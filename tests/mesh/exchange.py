"""What clients and servers of the storm say to each other: lengths and contents both know, so nothing wrong goes unnoticed.

The server greets with its pod's name and process id. The client sends a header (number, bytes each way, order of the ends),
then both send what the number says. An end-of-file before the promised length is an error; a byte more is one; another byte is
one. Used by the client (`chaos`) and, as a process of its own, by the server (`chaos_server`).
"""

from __future__ import annotations

import enum
import functools
import random
import socket
import struct
import time

SECONDS = 45.0
"""How long an end may wait for the other before it counts as stuck."""

GREETING = struct.Struct(">32sI")
HEADER = struct.Struct(">4sQIIB")
MAGIC = b"MLSS"
_BLOCK = 65536
_READ = 65536


class Order(enum.IntEnum):
    """Who ends first, and what each end knows then."""

    ACKNOWLEDGED = 0
    """Question, answer, one byte that says "got it", end: both know."""
    CLIENT_FIRST = 1
    """Question and half-close, answer and close: the client knows."""
    SERVICE_FIRST = 2
    """Answer and half-close, question and close: the service knows."""
    BOTH = 3
    """Both send at once and half-close: each knows what it got."""
    CRASH = 4
    """The server process dies in the middle of the question."""
    LEAVE = 5
    """The client closes in the middle of the question, bytes unread."""


class WrongBytesError(Exception):
    """Something arrived that was not sent."""


class ShortError(Exception):
    """The end came before the promised length."""


class StuckError(Exception):
    """Nothing came, neither bytes nor an end."""


@functools.lru_cache(maxsize=64)
def _base(seed: int) -> bytes:
    return random.Random(seed).randbytes(_BLOCK + 4096)


def block(number: int, direction: str, index: int) -> bytes:
    """The block at `index` of what connection `number` sends in a direction; no two are the same."""
    base = _base(number % 16)
    at = (number * 31 + index * 37) % 4096
    return struct.pack(">QIc", number, index, direction.encode()) + base[at : at + _BLOCK - 13]


def send(end: socket.socket, number: int, direction: str, size: int) -> None:
    """Send `size` bytes.

    Raises:
        OSError: the other end is gone.
        StuckError: nothing is taken, and nobody says why.
    """
    try:
        for index in range(0, size, _BLOCK):
            end.sendall(block(number, direction, index // _BLOCK)[: size - index])
    except TimeoutError as error:
        raise StuckError("sending") from error


def receive(end: socket.socket, number: int, direction: str, size: int, *, pause: float = 0.0) -> None:
    """Read exactly `size` bytes and compare each; `pause` seconds between reads make a slow reader.

    Raises:
        WrongBytesError: another byte than was sent.
        ShortError: end-of-file too early.
        OSError: a reset.
        StuckError: nothing came.
    """
    at = 0
    wanted = b""
    while at < size:
        if at % _BLOCK == 0:
            wanted = block(number, direction, at // _BLOCK)
        within = at % _BLOCK
        got = read(end, min(_READ, size - at, _BLOCK - within))
        if not got:
            raise ShortError(f"end-of-file after {at} of {size} bytes")
        if got != wanted[within : within + len(got)]:
            raise WrongBytesError(f"connection {number} {direction}: other bytes than were sent near byte {at}")
        at += len(got)
        if pause:
            time.sleep(pause)  # what makes it slow, not a synchronisation


def receive_exactly(end: socket.socket, size: int) -> bytes:
    """Read exactly `size` bytes; errors as `receive`."""
    data = b""
    while len(data) < size:
        part = read(end, size - len(data))
        if not part:
            raise ShortError(f"end-of-file after {len(data)} of {size} bytes")
        data += part
    return data


def receive_end(end: socket.socket) -> None:
    """The end-of-file and nothing before it; errors as `receive`."""
    extra = read(end, 1)
    if extra:
        raise WrongBytesError(f"{extra!r} behind the last byte")


def read(end: socket.socket, size: int) -> bytes:
    """One `recv`; silence for too long is an error of its own."""
    try:
        return end.recv(size)
    except TimeoutError as error:
        raise StuckError("reading") from error
