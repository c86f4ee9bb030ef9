from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from meshless_core.config import Config, PluginSetting
from meshless_core.errors import PluginError
from meshless_core.plugins import LoadedPlugins, load_plugins

Hook = Callable[..., str]


def load(install: Any, *names: str) -> LoadedPlugins:
    return load_plugins(Config(plugins=tuple(PluginSetting(name) for name in names)), registry=install.registry)


def test_each_object_is_created_exactly_once_with_its_options(install: Any, hook: Hook) -> None:
    install("p", hook("bus", "BusSpec") + hook("discovery", "DiscoverySpec") + hook("canary_selector", "CanarySelectorSpec"))
    loaded: Any = load(install, "p")
    assert loaded.instances() == ()
    assert loaded.bus() is loaded.bus()
    assert loaded.discovery() is not loaded.bus()
    assert loaded.canary() is loaded.canary()
    assert [instance for _, instance in loaded.instances()] == [loaded.canary(), loaded.discovery(), loaded.bus()]
    assert loaded.bus().options is loaded.registrations[0].options


def test_authorizers_come_by_name_in_the_order_of_the_configuration(install: Any, hook: Hook) -> None:
    install("b")
    install("a")
    loaded = load(install, "b", "a")
    assert [name for name, _ in loaded.authorizers()] == ["b", "a"]
    assert loaded.authorizers() == loaded.authorizers()


def test_the_transport_gets_the_credentials(install: Any, hook: Hook) -> None:
    install("p", hook("transport", "TransportSpec"))
    credentials: Any = object()
    transport: Any = load(install, "p").transport(credentials)
    assert transport.credentials is credentials


def test_handshakes_come_by_first_byte(install: Any, hook: Hook) -> None:
    install("p", hook("handshake", "HandshakeSpec", "first_bytes=frozenset({1, 2})"))
    install("q", hook("handshake", "HandshakeSpec", "first_bytes=frozenset({67})"))
    handshakes = load(install, "p", "q").handshakes()
    assert set(handshakes) == {1, 2, 67}
    assert handshakes[1] is handshakes[2] is not handshakes[67]


@pytest.mark.parametrize(
    ("accessor", "example"), [("bus", "bus_directory"), ("canary", "canary_weighted"), ("discovery", "discovery_file")]
)
def test_asking_for_what_nobody_provides_is_an_error_with_an_example(install: Any, accessor: str, example: str) -> None:
    install("p")
    with pytest.raises(PluginError) as caught:
        getattr(load(install, "p"), accessor)()
    assert str(caught.value) == f"$.plugins: no {accessor} plugin is enabled: add one, for example {example}"


@pytest.mark.parametrize(
    ("create", "problem"),
    [
        (
            "def create(options):\n    raise OSError('disk is gone')\n",
            "create failed with OSError: disk is gone; check its options, or report it to its authors",
        ),
        ("async def create(options): ...\n", "create is async: make it a plain function and do the waiting in start()"),
        ("def create(options):\n    return 5\n", "create returned an int without publish(), which a bus plugin must have"),
        ("def create(options): ...\n", "create returned a NoneType without publish(), which a bus plugin must have"),
        ("def create(): ...\n", "create failed with TypeError: create() takes 0 positional arguments but 1 was given"),
    ],
)
def test_a_create_that_fails_names_the_plugin(install: Any, hook: Hook, create: str, problem: str) -> None:
    install("p", create + hook("bus", "BusSpec", "create=create"))
    loaded = load(install, "p")
    with pytest.raises(PluginError) as caught:
        loaded.bus()
    assert str(caught.value).startswith(f"$.plugins.p: plugin p of dist-p 1.2: {problem}")
    assert loaded.instances() == ()


@pytest.mark.parametrize(
    ("kind", "spec", "method", "cure"),
    [
        ("authorizer", "AuthorizerSpec", "authorize_inline", "name it authorize()"),
        ("canary_selector", "CanarySelectorSpec", "choose", "make it a plain function that only computes"),
    ],
)
def test_a_method_whose_caller_does_not_wait_must_not_be_async(
    install: Any, hook: Hook, kind: str, spec: str, method: str, cure: str
) -> None:
    create = f"class Made:\n    def __init__(self, options): ...\n    async def {method}(self, request): ...\n"
    install("p", create + hook(kind, spec, "create=Made"))
    loaded = load(install, "p")
    with pytest.raises(PluginError) as caught:
        loaded.authorizers() if kind == "authorizer" else loaded.canary()
    problem = f"plugin p of dist-p 1.2: {method}() is async, but its caller does not wait: {cure}"
    assert str(caught.value) == f"$.plugins.p: {problem}"
