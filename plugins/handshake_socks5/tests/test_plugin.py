from __future__ import annotations

from meshless_handshake_socks5.handshake import Socks5Handshake
from meshless_handshake_socks5.plugin import Options, meshless_register_handshake

from meshless_core import FilteringHandshake, HandshakeSpec, InteractiveHandshake


def test_it_claims_the_first_byte_of_socks_5_and_makes_one_object_per_connection() -> None:
    spec = meshless_register_handshake()
    assert isinstance(spec, HandshakeSpec)
    assert spec.first_bytes == {5}
    factory = spec.create(spec.options())
    one, other = factory(), factory()
    assert isinstance(one, Socks5Handshake)
    assert one is not other


def test_it_answers_in_between_and_filters_nothing() -> None:
    handshake = meshless_register_handshake().create(Options())()
    assert isinstance(handshake, InteractiveHandshake)
    assert not isinstance(handshake, FilteringHandshake)
