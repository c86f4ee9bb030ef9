from __future__ import annotations

from meshless_core.config import DEFAULT_PLUGINS
from meshless_core.plugins.inspection import HOOK_NAMES
from meshless_core.plugins.kinds import AGENT_NEEDS, KIND_RULES, RECONCILER_NEEDS, Kind


def test_every_hook_has_a_kind_and_every_kind_a_hook() -> None:
    assert {rule.hook for rule in KIND_RULES.values()} == HOOK_NAMES
    assert set(KIND_RULES) == set(Kind)


def test_the_default_set_has_one_plugin_of_each_kind_and_meets_every_need() -> None:
    assert sorted(rule.standard for rule in KIND_RULES.values()) == sorted(DEFAULT_PLUGINS)
    assert set(Kind) == AGENT_NEEDS | RECONCILER_NEEDS
