from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from meshless_transport_tls.names import decode_server_name, encode_server_name

from meshless_core import Identity, InvalidNameError

labels = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,20}[a-z0-9])?", fullmatch=True)


@given(st.lists(labels, min_size=1, max_size=4).map(".".join), labels, labels)
def test_every_identity_survives_the_round_trip(trust_domain: str, namespace: str, meshlet: str) -> None:
    identity = Identity(trust_domain, namespace, meshlet)
    assert decode_server_name(encode_server_name(identity)) == identity


@given(st.text(max_size=60))
def test_any_text_is_an_identity_or_an_invalid_name(text: str) -> None:
    try:
        identity = decode_server_name(text)
    except InvalidNameError:
        return
    assert encode_server_name(identity) == text


def test_a_name_longer_than_dns_allows_is_refused() -> None:
    with pytest.raises(InvalidNameError, match="shorter trust domain"):
        encode_server_name(Identity(".".join(["a" * 60] * 4), "shop", "cart"))
    assert decode_server_name(encode_server_name(Identity("d" * 58 + "." + "d" * 58, "n" * 63, "m" * 63)))
