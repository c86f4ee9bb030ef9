"""Where the frames of one read lie in the shared buffer, so that bulk leaves without being copied once more.

A read of a plain socket puts the payloads behind the places of their headers; writing the headers makes whole frames of them,
one behind the other. This module does no I/O.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from meshless_core.tunnel import HEADER_BYTES, MAX_DATA_BYTES

__all__ = ["FRAME_BYTES", "payload_slots", "rest_of", "write_headers"]

FRAME_BYTES = HEADER_BYTES + MAX_DATA_BYTES
"""The largest DATA frame."""


def payload_slots(scratch: memoryview) -> list[memoryview]:
    """The places of the payloads of as many largest frames as fit."""
    last = len(scratch) - FRAME_BYTES
    return [scratch[at + HEADER_BYTES : at + FRAME_BYTES] for at in range(0, last + 1, FRAME_BYTES)]


def write_headers(scratch: memoryview, frame_data: Callable[[memoryview, int, int], int], size: int) -> int:
    """Write the headers of the frames that `size` bytes of payload in `payload_slots` make; where the last one ends.

    Args:
        scratch: the buffer.
        frame_data: writes one header, see `TunnelSession.frame_data`.
        size: bytes of payload, more than none.
    """
    end = 0
    while size:
        part = min(size, MAX_DATA_BYTES)
        end += frame_data(scratch, part, end)
        size -= part
    return end


def rest_of(parts: Sequence[memoryview], sent: int) -> bytes:
    """What is behind the first `sent` bytes of `parts`; only that is copied."""
    for at, part in enumerate(parts):
        if sent < len(part):
            return b"".join([part[sent:], *parts[at + 1 :]])
        sent -= len(part)
    return b""
