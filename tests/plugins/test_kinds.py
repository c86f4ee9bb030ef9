from __future__ import annotations

from meshless_core.config import DEFAULT_PLUGINS
from meshless_core.plugins.inspection import HOOK_NAMES
from meshless_core.plugins.kinds import AGENT_NEEDS, KIND_RULES, RECONCILER_NEEDS, Kind


def test_every_hook_has_a_kind_and_every_kind_a_hook() -> None:
    assert {rule.hook for rule in KIND_RULES.values()} == HOOK_NAMES
    assert set(KIND_RULES) == set(Kind)


def test_the_default_set_has_the_standard_plugin_of_each_kind_and_meets_every_need() -> None:
    assert {rule.standard for rule in KIND_RULES.values()} <= set(DEFAULT_PLUGINS)
    assert set(Kind) == AGENT_NEEDS | RECONCILER_NEEDS


def test_the_default_set_has_more_than_one_plugin_of_a_kind_for_handshakes_only() -> None:
    others = set(DEFAULT_PLUGINS) - {rule.standard for rule in KIND_RULES.values()}
    assert others == {name for name in DEFAULT_PLUGINS if name.startswith("handshake_")} - {KIND_RULES[Kind.HANDSHAKE].standard}
    assert len(set(DEFAULT_PLUGINS)) == len(DEFAULT_PLUGINS)
