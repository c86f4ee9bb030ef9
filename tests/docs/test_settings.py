"""How a settings class becomes rows of the reference."""

from __future__ import annotations

import attrs
import pytest

from docs.generate.page import GenerationError
from docs.generate.settings import Setting, _settings
from meshless_core.config import Seconds


@attrs.frozen
class Inner:
    wait: Seconds = attrs.field(default=Seconds(90.0), metadata={"doc": "How long."})


@attrs.frozen
class Outer:
    inner: Inner = attrs.field(factory=Inner)
    strict: bool = attrs.field(default=False, metadata={"doc": "Whether."})
    path: str | None = attrs.field(default=None, metadata={"doc": "Where."})
    nodes: tuple[str, ...] = attrs.field(factory=lambda: ("a", "b"), metadata={"doc": "Which."})
    name: str = attrs.field(metadata={"doc": "Who."}, default="")


@attrs.frozen
class Undocumented:
    secret: int = 1


def test_types_and_defaults_are_shown_as_they_are_written_in_yaml() -> None:
    assert list(_settings(Outer, "x.")) == [
        Setting("x.inner.wait", "duration", "`1m30s`", "How long."),
        Setting("x.strict", "boolean", "`false`", "Whether."),
        Setting("x.path", "string or null", "none", "Where."),
        Setting("x.nodes", "list of string", "`[a, b]`", "Which."),
        Setting("x.name", "string", '`""`', "Who."),
    ]


def test_a_setting_without_a_word_about_it_stops_the_generation() -> None:
    with pytest.raises(GenerationError, match=r"setting x.secret \(Undocumented.secret\) lacks"):
        list(_settings(Undocumented, "x."))
