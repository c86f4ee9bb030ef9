"""The check of authorizers: what keeps the contract passes, and each way to break it is told."""

from __future__ import annotations

import asyncio
from typing import Any

import attrs
import pytest

from meshless_core import AuthorizationRequest, Decision, Verdict
from meshless_core.testing.authorizer import authorization_requests, check_authorizer
from tests.testing.idle_clock import run

YES = Decision(Verdict.ALLOW, "yes", "everybody may")
ALLOWED: Any = "allow"
NOTHING: Any = None


class Inline:
    """Keeps the contract."""

    answer: Any = YES

    def authorize_inline(self, request: AuthorizationRequest) -> Decision:
        answer: Decision = self.answer
        return answer


class Waiting(Inline):
    """Keeps the contract, and has a life."""

    started = False

    async def start(self) -> None:
        self.started = True

    async def stop(self) -> None: ...

    async def authorize(self, request: AuthorizationRequest) -> Decision:
        assert self.started
        answer: Decision = self.answer
        return answer


class Neither:
    pass


class AsyncInline:
    async def authorize_inline(self, request: AuthorizationRequest) -> Decision:
        return YES


class PlainAuthorize:
    def authorize(self, request: AuthorizationRequest) -> Decision:
        return YES


class NeverAnswers:
    async def authorize(self, request: AuthorizationRequest) -> Decision:
        await asyncio.Event().wait()
        return YES


class FailsToStop(Inline):
    def stop(self) -> None:
        raise KeyError("connection")


def failing(**facts: object) -> type[Inline]:
    """An authorizer that raises for requests with these facts only."""

    class Failing(Inline):
        def authorize_inline(self, request: AuthorizationRequest) -> Decision:
            if all(getattr(request, name) == value for name, value in facts.items()):
                raise LookupError(f"what now with {facts}")
            return YES

    return Failing


class Exits(Waiting):
    async def authorize(self, request: AuthorizationRequest) -> Decision:
        raise SystemExit(1)


class Asserts(Waiting):
    async def authorize(self, request: AuthorizationRequest) -> Decision:
        raise AssertionError("of its own")


def answering(answer: object, base: type[Inline] = Inline) -> Any:
    return type("Answering", (base,), {"answer": answer})


@pytest.mark.parametrize("make", [Inline, Waiting])
async def test_an_authorizer_that_keeps_the_contract_passes(make: Any) -> None:
    await check_authorizer(make)


@pytest.mark.parametrize(
    ("make", "promise"),
    [
        (Neither, r"has authorize\(\) or authorize_inline\(\), Neither has neither"),
        (AsyncInline, "authorize_inline must not be async: nobody waits for it"),
        (PlainAuthorize, "authorize is awaited: write async def"),
        (NeverAnswers, "authorize answers .*: nothing came in"),
        (FailsToStop, "stop has to cope"),
        (Exits, "authorize answers, it does not raise; .* gave SystemExit: 1"),
        (Asserts, "authorize answers, it does not raise; .* gave AssertionError: of its own"),
        (answering(True), "authorize_inline answers a Decision, not True"),
        (answering(None), "authorize_inline answers a Decision, not None"),
        (answering(None, Waiting), "authorize answers a Decision, not None"),
        (answering(Verdict.ALLOW), "answers a Decision, not <Verdict.ALLOW"),
        (answering(Decision(ALLOWED, "yes", "everybody may")), "verdict is a Verdict, not 'allow'"),
        (answering(attrs.evolve(YES, policy="")), "has a policy that people can read"),
        (answering(attrs.evolve(YES, reason=" ")), "has a reason that people can read"),
        (answering(Decision(Verdict.ALLOW, "yes", NOTHING)), "reason is text, not None"),
    ],
)
def test_a_broken_promise_is_told(make: Any, promise: str) -> None:
    with pytest.raises(AssertionError, match=promise):
        run(check_authorizer(make))


@pytest.mark.parametrize("side", ["client", "server"])
@pytest.mark.parametrize("exists", [True, False])
@pytest.mark.parametrize("consent", [True, False, None])
@pytest.mark.parametrize("declared", [True, False])
async def test_one_that_fails_for_one_combination_of_facts_is_found(
    side: str, exists: bool, consent: bool | None, declared: bool
) -> None:
    for more in ({}, {"source_pod": None}):
        make = failing(side=side, exists=exists, consent=consent, declared=declared, **more)
        with pytest.raises(AssertionError, match=r"authorize_inline answers, it does not raise; .* gave LookupError: what now"):
            await check_authorizer(make)


async def test_one_that_fails_for_a_request_of_the_caller_s_is_found() -> None:
    (request, *_) = authorization_requests()
    more = attrs.evolve(request, source=attrs.evolve(request.source, namespace="quarantine"))
    make = failing(source=more.source)
    await check_authorizer(make)
    with pytest.raises(AssertionError, match="quarantine"):
        await check_authorizer(make, [more])


def test_requests_are_all_different() -> None:
    requests = list(authorization_requests())
    assert len(set(requests)) == len(requests) > 200
