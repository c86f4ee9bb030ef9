"""Strict structuring: everything cattrs lets through as shipped is refused here, and every problem is told."""

# ruff: noqa: E501, RUF009 - messages and wholes are written on one line; `Seconds` only names a float
from __future__ import annotations

import enum
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import attrs
import cattrs
import pytest

from meshless_core.config.structuring import Seconds, UnsupportedTypeError, structure, supports
from meshless_core.meshlet.reading import ProblemLog


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


@attrs.frozen
class Inner:
    weight: int = attrs.field(default=1, validator=attrs.validators.ge(0))
    name: str = ""


@attrs.frozen
class Outer:
    enabled: bool = False
    count: int = 0
    ratio: float = 0.5
    text: str = ""
    wait: Seconds = Seconds(1.0)
    ports: tuple[int, ...] = ()
    names: list[str] = attrs.field(factory=list)
    some: Sequence[str] = ()
    unique: frozenset[str] = frozenset()
    pair: tuple[str, int] = ("", 0)
    table: Mapping[str, int] = attrs.field(factory=dict)
    maybe: int | None = None
    either: int | str = 0
    mode: Literal["fast", "safe"] = "safe"
    colour: Colour = Colour.RED
    where: pathlib.Path = pathlib.Path()
    inner: Inner = Inner()
    inners: tuple[Inner, ...] = ()
    maybe_inner: Inner | None = None
    _private: int = 0
    limit: int = attrs.field(default=5, validator=attrs.validators.in_([5, 6]))
    low: int = attrs.field(default=0)

    @low.validator
    def _below_limit(self, _: object, value: int) -> None:
        if value >= self.limit:
            raise ValueError(f"low must be below limit, not {value}")


def problems(value: Any, cls: type[Any] = Outer) -> list[str]:
    log = ProblemLog("", None)
    assert structure(cls, value, path=(), log=log) is None
    return [str(problem) for problem in log.problems]


def fill(value: Any, cls: type[Any] = Outer) -> Any:
    log = ProblemLog("", None)
    made = structure(cls, value, path=(), log=log)
    assert log.problems == []
    return made


@attrs.frozen
class Trap:
    enabled: bool = False
    count: int = 0
    text: str = ""
    ports: list[int] = attrs.field(factory=list)


@pytest.mark.parametrize(
    ("raw", "shipped"),
    [
        ({"enabled": "false"}, Trap(enabled=True)),
        ({"count": "5"}, Trap(count=5)),
        ({"count": 5.9}, Trap(count=5)),
        ({"text": 7}, Trap(text="7")),
        ({"ports": "80"}, Trap(ports=[8, 0])),
        ({"cuont": 5}, Trap()),
    ],
)
def test_what_cattrs_makes_of_wrong_input_as_shipped_is_refused_here(raw: dict[str, Any], shipped: Trap) -> None:
    assert cattrs.Converter().structure(raw, Trap) == shipped, "the trap is still there; if not, our hook may go"
    assert len(problems(raw, Trap)) == 1


@pytest.mark.parametrize(
    ("raw", "problem"),
    [
        ({"enabled": "false"}, "$.enabled: must be true or false, not the string 'false': write it without quotes"),
        ({"enabled": 1}, "$.enabled: must be true or false, not the number 1"),
        ({"count": "5"}, "$.count: must be an integer, not the string '5': write it without quotes"),
        ({"count": True}, "$.count: must be an integer, not the boolean true"),
        ({"count": 5.0}, "$.count: must be an integer, not the number 5.0"),
        ({"ratio": "0.5"}, "$.ratio: must be a number, not the string '0.5': write it without quotes"),
        ({"ratio": False}, "$.ratio: must be a number, not the boolean false"),
        ({"ratio": float("nan")}, "$.ratio: must be a number, not the number nan"),
        ({"text": 7}, "$.text: must be a string, not the number 7: put it in quotes"),
        ({"text": None}, "$.text: must be a string, not nothing (null)"),
        ({"wait": 5}, "$.wait: must be a duration with a unit, not the number 5: write for example 5s"),
        ({"wait": True}, "$.wait: must be a duration such as 5s, not the boolean true"),
        ({"wait": "-1s"}, "$.wait: must not be negative, the string '-1s' is"),
        ({"wait": "1 s"}, "$.wait: '1 s' is not a duration: unknown unit ' s'"),
        ({"ports": "80"}, "$.ports: must be a sequence, not the string '80': write [80]"),
        ({"ports": {"a": 1}}, "$.ports: must be a sequence, not a mapping: write [...]"),
        ({"ports": [80, "81"]}, "$.ports[1]: must be an integer, not the string '81': write it without quotes"),
        ({"names": "ab"}, "$.names: must be a sequence, not the string 'ab': write [ab]"),
        ({"some": "ab"}, "$.some: must be a sequence, not the string 'ab': write [ab]"),
        ({"unique": "ab"}, "$.unique: must be a sequence, not the string 'ab': write [ab]"),
        ({"unique": ["a", "a"]}, "$.unique: must not list the same value twice"),
        ({"pair": ["a"]}, "$.pair: must have 2 entries, not 1"),
        ({"pair": ["a", "b"]}, "$.pair[1]: must be an integer, not the string 'b'"),
        ({"table": [1]}, "$.table: must be a mapping, not a sequence"),
        ({"table": {"a b": "1"}}, '$.table["a b"]: must be an integer, not the string \'1\': write it without quotes'),
        ({"maybe": "5"}, "$.maybe: must be an integer, not the string '5': write it without quotes"),
        ({"either": 1.5}, "$.either: "),
        ({"mode": "slow"}, "$.mode: must be fast or safe, not the string 'slow'"),
        ({"colour": "green"}, "$.colour: must be red or blue, not the string 'green'"),
        ({"where": 5}, "$.where: must be a string, not the number 5: put it in quotes"),
        ({"where": ""}, "$.where: must be a path, not the string ''"),
        ({"inner": None}, "$.inner: must be a mapping, not nothing (null): write {} for the defaults"),
        ({"inner": {"wieght": 5}}, "$.inner.wieght: unknown setting, did you mean 'weight'?"),
        ({"inners": [{}, {"weight": "x"}]}, "$.inners[1].weight: must be an integer, not the string 'x'"),
        ({"maybe_inner": {"weight": "x"}}, "$.maybe_inner.weight: must be an integer, not the string 'x'"),
        ({"inner": {"weight": -1}}, "$.inner.weight: 'weight' must be >= 0: -1"),
        ({"_private": 5}, "$._private: unknown setting, did you mean 'private'?"),
        ({"limit": 7}, "$.limit: 'limit' must be in [5, 6]"),
        ({"low": 9}, "$.low: low must be below limit, not 9"),
    ],
)  # fmt: skip
def test_a_wrong_value_is_named_with_its_path_and_cure(raw: dict[str, Any], problem: str) -> None:
    (found,) = problems(raw)
    assert found.startswith(problem)


def test_right_values_are_kept_as_they_are() -> None:
    raw = {
        "enabled": True, "count": 5, "ratio": 2, "text": "x", "wait": "1m30s", "ports": [80], "names": ["a"], "some": ["b"],
        "unique": ["a", "b"], "pair": ["a", 1], "table": {"a": 1}, "maybe": None, "either": "x", "mode": "fast", "colour": "blue",
        "where": "/tmp/x", "inner": {"weight": 0}, "inners": [{}], "maybe_inner": {"weight": 2}, "private": 3, "limit": 6, "low": 5,
    }  # fmt: skip
    assert fill(raw) == Outer(
        enabled=True, count=5, ratio=2.0, text="x", wait=Seconds(90.0), ports=(80,), names=["a"], some=("b",),
        unique=frozenset({"a", "b"}), pair=("a", 1), table={"a": 1}, maybe=None, either="x", mode="fast", colour=Colour.BLUE,
        where=pathlib.Path("/tmp/x"), inner=Inner(0), inners=(Inner(),), maybe_inner=Inner(2), private=3, limit=6, low=5,
    )  # fmt: skip
    assert type(fill({"ratio": 2}).ratio) is float
    assert fill({"wait": 0}).wait == 0.0
    assert fill({}) == Outer()


def test_every_problem_is_told_at_once_those_of_validators_too() -> None:
    found = problems({"enabled": 1, "inner": {"weight": -1, "x": 1}, "limit": 9, "ports": ["a", 2, "b"], "y": 0})
    assert [problem.split(":")[0] for problem in found] == [
        "$.y",
        "$.enabled",
        "$.ports[0]",
        "$.ports[2]",
        "$.inner.x",
        "$.inner.weight",
        "$.limit",
    ]


def test_a_required_setting_that_is_missing_is_told() -> None:
    @attrs.frozen
    class Needy:
        must: int
        may: int = attrs.field(default=0, validator=attrs.validators.ge(0))

    assert problems({"may": "x"}, Needy) == [
        "$: required setting 'must' is missing",
        "$.may: must be an integer, not the string 'x'",
    ]


def _ten_by(value: int) -> int:
    return 10 // value


def test_what_a_class_raises_itself_is_told_with_its_type() -> None:
    @attrs.frozen
    class Odd:
        a: int = attrs.field(default=1, converter=_ten_by)

        def __attrs_post_init__(self) -> None:
            if self.a == 5:
                raise RuntimeError("five is out")

    assert problems({"a": 2}, Odd) == ["$: RuntimeError: five is out"]
    assert problems({"a": 0}, Odd) == ["$: ZeroDivisionError: integer division or modulo by zero"]


def test_a_type_that_cannot_be_filled_is_the_authors_mistake_and_is_named() -> None:
    @attrs.frozen
    class Bad:
        when: complex = 0j

    @attrs.frozen
    class Keys:
        table: Mapping[int, str] = attrs.field(factory=dict)

    @attrs.frozen
    class Unresolved:
        a: NoSuchThing = None  # type: ignore[name-defined]  # noqa: F821 - the mistake under test

    assert "NoSuchThing" in str(supports(Unresolved))
    assert "mappings need string keys" in str(supports(Keys))
    assert supports(Outer) is None
    assert supports(Bad) is not None
    with pytest.raises(UnsupportedTypeError):
        structure(Keys, {}, path=(), log=ProblemLog("", None))
