from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from meshless_core.agent import authorizers
from meshless_core.agent.authorizers import AuthorizerPanel
from meshless_core.agent.hook_times import HookTimes
from meshless_core.errors import PluginError, Problem
from meshless_core.types import AuthorizationRequest, Decision, MeshletRef, ServiceId, Verdict

REQUEST = AuthorizationRequest(
    MeshletRef("shop", "web"), None, ServiceId("http", "cart", "shop"), exists=True, declared=True, consent=None, side="client"
)
ALLOW = Decision(Verdict.ALLOW, "yes", "")
DENY = Decision(Verdict.DENY, "no", "")
ABSTAIN = Decision(Verdict.ABSTAIN, "maybe", "")
TYPO = Decision("deny", "typo", "")  # type: ignore[arg-type] # the mistake under test


class Inline:
    def __init__(self, answer: Any) -> None:
        self.answer = answer

    def authorize_inline(self, _request: AuthorizationRequest) -> Any:
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


class Waiting:
    def __init__(self, answer: Any, seconds: float = 0.0) -> None:
        self.answer = answer
        self.seconds = seconds
        self.life: list[tuple[str, str]] = []

    async def start(self) -> None:
        self.life.append(("start", threading.current_thread().name))

    async def stop(self) -> None:
        self.life.append(("stop", threading.current_thread().name))

    async def authorize(self, _request: AuthorizationRequest) -> Any:
        await asyncio.sleep(self.seconds)
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


async def _decide(*authorizers: Any, timeout: float = 5.0) -> Decision:
    panel = AuthorizerPanel([(f"plugin{i}", one) for i, one in enumerate(authorizers)], timeout=timeout)
    await panel.start()
    try:
        return (await panel.ask(REQUEST)).final
    finally:
        await panel.stop()


@pytest.mark.parametrize("kind", [Inline, Waiting])
async def test_deny_wins_over_allow_in_either_order(kind: Any) -> None:
    assert (await _decide(kind(ALLOW), kind(DENY))).verdict is Verdict.DENY
    assert (await _decide(kind(DENY), kind(ALLOW))).verdict is Verdict.DENY
    assert (await _decide(kind(ALLOW), kind(ABSTAIN))).verdict is Verdict.ALLOW


@pytest.mark.parametrize("kind", [Inline, Waiting])
@pytest.mark.parametrize("answer", [RuntimeError("broken"), None, True, "allow", TYPO], ids=repr)
async def test_raising_or_nonsense_is_a_no_that_names_the_plugin(kind: Any, answer: Any) -> None:
    decision = await _decide(Inline(ALLOW), kind(answer))
    assert decision.verdict is Verdict.DENY
    assert "plugin1" in decision.reason


@pytest.mark.parametrize("answer", [RuntimeError("broken"), None, True, "allow", TYPO], ids=repr)
def test_inline_alone_fails_closed_too(answer: Any) -> None:
    panel = AuthorizerPanel([("good", Inline(ALLOW)), ("bad", Inline(answer))], timeout=1)
    assert panel.ask_inline(REQUEST).verdict is Verdict.DENY


async def test_nobody_and_only_abstentions_are_a_no() -> None:
    assert (await _decide()).verdict is Verdict.DENY
    assert (await _decide(Inline(ABSTAIN), Waiting(ABSTAIN))).verdict is Verdict.DENY


async def test_one_that_hangs_is_a_no_after_the_timeout_and_can_be_stopped() -> None:
    decision = await _decide(Waiting(ALLOW, seconds=3600), timeout=0.05)
    assert decision.verdict is Verdict.DENY
    assert "did not answer within 0.05 s" in decision.reason


async def test_one_that_blocks_its_thread_stops_neither_the_loop_nor_the_panel() -> None:
    release = threading.Event()
    released: list[bool] = []

    class Blocking:
        async def authorize(self, _request: AuthorizationRequest) -> Decision:
            released.append(release.wait(40))
            return ALLOW

    panel = AuthorizerPanel([("blocking", Blocking())], timeout=0.05)
    await panel.start()
    decisions = await asyncio.gather(panel.ask(REQUEST), panel.ask(REQUEST))
    assert [one.final.verdict for one in decisions] == [Verdict.DENY, Verdict.DENY]
    assert released == [], "the decisions came while it blocked"
    release.set()
    await panel.stop()
    assert all(released)


async def test_while_one_blocks_the_thread_questions_do_not_pile_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(authorizers, "_MAX_BEHIND", 3)
    release = threading.Event()

    class Blocking:
        async def authorize(self, _request: AuthorizationRequest) -> Decision:
            release.wait(10)
            return ALLOW

    panel = AuthorizerPanel([("blocking", Blocking())], timeout=0.05)
    await panel.start()
    try:
        reasons = [(await panel.ask(REQUEST)).final.reason for _ in range(10)]
        assert "did not answer" in reasons[0]
        assert all("thread is blocked" in reason for reason in reasons[5:])
        release.set()
        async with asyncio.timeout(20):
            while (await panel.ask(REQUEST)).final.verdict is not Verdict.ALLOW:
                await asyncio.sleep(0)
    finally:
        release.set()
        await panel.stop()


async def test_authorizers_that_wait_live_on_a_thread_of_their_own() -> None:
    one = Waiting(ALLOW)
    await _decide(one)
    assert one.life == [("start", "authorizers"), ("stop", "authorizers")]


def _problem(message: str) -> Problem:
    return Problem("$.plugins.acme", f"plugin acme of acme 1.0: {message}", "meshless.yaml", 7)


async def test_one_that_fails_to_start_is_named() -> None:
    class Broken:
        async def start(self) -> None:
            raise ValueError("no database")

        async def authorize(self, _request: AuthorizationRequest) -> Decision:
            return ALLOW

    panel = AuthorizerPanel([("broken", Broken())], timeout=1, problem_of={"broken": _problem})
    with pytest.raises(PluginError) as caught:
        await panel.start()
    assert str(caught.value) == (
        "meshless.yaml:7: $.plugins.acme: plugin acme of acme 1.0: start failed: ValueError: no database; "
        "check its options, or report it to its authors"
    )
    await panel.stop()


async def _start_that_never_ends(panel: AuthorizerPanel) -> str:
    async with asyncio.timeout(20):
        with pytest.raises(PluginError) as caught:
            await panel.start()
        await panel.stop()
    return str(caught.value)


@pytest.mark.parametrize("kind", [Inline, Waiting])
async def test_one_whose_start_hangs_is_named_and_gets_its_stop(kind: Any) -> None:
    ended: list[str] = []

    async def start() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append("start")

    async def stop() -> None:
        ended.append("stop")

    hanging = kind(ALLOW)
    hanging.start, hanging.stop = start, stop
    panel = AuthorizerPanel([("hanging", hanging)], timeout=5, problem_of={"hanging": _problem}, start_timeout=0.05)
    assert await _start_that_never_ends(panel) == (
        "meshless.yaml:7: $.plugins.acme: plugin acme of acme 1.0: start failed: took longer than 0.05 s; "
        "check its options, or report it to its authors"
    )
    assert ended == ["start", "stop"]


async def test_one_whose_start_blocks_its_thread_is_named_too() -> None:
    release = threading.Event()

    class Blocking(Waiting):
        async def start(self) -> None:
            release.wait(40)

    panel = AuthorizerPanel([("blocking", Blocking(ALLOW))], timeout=0.05, start_timeout=0.05)
    assert "plugin blocking of an unknown distribution: start failed: took longer than 0.05 s" in await _start_that_never_ends(
        panel
    )
    release.set()


@pytest.mark.parametrize("kind", [Inline, Waiting])
async def test_a_time_limit_of_its_own_that_passes_in_start_is_told_as_its_own(kind: Any) -> None:
    async def start() -> None:
        raise TimeoutError("the database did not answer")

    impatient = kind(ALLOW)
    impatient.start = start
    panel = AuthorizerPanel([("impatient", impatient)], timeout=5)
    assert "start failed: TimeoutError: the database did not answer; check" in await _start_that_never_ends(panel)


@pytest.mark.parametrize("kind", [Inline, Waiting])
@pytest.mark.parametrize("error", [SystemExit(3), asyncio.CancelledError()], ids=["exits", "cancels-itself"])
async def test_one_that_misbehaves_in_its_stop_keeps_no_other_from_its_own(kind: Any, error: BaseException) -> None:
    stopped: list[str] = []

    class Other(Inline):
        async def stop(self) -> None:
            stopped.append("other")

    async def stop() -> None:
        raise error

    leaving = kind(ALLOW)
    leaving.stop = stop
    panel = AuthorizerPanel([("other", Other(ALLOW)), ("leaving", leaving)], timeout=5)
    await panel.start()
    await panel.stop()
    assert stopped == ["other"]


# --- times and failures -------------------------------------------------------------------------------------------------


def _count(times: HookTimes, plugin: str, hook: str) -> int:
    measured = times.times.get((plugin, hook))
    return sum(measured.counts) if measured else 0


async def test_each_call_that_may_wait_is_measured_under_its_plugins_name() -> None:
    times = HookTimes()
    panel = AuthorizerPanel([("quick", Inline(ALLOW)), ("slow", Waiting(ALLOW, 0.01))], timeout=5, times=times)
    await panel.start()
    for _ in range(3):
        await panel.ask(REQUEST)
    await panel.stop()
    assert _count(times, "slow", "authorize") == 3
    assert times.times["slow", "authorize"].total >= 0.03
    assert _count(times, "quick", "authorize_inline") == 3, "who waits for another anyway can be measured each time"


def test_inline_calls_are_measured_now_and_then_and_the_first_is() -> None:
    times = HookTimes()
    panel = AuthorizerPanel([("quick", Inline(ALLOW))], timeout=1, times=times)
    panel.ask_inline(REQUEST)
    assert _count(times, "quick", "authorize_inline") == 1
    for _ in range(639):
        panel.ask_inline(REQUEST)
    assert 10 <= _count(times, "quick", "authorize_inline") < 100


async def test_every_failure_counts_measured_or_not() -> None:
    times = HookTimes()
    panel = AuthorizerPanel([("bad", Inline(RuntimeError("broken")))], timeout=1, times=times)
    for _ in range(10):
        panel.ask_inline(REQUEST)
    assert times.failures == {("bad", "authorize_inline", "raised"): 10}
    times.failures.clear()
    panel = AuthorizerPanel([("bad", Waiting(None)), ("late", Waiting(ALLOW, 3600))], timeout=0.05, times=times)
    await panel.start()
    await panel.ask(REQUEST)
    await panel.stop()
    assert times.failures == {("bad", "authorize", "raised"): 1, ("late", "authorize", "timeout"): 1}
    assert times.times["late", "authorize"].total >= 0.04, "as long as it was waited for"


async def test_who_waits_behind_one_that_blocks_is_not_blamed_for_its_time() -> None:
    release = threading.Event()

    class Blocking:
        async def authorize(self, _request: AuthorizationRequest) -> Decision:
            release.wait(10)
            return ALLOW

    times = HookTimes()
    panel = AuthorizerPanel([("blocking", Blocking()), ("patient", Waiting(ALLOW))], timeout=0.05, times=times)
    await panel.start()
    await panel.ask(REQUEST)
    release.set()
    await panel.stop()
    assert _count(times, "blocking", "authorize") == 1
    assert _count(times, "patient", "authorize") == 0, "its turn never came"
    assert times.failures["patient", "authorize", "timeout"] == 1, "but its answer is missing"


async def test_start_stop_and_authorize_may_be_plain_functions_as_in_other_plugins() -> None:
    class Plain:
        life: list[str]

        def __init__(self) -> None:
            self.life = []

        def start(self) -> None:
            self.life.append("start")

        def stop(self) -> None:
            self.life.append("stop")

    class PlainInline(Plain):
        def authorize_inline(self, _request: AuthorizationRequest) -> Decision:
            return ALLOW

    class PlainWaiting(Plain):
        def authorize(self, _request: AuthorizationRequest) -> Decision:
            return ABSTAIN

    inline, waiting = PlainInline(), PlainWaiting()
    assert await _decide(inline, waiting) == ALLOW
    assert inline.life == waiting.life == ["start", "stop"]
