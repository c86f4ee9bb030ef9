"""What every canary selector promises, as one function: `await check_canary_selector(make_selector)`.

How the choices add up to shares is no promise of the contract, so nothing here counts them.
"""

from __future__ import annotations

import inspect
import random
from collections.abc import Callable, Sequence
from typing import Final

import attrs

from meshless_core.hookspecs import CanaryRequest, CanarySelector
from meshless_core.testing.life import check_life, living, told
from meshless_core.types import ServiceId, VersionShare

__all__ = ["check_canary_selector"]

_MOST: Final = 2**31 - 1
"""Largest weight a Meshlet can declare."""

_TARGETS: Final = (ServiceId("http", "cart", "shop"), ServiceId("grpc", "cart", "shop"), ServiceId(*("a" * 63,) * 3))
_KEYS: Final = (b"", b"\x00", b"customer-7", b"\xff" * 64, bytes(range(256)) * 16)
_CALLS: Final = 20


async def check_canary_selector(make_selector: Callable[[], CanarySelector]) -> None:
    """Check a canary selector against the contract in `meshless_core.hookspecs.CanarySelector`.

    Args:
        make_selector: gives a fresh selector that was not started, as `create` does; called several times.

    Raises:
        AssertionError: a promise is broken; the message says which.
    """
    await check_life(make_selector)
    for check in (
        _a_version_on_offer_is_chosen,
        _a_pin_on_offer_is_honoured,
        _a_pin_that_is_not_on_offer_is_no_obstacle,
        _a_sticky_key_keeps_its_version,
    ):
        selector = make_selector()
        async with living(selector):
            check(selector)


def _offers() -> list[Sequence[VersionShare]]:
    """Shares as they come: one and many, with and without a version, light and heavy, as tuples and as lists."""
    dice = random.Random(1)  # noqa: S311 - the same offers each time; nothing secret depends on it
    some = [
        tuple(
            VersionShare(f"v{number}", dice.choice((1, 2, 99, 10_000, _MOST)), dice.randrange(1, 100)) for number in range(size)
        )
        for size in (2, 3, 5, 17)
    ]
    return [
        (VersionShare(None, 1, 1),),
        (VersionShare("v1", _MOST, 1),),
        (VersionShare(None, 1, 3), VersionShare("v1", 1, 1)),
        (VersionShare("v1", 1, 1), VersionShare(None, _MOST, 1)),
        (VersionShare("v1", 99, 1), VersionShare("v2", 1, 1)),
        [VersionShare("1.2.3-rc.1_b", 1, 1), VersionShare("v" * 63, 1, 10_000)],
        tuple(VersionShare(f"v{number}", _MOST, 1) for number in range(100)),
        *some,
    ]


def _choice(selector: CanarySelector, request: CanaryRequest) -> str | None:
    """The selector's answer, which is on offer."""
    try:
        version: object = selector.choose(request)
    except (Exception, SystemExit) as error:
        raise AssertionError(f"choose answers, it does not raise; {request} gave {told(error)}") from error
    if inspect.iscoroutine(version):
        version.close()
    assert not inspect.isawaitable(version), f"choose must not be async: nobody waits for it; it returned {version!r}"
    assert isinstance(version, str | None), f"choose returns a version, which is text or None; {request} gave {version!r}"
    offered = [share.version for share in request.shares]
    assert version in offered, f"choose returns a version that is on offer; {request} gave {version!r}"
    return version


def _a_version_on_offer_is_chosen(selector: CanarySelector) -> None:
    for shares in _offers():
        for target in _TARGETS:
            for _ in range(_CALLS):
                _choice(selector, CanaryRequest(target, shares))


def _a_pin_on_offer_is_honoured(selector: CanarySelector) -> None:
    for shares in _offers():
        for pin in (share.version for share in shares if share.version is not None):
            for key in (None, b"customer-7"):
                request = CanaryRequest(_TARGETS[0], shares, key, pin)
                version = _choice(selector, request)
                assert version == pin, f"a pinned version that is on offer is honoured; {request} gave {version!r}"


def _a_pin_that_is_not_on_offer_is_no_obstacle(selector: CanarySelector) -> None:
    for shares in _offers():
        for pin in ("", "v404", "None", "\N{SNOWMAN}"):
            for key in (None, b"customer-7"):
                _choice(selector, CanaryRequest(_TARGETS[0], shares, key, pin))


def _a_sticky_key_keeps_its_version(selector: CanarySelector) -> None:
    asked = [CanaryRequest(target, shares, key) for target in _TARGETS for shares in _offers() for key in _KEYS]
    first = [_choice(selector, request) for request in asked]  # all of them come between two of the same
    for request, before in zip(asked, first, strict=True):
        equal = attrs.evolve(request, shares=tuple(attrs.evolve(share) for share in request.shares))
        for again in (request, equal):
            version = _choice(selector, again)
            assert version == before, (
                f"a sticky key gets the same version while shares stay the same; {again} gave {before!r}, then {version!r}"
            )
