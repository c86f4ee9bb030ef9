from __future__ import annotations

import ssl
from typing import Any

from meshless_transport_tls.contexts import Contexts

from meshless_core import Identity

CART = Identity("mesh.test", "shop", "cart")


def test_a_context_is_kept_while_the_serial_stays_and_rebuilt_when_it_changes(mesh: Any) -> None:
    contexts = Contexts(mesh.server_source)
    first = contexts.get(CART, server=True)
    assert first is not None
    assert contexts.get(CART, server=True) == first
    mesh.server_source.hold(CART, mesh.leaf(CART), mesh.root.pem)
    second = contexts.get(CART, server=True)
    assert second is not None
    assert second[1] is not first[1]


def test_a_context_goes_with_its_credentials(mesh: Any) -> None:
    contexts = Contexts(mesh.server_source)
    contexts.get(CART, server=True)
    mesh.server_source.held.clear()
    assert contexts.get(CART, server=True) is None
    assert not contexts._cache


def test_contexts_speak_tls_1_3_to_known_peers_only(mesh: Any) -> None:
    for server in (True, False):
        found = Contexts(mesh.server_source).get(CART, server=server)
        assert found is not None
        context = found[1]
        assert context.minimum_version == ssl.TLSVersion.TLSv1_3
        assert context.verify_mode == ssl.CERT_REQUIRED
        assert not server or context.num_tickets == 0
