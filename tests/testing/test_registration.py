"""The check of registrations: every plugin of ours passes, and each way to break the contract is told."""

from __future__ import annotations

import asyncio
import inspect
import textwrap
import threading
from importlib.metadata import EntryPoint, entry_points
from types import ModuleType
from typing import Any

import attrs
import pytest

from meshless_core import (
    AuthorizerSpec,
    BusSpec,
    CanarySelectorSpec,
    Decision,
    HandshakeSpec,
    Identity,
    TransportSpec,
    Verdict,
    hookimpl,
    hookspecs,
)
from meshless_core.testing.authorizer import check_authorizer
from meshless_core.testing.registration import check_registration

OURS = sorted(entry_points(group="meshless.plugins"), key=lambda entry: entry.name)


@attrs.frozen
class Options:
    level: int = attrs.field(default=1, metadata={"doc": "1 to 3, because."})


@attrs.frozen
class Undocumented:
    level: int = attrs.field(default=1, metadata={"doc": "1 to 3, because."})
    name: str = "x"
    place: str = attrs.field(default="x", metadata={"doc": " "})


@attrs.define
class Mutable:
    level: int = attrs.field(default=1, metadata={"doc": "1 to 3, because."})


@attrs.frozen
class Needy:
    level: int = attrs.field(metadata={"doc": "1 to 3, because."})


class Policy:
    def __init__(self, options: Any) -> None:
        self.options = options

    def authorize_inline(self, request: object) -> Decision:
        return Decision(Verdict.ALLOW, "yes", "everybody may")


class AsyncPolicy(Policy):
    async def authorize_inline(self, request: object) -> Decision:  # type: ignore[override]  # this is what is wrong
        return super().authorize_inline(request)


class Transport:
    def __init__(self, options: Options, credentials: hookspecs.CredentialsSource) -> None:
        assert credentials.trust_domain
        identity = Identity(credentials.trust_domain, "shop", "web")
        assert credentials.get(identity) is None
        assert not credentials.expects(identity)

    async def connect(self) -> None: ...
    async def accept(self) -> None: ...


class NeedsALoop(Policy):
    def __init__(self, options: Any) -> None:
        self.loop = asyncio.get_running_loop()


class BeginsAThread(Policy):
    end = threading.Event()

    def __init__(self, options: Any) -> None:
        threading.Thread(target=self.end.wait, name="too early", daemon=True).start()


class WorksOnce(Policy):
    made = False

    def __init__(self, options: Any) -> None:
        assert not type(self).made, "there is one already"
        type(self).made = True


async def waiting(options: Any) -> Policy:
    return Policy(options)


def module(hook: str = "authorizer", spec: type[hookspecs.PluginSpec] = AuthorizerSpec, **fields: Any) -> ModuleType:
    """A plugin with one hook; without fields that differ it keeps the contract."""
    made = ModuleType("acme.policies")

    def register() -> hookspecs.PluginSpec:
        given: dict[str, Any] = {"api": 1, "options": Options, "create": Policy}
        return spec(**(given | fields))

    register.__name__ = f"meshless_register_{hook}"
    setattr(made, register.__name__, hookimpl(register))
    return made


def unmarked() -> ModuleType:
    made = module()
    del made.meshless_register_authorizer
    made.meshless_register_canary_selector = lambda: None  # type: ignore[attr-defined]  # a module made by hand
    return made


def two_options() -> ModuleType:
    made = module()
    made.__dict__.update(module("canary_selector", CanarySelectorSpec, options=Undocumented).__dict__)
    return made


@pytest.mark.parametrize("entry", OURS, ids=lambda entry: entry.name)
def test_every_plugin_of_ours_passes(entry: EntryPoint) -> None:
    check_registration(entry.load())


def test_all_of_ours_are_there() -> None:
    assert len(OURS) >= 9


@pytest.mark.parametrize(
    "plugin",
    [
        module(),
        module("transport", TransportSpec, create=Transport),
        module("handshake", HandshakeSpec, create=lambda options: Policy, first_bytes=frozenset({7})),
    ],
    ids=["authorizer", "transport", "handshake"],
)
def test_a_registration_that_keeps_the_contract_passes(plugin: ModuleType) -> None:
    check_registration(plugin)


async def test_it_passes_where_a_loop_runs_too() -> None:
    check_registration(module())
    with pytest.raises(AssertionError, match="no running event loop"):
        check_registration(module(create=NeedsALoop))


@pytest.mark.parametrize(
    ("plugin", "promise"),
    [
        (ModuleType("empty"), "plugin empty of your distribution: has no hook"),
        (unmarked(), "plugin policies of your distribution: meshless_register_canary_selector is not marked as a hook"),
        (module("authoriser"), "there is no hook 'meshless_register_authoriser'"),
        (module("bus"), "meshless_register_bus returned an AuthorizerSpec: return a BusSpec"),
        (module(api=2), "is written for plugin api 2, but meshless .* has plugin api 1"),
        (module(api="1"), "states api='1': write the number"),
        (module(options=dict), "not an attrs class"),
        (module(options=Mutable), "options class Mutable is not frozen"),
        (module(options=Needy), "options class Needy gives no default for level"),
        (two_options(), "its hooks name different options classes"),
        (module(options=Undocumented), "(?s)metadata=.*for Undocumented.name\n.*for Undocumented.place$"),
        (module("handshake", HandshakeSpec, first_bytes=frozenset()), "states first_bytes"),
        (module("bus", BusSpec), r"^plugin policies of your distribution: create returned a Policy without publish\(\)"),
        (module(create=None), "states create=None, which cannot be called"),
        (module(create=waiting), "create is async: make it a plain function"),
        (module(create=AsyncPolicy), r"authorize_inline\(\) is async, but its caller does not wait"),
        (module(create=NeedsALoop), "create is pure: .*RuntimeError: no running event loop"),
        (module(create=BeginsAThread), "create is pure: .*; it began too early"),
        (module(create=WorksOnce), "create failed with AssertionError: there is one already"),
    ],
)
def test_a_broken_promise_is_told(plugin: ModuleType, promise: str) -> None:
    WorksOnce.made = False
    BeginsAThread.end.clear()
    with pytest.raises(AssertionError, match=promise):
        check_registration(plugin)
    BeginsAThread.end.set()


async def test_the_minimal_plugin_of_the_contract_keeps_it() -> None:
    text = inspect.getdoc(hookspecs)
    assert text is not None
    plugin: Any = ModuleType("quarantine")
    exec(textwrap.dedent(text.partition("A minimal plugin::")[2]), plugin.__dict__)
    check_registration(plugin)
    await check_authorizer(lambda: plugin.Quarantine(plugin.Options()))
