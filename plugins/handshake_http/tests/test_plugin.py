from __future__ import annotations

import pytest
from meshless_handshake_http.handshake import HttpHandshake
from meshless_handshake_http.plugin import Options, meshless_register_handshake

from meshless_core import FilteringHandshake, HandshakeSpec, InteractiveHandshake

METHODS = (
    "GET HEAD POST PUT DELETE OPTIONS PATCH TRACE CONNECT PROPFIND MKCOL COPY MOVE LOCK UNLOCK REPORT SEARCH QUERY BREW ZAP"
)


def test_it_claims_the_first_letters_of_methods_and_nothing_else() -> None:
    spec = meshless_register_handshake()
    assert isinstance(spec, HandshakeSpec)
    assert {ord(method[0]) for method in METHODS.split()} <= spec.first_bytes
    assert spec.first_bytes == frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZ")
    one, other = spec.create(spec.options())(), spec.create(spec.options())()
    assert isinstance(one, HttpHandshake)
    assert one is not other


def test_it_filters_and_does_not_answer_in_between() -> None:
    handshake = meshless_register_handshake().create(Options())()
    assert isinstance(handshake, FilteringHandshake)
    assert not isinstance(handshake, InteractiveHandshake)


def test_the_limit_of_heads_is_an_option() -> None:
    head = b"GET / HTTP/1.1\r\nHost: http.cart.shop\r\nX: " + b"x" * 2000 + b"\r\n\r\n"
    assert meshless_register_handshake().create(Options())().receive_data(head) is not None
    with pytest.raises(Exception, match="larger than 1024 bytes"):
        meshless_register_handshake().create(Options(max_head_bytes=1024))().receive_data(head)


@pytest.mark.parametrize("size", [0, 1023, 49153])
def test_a_limit_that_makes_no_sense_is_refused(size: int) -> None:
    with pytest.raises(ValueError, match="max_head_bytes"):
        Options(max_head_bytes=size)
