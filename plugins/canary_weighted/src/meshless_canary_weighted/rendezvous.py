"""The same key gets the same version, in declared shares, with as few changes of mind as possible.

Weighted rendezvous hashing (Schindelhauer and Schomaker, "Weighted Distributed Hash Tables", 2005): every version draws a
number from the key, -weight / ln(hash), and the greatest wins. If a weight grows, only that version's number grows, so keys
move to it and nowhere else; a version that leaves gives its keys to the others and moves no other key. Every agent computes
the same, without talking to anybody.

This module must not keep state: that is the point.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b
from math import log

__all__ = ["rendezvous"]

_SPAN = float(1 << 52)


def rendezvous(service: bytes, key: bytes, candidates: Sequence[tuple[str | None, int]]) -> str | None:
    """The candidate a key belongs to.

    Args:
        service: salt: a key that meets the canary of one service should not meet the canaries of all.
        key: the client's key, any bytes.
        candidates: versions with an integer weight >= 1, at least one.
    """
    # Lengths in front keep (ab, c) and (a, bc) apart; one prefix is hashed once for all versions.
    prefix = blake2b(b"%d:%b%d:%b" % (len(service), service, len(key), key), digest_size=8)
    best: str | None = None
    best_score = -1.0
    for version, weight in candidates:
        draw = prefix.copy()
        draw.update(b"-" if version is None else b"+" + version.encode())
        # 52 bits and a half, inside the open interval (0, 1): a double holds them exactly, so the logarithm is never 0.
        uniform = ((int.from_bytes(draw.digest(), "big") >> 12) + 0.5) / _SPAN
        score = -weight / log(uniform)
        if score > best_score:
            best, best_score = version, score
    return best
