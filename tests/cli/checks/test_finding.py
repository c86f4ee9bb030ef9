from __future__ import annotations

from meshless_core.cli.checks import Finding


def test_a_finding_has_the_same_keys_whatever_its_level() -> None:
    assert Finding.ok("roots", "a", "valid").to_dict() == {
        "area": "roots",
        "subject": "a",
        "result": "ok",
        "message": "valid",
        "fix": None,
    }
    assert Finding.warning("roots", "a", "old", "rotate").to_dict()["result"] == "warning"
    assert Finding.problem("roots", "a", "expired", "rotate").to_dict()["fix"] == "rotate"
