from __future__ import annotations

import pluggy
from meshless_handshake_v2 import ServerHandshake, plugin

from meshless_core import hookspecs


def test_registers_through_the_hook_and_claims_the_first_byte_2() -> None:
    manager = pluggy.PluginManager("meshless")
    manager.add_hookspecs(hookspecs.Hooks)
    manager.register(plugin, "handshake_v2")
    manager.check_pending()
    (spec,) = manager.hook.meshless_register_handshake()
    assert (spec.api, spec.first_bytes) == (1, frozenset({2}))
    factory = spec.create(spec.options())
    first, second = factory(), factory()
    assert isinstance(first, ServerHandshake)
    assert first is not second
