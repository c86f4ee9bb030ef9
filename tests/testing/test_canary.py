"""The check of canary selectors: what keeps the contract passes, and each way to break it is told."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from meshless_core import CanaryRequest
from meshless_core.testing.canary import check_canary_selector


class Sound:
    """Keeps the contract."""

    def __init__(self) -> None:
        self.count = itertools.count()

    def choose(self, request: CanaryRequest) -> str | None:
        offered = [share.version for share in request.shares]
        if request.version_pin in offered:
            return request.version_pin
        return offered[(sum(request.sticky_key) if request.sticky_key is not None else next(self.count)) % len(offered)]


class IgnoresPins:
    def choose(self, request: CanaryRequest) -> str | None:
        return request.shares[0].version


class TrustsPins(Sound):
    def choose(self, request: CanaryRequest) -> str | None:
        return request.version_pin or super().choose(request)


class PrefersKeysToPins(Sound):
    def choose(self, request: CanaryRequest) -> str | None:
        if request.sticky_key is not None:
            return request.shares[0].version
        return super().choose(request)


class IgnoresKeys(Sound):
    def choose(self, request: CanaryRequest) -> str | None:
        return super().choose(CanaryRequest(request.target, request.shares, None, request.version_pin))


class KeepsKeysOfTheSameListOnly(Sound):
    def __init__(self) -> None:
        super().__init__()
        self.known: list[tuple[object, bytes, str | None]] = []

    def choose(self, request: CanaryRequest) -> str | None:
        if request.sticky_key is None or request.version_pin is not None:
            return super().choose(request)
        for shares, key, version in self.known:
            if shares is request.shares and key == request.sticky_key:
                return version
        version = super().choose(CanaryRequest(request.target, request.shares))
        self.known.append((request.shares, request.sticky_key, version))
        return version


class ForgetsTheEmptyKey(Sound):
    def choose(self, request: CanaryRequest) -> str | None:
        return super().choose(CanaryRequest(request.target, request.shares, request.sticky_key or None, request.version_pin))


class Waits(Sound):
    async def choose(self, request: CanaryRequest) -> str | None:  # type: ignore[override]  # this is what is wrong
        return super().choose(request)


class NamesNoneAsText(Sound):
    def choose(self, request: CanaryRequest) -> str | None:
        return str(super().choose(request))


class AnswersTheShare(Sound):
    def choose(self, request: CanaryRequest) -> Any:
        return request.shares[0]


class CannotTakeLists(Sound):
    def choose(self, request: CanaryRequest) -> str | None:
        hash(request.shares)
        return super().choose(request)


class CannotTakeHeavyWeights(Sound):
    def choose(self, request: CanaryRequest) -> str | None:
        if sum(share.weight for share in request.shares) > 10_000_000:
            raise MemoryError("a table with a line per unit")
        return super().choose(request)


class SticksToTheFirstShares(Sound):
    """Remembers by service what was on offer, and not that it changes."""

    def __init__(self) -> None:
        super().__init__()
        self.known: dict[object, str | None] = {}

    def choose(self, request: CanaryRequest) -> str | None:
        return self.known.setdefault(request.target, super().choose(request))


class ReadsPinsAsAscii(Sound):
    def choose(self, request: CanaryRequest) -> str | None:
        (request.version_pin or "").encode("ascii")
        return super().choose(request)


class StopsOnlyWhatStarted(Sound):
    async def start(self) -> None:
        self.file = "open"

    async def stop(self) -> None:
        del self.file


class FailsToStart(Sound):
    async def start(self) -> None:
        raise OSError("no file")


async def test_a_selector_that_keeps_the_contract_passes() -> None:
    await check_canary_selector(Sound)


@pytest.mark.parametrize(
    ("make", "promise"),
    [
        (IgnoresPins, "a pinned version that is on offer is honoured"),
        (TrustsPins, "choose returns a version that is on offer; .* gave 'v404'|gave 'None'"),
        (PrefersKeysToPins, "a pinned version that is on offer is honoured; .*customer-7"),
        (IgnoresKeys, "a sticky key gets the same version while shares stay the same"),
        (KeepsKeysOfTheSameListOnly, "a sticky key gets the same version while shares stay the same"),
        (ForgetsTheEmptyKey, "a sticky key gets the same version while shares stay the same; .*sticky_key=b''"),
        (Waits, "choose must not be async: nobody waits for it"),
        (NamesNoneAsText, "choose returns a version that is on offer; .* gave 'None'"),
        (AnswersTheShare, "choose returns a version, which is text or None"),
        (CannotTakeLists, "choose answers, it does not raise; .* gave TypeError"),
        (CannotTakeHeavyWeights, "choose answers, it does not raise; .* gave MemoryError"),
        (SticksToTheFirstShares, "choose returns a version that is on offer"),
        (ReadsPinsAsAscii, "choose answers, it does not raise; .* gave UnicodeEncodeError"),
        (StopsOnlyWhatStarted, r"stop has to cope with a start that failed at once, but stop\(\) raised AttributeError"),
        (FailsToStart, "start has to work"),
    ],
)
async def test_a_broken_promise_is_told(make: Any, promise: str) -> None:
    with pytest.raises(AssertionError, match=promise):
        await check_canary_selector(make)
