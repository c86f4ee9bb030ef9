# ruff: noqa: E501 - messages are asserted whole, so that they can be searched for
"""The loader: every trap of pluggy, every mistake of a configuration or a plugin, told at once with the cure."""

from __future__ import annotations

import importlib
import sys
import textwrap
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pluggy
import pytest

from meshless_core.config import parse_config
from meshless_core.errors import PluginError
from meshless_core.plugins import AGENT_NEEDS, Kind, LoadedPlugins, load_plugins, load_uninstalled

Install = Any
Hook = Callable[..., str]


def load(install: Install, plugins: str, needs: frozenset[Kind] = frozenset()) -> LoadedPlugins:
    config = parse_config("plugins:\n" + textwrap.indent(textwrap.dedent(plugins), "  "), "m.yaml")
    return load_plugins(config, needs=needs, registry=install.registry)


def problems(install: Install, plugins: str, needs: frozenset[Kind] = frozenset()) -> list[str]:
    with pytest.raises(PluginError) as caught:
        load(install, plugins, needs)
    return [str(problem) for problem in caught.value]


def test_plugins_are_registered_in_the_order_of_the_configuration_with_their_origin(install: Install) -> None:
    install("first", dist="acme-first", version="3.1")
    install("second")
    install("unused", "raise RuntimeError('imported although not named')")
    for order in (["first", "second"], ["second", "first"]):
        loaded = load(install, "".join(f"{name}: {{}}\n" for name in order))
        assert [one.name for one in loaded.registrations] == order
        assert [one.order for one in loaded.registrations] == [1, 2]
    first = loaded.registrations[1]
    assert (first.kind, first.distribution, first.version, first.line) == (Kind.AUTHORIZER, "acme-first", "3.1", 3)


def test_trap_a_misspelt_hook_is_an_error_although_pluggy_takes_it(install: Install) -> None:
    install("typo", "@hookimpl\ndef meshless_register_autorizer():\n    return spec(AuthorizerSpec)\n")
    assert problems(install, "typo: {}") == [
        (
            "m.yaml:2: $.plugins.typo: plugin typo of dist-typo 1.2: there is no hook 'meshless_register_autorizer', "
            "did you mean 'meshless_register_authorizer'?"
        )
    ]


def test_trap_an_unmarked_hook_is_an_error_although_check_pending_misses_it(install: Install) -> None:
    install("bare", "def meshless_register_authorizer():\n    return spec(AuthorizerSpec)\n")
    found = problems(install, "bare: {}")
    assert (
        "meshless_register_authorizer is not marked as a hook and would never be called: write @hookimpl above it" in found[0]
    )
    manager = pluggy.PluginManager("meshless")
    manager.register(sys.modules[next(name for name in sys.modules if name.startswith("meshless_test_"))])
    manager.check_pending()  # the trap: no error


def test_trap_an_asynchronous_hook_is_an_error(install: Install) -> None:
    install("waits", "@hookimpl\nasync def meshless_register_authorizer():\n    return spec(AuthorizerSpec)\n")
    install("yields", "@hookimpl\ndef meshless_register_authorizer():\n    yield spec(AuthorizerSpec)\n")
    first, second = problems(install, "waits: {}\nyields: {}")
    assert "meshless_register_authorizer is async, but hooks are plain functions that return a spec: remove async" in first
    assert "meshless_register_authorizer is a generator, but hooks return a spec: replace yield by return" in second


def test_trap_one_broken_plugin_does_not_hide_another(install: Install) -> None:
    install("breaks", "import no_such_module_anywhere\n")
    install("exits", "raise SystemExit(3)\n")
    install("raises", "@hookimpl\ndef meshless_register_authorizer():\n    raise RuntimeError('not today')\n")
    install("fine")
    assert problems(install, "breaks: {}\nexits: {}\nraises: {}\nfine: {}\n") == [
        (
            f"m.yaml:2: $.plugins.breaks: plugin breaks of dist-breaks 1.2: cannot import {install._modules[0]!r}: ModuleNotFoundError: "
            "No module named 'no_such_module_anywhere'; reinstall dist-breaks, or remove the plugin from the configuration"
        ),
        (
            f"m.yaml:3: $.plugins.exits: plugin exits of dist-exits 1.2: cannot import {install._modules[1]!r}: SystemExit: 3; "
            "reinstall dist-exits, or remove the plugin from the configuration"
        ),
        (
            "m.yaml:4: $.plugins.raises: plugin raises of dist-raises 1.2: meshless_register_authorizer failed with RuntimeError: not today; "
            "it must only return an AuthorizerSpec"
        ),
    ]


@pytest.mark.parametrize("option", ["tryfirst", "trylast", "optionalhook"])
def test_trap_order_by_tryfirst_is_refused(install: Install, option: str) -> None:
    install("pushy", f"@hookimpl({option}=True)\ndef meshless_register_authorizer():\n    return spec(AuthorizerSpec)\n")
    (found,) = problems(install, "pushy: {}")
    assert (
        f"meshless_register_authorizer uses {option}, but order comes from the configuration only: write plain @hookimpl"
        in found
    )


@pytest.mark.parametrize("option", ["wrapper", "hookwrapper"])
def test_trap_a_wrapper_is_refused(install: Install, option: str) -> None:
    install("wraps", f"@hookimpl({option}=True)\ndef meshless_register_authorizer():\n    return (yield)\n")
    assert any(f"uses {option}" in problem for problem in problems(install, "wraps: {}"))


def test_trap_two_distributions_with_one_name_are_an_error_naming_both(install: Install) -> None:
    install("twin", dist="acme", version="1.0")
    install("twin", dist="bolt", version="2.0")
    assert problems(install, "twin: {}") == [
        "m.yaml:2: $.plugins.twin: plugin name 'twin' is claimed by acme 1.0 and bolt 2.0: uninstall all but one of them"
    ]


def test_trap_properties_of_a_plugin_object_are_not_evaluated(install: Install) -> None:
    body = """
    class Plugin:
        @property
        def explosive(self):
            raise RuntimeError("a property was evaluated")
        @hookimpl
        def meshless_register_authorizer(self):
            return spec(AuthorizerSpec)
    plugin = Plugin()
    """
    install("object", body, value="{module}:plugin")
    assert [one.name for one in load(install, "object: {}").registrations] == ["object"]


def test_an_unknown_name_lists_what_is_installed_and_suggests_the_nearest(install: Install) -> None:
    install("alpha")
    install("beta")
    assert problems(install, "alpah: {}\nzzz: {}") == [
        "m.yaml:2: $.plugins.alpah: no installed distribution provides a plugin 'alpah' (installed are alpha, beta): did you mean 'alpha'? if not, install the distribution that does, or remove the name",
        (
            "m.yaml:3: $.plugins.zzz: no installed distribution provides a plugin 'zzz' (installed are alpha, beta): "
            "install the distribution that does, or remove the name"
        ),
    ]


def test_with_nothing_installed_it_says_so(install: Install) -> None:
    (found,) = problems(install, "a: {}")
    assert "(no plugin is installed at all)" in found


@pytest.mark.parametrize(
    ("api", "cure"),
    [
        (
            2,
            "is written for plugin api 2, but meshless 0.1.0 has plugin api 1: upgrade meshless 0.1.0, or install an older release of dist-p 1.2",
        ),
        (0, "is written for plugin api 0, but meshless 0.1.0 has plugin api 1: upgrade dist-p 1.2"),
        ("'1'", "meshless_register_authorizer states api='1': write the number of the plugin api, now 1"),
        (True, "meshless_register_authorizer states api=True: write the number of the plugin api, now 1"),
    ],
)
def test_another_api_version_says_what_to_upgrade(install: Install, hook: Hook, api: object, cure: str) -> None:
    install("p", hook("authorizer", "AuthorizerSpec", f"api={api}"))
    assert problems(install, "p: {}") == [f"m.yaml:2: $.plugins.p: plugin p of dist-p 1.2: {cure}"]


@pytest.mark.parametrize(
    ("returned", "what"),
    [
        ("None", "meshless_register_authorizer returned nothing: return an AuthorizerSpec"),
        ("Thing", "meshless_register_authorizer returned a type: return an AuthorizerSpec"),
        ("spec(BusSpec)", "meshless_register_authorizer returned a BusSpec: return an AuthorizerSpec"),
        ("spec(AuthorizerSpec, create=5)", "meshless_register_authorizer states create=5, which cannot be called"),
        (
            "spec(AuthorizerSpec, options=dict)",
            "options is <class 'dict'>, not an attrs class: write a class with @attrs.frozen above it",
        ),
        ("spec(AuthorizerSpec, options=5)", "options is 5, not an attrs class"),
    ],
)
def test_a_hook_that_returns_something_else_is_told_what_to_return(install: Install, returned: str, what: str) -> None:
    install("p", f"@hookimpl\ndef meshless_register_authorizer():\n    return {returned}\n")
    (found,) = problems(install, "p: {}")
    assert found.startswith(f"m.yaml:2: $.plugins.p: plugin p of dist-p 1.2: {what}")


def test_bad_options_are_told_with_file_line_path_and_all_at_once(install: Install) -> None:
    install("p")
    install("q")
    assert problems(install, "p:\n  level: -1\n  nmae: x\nq:\n  level: 'high'\n") == [
        "m.yaml:3: $.plugins.p.level: plugin p of dist-p 1.2: 'level' must be >= 0: -1",
        "m.yaml:4: $.plugins.p.nmae: plugin p of dist-p 1.2: unknown setting, did you mean 'name'?",
        "m.yaml:6: $.plugins.q.level: plugin q of dist-q 1.2: must be an integer, not the string 'high'",
    ]


def test_options_are_structured_once_and_strictly(install: Install) -> None:
    install("p")
    (one,) = load(install, "p: {level: 7}").registrations
    assert (one.options.level, one.options.name) == (7, "x")


def test_one_module_may_provide_two_kinds_with_one_options_class(install: Install, hook: Hook) -> None:
    install("p", hook("authorizer", "AuthorizerSpec") + hook("bus", "BusSpec"))
    loaded = load(install, "p: {level: 2}")
    assert {one.kind for one in loaded.registrations} == {Kind.AUTHORIZER, Kind.BUS}
    assert loaded.registrations[0].options is loaded.registrations[1].options


def test_two_options_classes_in_one_plugin_are_refused(install: Install, hook: Hook) -> None:
    other = "@attrs.frozen\nclass Other:\n    pass\n"
    install("p", other + hook("authorizer", "AuthorizerSpec") + hook("bus", "BusSpec", "options=Other"))
    (found,) = problems(install, "p: {}")
    assert "its hooks name different options classes, Options and Other: use one" in found


@pytest.mark.parametrize(
    ("kind", "spec"),
    [
        ("discovery", "DiscoverySpec"),
        ("canary_selector", "CanarySelectorSpec"),
        ("transport", "TransportSpec"),
        ("bus", "BusSpec"),
    ],
)
def test_two_plugins_of_a_kind_that_has_one_are_refused_naming_both(install: Install, hook: Hook, kind: str, spec: str) -> None:
    install("one", hook(kind, spec))
    install("two", hook(kind, spec))
    (found,) = problems(install, "one: {}\ntwo: {}")
    assert found.startswith("m.yaml:3: $.plugins.two: plugin two of dist-two 1.2: only one ")
    assert found.endswith("plugin can be active, not one (dist-one 1.2) and two (dist-two 1.2): remove all but one")


def test_a_needed_kind_that_is_missing_is_told_with_an_example(install: Install) -> None:
    install("p")
    assert problems(install, "p: {}", frozenset({Kind.AUTHORIZER, Kind.BUS, Kind.TRANSPORT})) == [
        "m.yaml: $.plugins: no transport plugin is enabled, but this command needs one: add one, for example `transport_tls: {}`",
        "m.yaml: $.plugins: no bus plugin is enabled, but this command needs one: add one, for example `bus_directory: {}`",
    ]


def test_a_plugin_that_failed_is_not_reported_a_second_time_as_missing(install: Install) -> None:
    install("p", "import no_such_module_anywhere\n")
    assert len(problems(install, "p: {}", AGENT_NEEDS)) == 1


def test_two_handshakes_may_not_claim_one_first_byte(install: Install, hook: Hook) -> None:
    install("one", hook("handshake", "HandshakeSpec", "first_bytes=frozenset({1, 2})"))
    install("two", hook("handshake", "HandshakeSpec", "first_bytes=frozenset({2, 3})"))
    (found,) = problems(install, "one: {}\ntwo: {}")
    assert found.endswith(
        "plugin two of dist-two 1.2: claims first byte 0x02, which one of dist-one 1.2 has: remove one of them"
    )


@pytest.mark.parametrize("claimed", ["frozenset()", "frozenset({256})", "frozenset({True})", "{1}", "b'C'"])
def test_first_bytes_are_bytes(install: Install, hook: Hook, claimed: str) -> None:
    install("p", hook("handshake", "HandshakeSpec", f"first_bytes={claimed}"))
    (found,) = problems(install, "p: {}")
    assert "give a frozenset of at least one integer from 0 to 255" in found


def test_the_same_object_under_two_names_is_refused(install: Install) -> None:
    install("one")
    install("two", value=install._modules[0])
    (found,) = problems(install, "one: {}\ntwo: {}")
    assert "plugin two of dist-two 1.2: is refused: Plugin already registered under a different name" in found


def test_a_hook_with_arguments_is_refused(install: Install) -> None:
    install("p", "@hookimpl\ndef meshless_register_authorizer(config):\n    return spec(AuthorizerSpec)\n")
    (found,) = problems(install, "p: {}")
    assert "plugin p of dist-p 1.2: is refused:" in found
    assert "config" in found


def test_an_entry_point_that_is_none_is_refused(install: Install) -> None:
    install("p", "plugin = None\n", value="{module}:plugin")
    (found,) = problems(install, "p: {}")
    assert "is None: name a module or object that has the hooks" in found


def test_a_module_without_hooks_is_refused(install: Install) -> None:
    install("p", "")
    (found,) = problems(install, "p: {}")
    assert "has no hook, so it would do nothing: implement one of meshless_register_authorizer, " in found


def test_a_plugin_that_is_not_installed_is_checked_and_created_like_one_that_is(install: Install) -> None:
    install("p")
    loaded = load_uninstalled(importlib.import_module(install._modules[0]), "p")
    ((name, authorizer),) = loaded.authorizers()
    made: Any = authorizer
    assert (name, made.options.level) == ("p", 1)
    assert loaded.registrations[0].owner == "your distribution"


def test_all_problems_of_a_plugin_that_is_not_installed_are_told() -> None:
    plugin = ModuleType("p")
    plugin.__dict__["meshless_register_bus"] = plugin.__dict__["meshless_register_discovery"] = lambda: None
    with pytest.raises(PluginError) as caught:
        load_uninstalled(plugin, "p")
    assert len(caught.value.problems) == 3
    assert all("$.plugins.p: plugin p of your distribution: " in str(problem) for problem in caught.value)
