from __future__ import annotations

from typing import Any

import attrs
import pytest

from meshless_core.plugins.inspection import missing_methods, problems_of_options_class


@attrs.frozen
class Fine:
    a: int = 1


@attrs.frozen
class Empty:
    pass


@attrs.frozen(slots=False)
class Unslotted:
    a: int = 1


@attrs.define
class Mutable:
    a: int = 1


@attrs.define
class MutableEmpty:
    pass


@attrs.define(slots=False)
class MutableUnslottedEmpty:
    pass


@attrs.define
class OwnSetattr:
    a: int = 1

    def __setattr__(self, name: str, value: Any) -> None:
        raise RuntimeError("no")


@attrs.frozen
class Needy:
    a: int
    _b: int
    c: int = 1


@attrs.frozen
class BadDefault:
    a: int = attrs.field(default=-1, validator=attrs.validators.ge(0))


@attrs.frozen
class BadType:
    a: dict[int, int] = attrs.field(factory=dict)


@pytest.mark.parametrize("cls", [Fine, Empty, Unslotted])
def test_a_frozen_class_with_defaults_will_do(cls: type[Any]) -> None:
    assert list(problems_of_options_class(cls)) == []


@pytest.mark.parametrize(
    ("cls", "problem"),
    [
        (Mutable, "options class Mutable is not frozen: write @attrs.frozen above it"),
        (MutableEmpty, "options class MutableEmpty is not frozen: write @attrs.frozen above it"),
        (MutableUnslottedEmpty, "options class MutableUnslottedEmpty is not frozen: write @attrs.frozen above it"),
        (OwnSetattr, "options class OwnSetattr cannot be made from its defaults: RuntimeError: no"),
        (Needy, "options class Needy gives no default for a, b: a plugin named with {} must work"),
        (BadDefault, "options class BadDefault cannot be made from its defaults: ValueError: "),
        (BadType, "options class BadType cannot be filled from a configuration: mappings need string keys"),
        (int, "options is <class 'int'>, not an attrs class: write a class with @attrs.frozen above it"),
        (Fine(), "options is Fine(a=1), not an attrs class"),
    ],
)
def test_any_other_class_is_told_what_to_change(cls: Any, problem: str) -> None:
    (found,) = problems_of_options_class(cls)
    assert found.startswith(problem)


def test_a_created_object_must_have_its_methods() -> None:
    class Half:
        authorize_inline = 5

        def connect(self) -> None: ...

    assert missing_methods(Half(), ("connect",)) is None
    assert missing_methods(Half(), ("connect", "accept")) == "accept()"
    assert missing_methods(Half(), ("authorize|authorize_inline",)) == "authorize() or authorize_inline()"
