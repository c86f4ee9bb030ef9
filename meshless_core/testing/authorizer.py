"""What every authorizer promises, as one function: `await check_authorizer(make_authorizer)`.

The check asks about every combination of facts that a request can have, and looks at the form of the answers only: which
verdict is right is the plugin's own affair, and its own tests'.
"""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import Final, cast

from meshless_core.hookspecs import Authorizer, InlineAuthorizer
from meshless_core.testing.life import NothingCameError, answered, check_life, living, told
from meshless_core.types import AuthorizationRequest, Decision, MeshletRef, PodRef, ServiceId, Verdict

__all__ = ["authorization_requests", "check_authorizer"]

_LONG: Final = "a" * 63
_NAMES: Final = (
    (MeshletRef("shop", "web"), ServiceId("http", "cart", "shop")),
    (MeshletRef("shop", "cart"), ServiceId("http", "cart", "shop")),  # a meshlet may use its own services
    (MeshletRef("default", "0"), ServiceId("1", "2", "3")),
    (MeshletRef("xn--bcher-kva", "a--b"), ServiceId("x-1", "a-b", "kube-system")),
    (MeshletRef(_LONG, _LONG), ServiceId(_LONG, _LONG, _LONG)),
)
_RAISED: Final = (Exception, SystemExit)


async def check_authorizer(
    make_authorizer: Callable[[], Authorizer | InlineAuthorizer], requests: Iterable[AuthorizationRequest] = ()
) -> None:
    """Check an authorizer against the contract in `meshless_core.hookspecs.Authorizer` and `InlineAuthorizer`.

    Args:
        make_authorizer: gives a fresh authorizer that was not started, as `create` does; called several times.
        requests: more to ask than `authorization_requests()`, for example with the names that its rules speak of.

    Raises:
        AssertionError: a promise is broken; the message says which.
    """
    asked = (*authorization_requests(), *requests)
    await check_life(make_authorizer)
    authorizer = make_authorizer()
    ways = [name for name in ("authorize", "authorize_inline") if callable(getattr(authorizer, name, None))]
    assert ways, f"an authorizer has authorize() or authorize_inline(), {type(authorizer).__name__} has neither"
    async with living(authorizer):
        for request in asked:
            if "authorize" in ways:
                _check_decision(await _answer(cast("Authorizer", authorizer), request), "authorize", request)
            if "authorize_inline" in ways:
                _check_decision(_inline_answer(cast("InlineAuthorizer", authorizer), request), "authorize_inline", request)


def authorization_requests() -> Iterator[AuthorizationRequest]:
    """Every combination of facts, each about ordinary and about odd but legal names."""
    facts = itertools.product(_NAMES, (True, False), (True, False), (True, False), (None, True, False), ("client", "server"))
    for (source, target), known, exists, declared, consent, side in facts:
        yield AuthorizationRequest(
            source=source,
            source_pod=PodRef(source.namespace, f"{source.name[:61]}-0") if known else None,
            target=target,
            exists=exists,
            declared=declared,
            consent=consent,
            side=side,
        )


async def _answer(authorizer: Authorizer, request: AuthorizationRequest) -> object:
    answer: object = None
    try:
        waiting: object = authorizer.authorize(request)
        if waits := inspect.isawaitable(waiting):
            answer = await answered(waiting, f"authorize answers {request}")
    except NothingCameError:
        raise
    except _RAISED as error:
        raise AssertionError(f"authorize answers, it does not raise; {request} gave {told(error)}") from error
    assert waits, f"authorize is awaited: write async def, or name it authorize_inline; it returned {waiting!r} for {request}"
    return answer


def _inline_answer(authorizer: InlineAuthorizer, request: AuthorizationRequest) -> object:
    try:
        return authorizer.authorize_inline(request)
    except _RAISED as error:
        raise AssertionError(f"authorize_inline answers, it does not raise; {request} gave {told(error)}") from error


def _check_decision(answer: object, way: str, request: AuthorizationRequest) -> None:
    if inspect.iscoroutine(answer):
        answer.close()
        raise AssertionError(f"{way} must not be async: nobody waits for it; name it authorize")
    assert isinstance(answer, Decision), f"{way} answers a Decision, not {answer!r}, which it answered to {request}"
    assert isinstance(answer.verdict, Verdict), f"a decision's verdict is a Verdict, not {answer.verdict!r}, as for {request}"
    for field, text in (("policy", answer.policy), ("reason", answer.reason)):
        assert isinstance(text, str), f"a decision's {field} is text, not {text!r}, as for {request}"
        assert text.strip(), f"a decision has a {field} that people can read, which that for {request} has not"
