"""What every plugin module promises of its registration, as one function: `check_registration(module)`.

The loader's own checks are run, so what passes here is not refused at start; what the contract asks for beyond that, such as
the documentation of options, is checked here. Nothing is started, and no event loop is needed.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

import attrs

from meshless_core.errors import PluginError
from meshless_core.hookspecs import Credentials
from meshless_core.plugins import Kind, LoadedPlugins, load_uninstalled
from meshless_core.types import Identity

__all__ = ["check_registration"]


class _NoCredentials:
    """A `CredentialsSource` that holds nothing yet, as an agent's does in the beginning."""

    trust_domain = "mesh.test"

    def get(self, identity: Identity) -> Credentials | None:
        return None

    def expects(self, identity: Identity) -> bool:
        return False


_CREATE: Final[Mapping[Kind, Callable[[LoadedPlugins], object]]] = {
    Kind.HANDSHAKE: LoadedPlugins.handshakes,
    Kind.AUTHORIZER: LoadedPlugins.authorizers,
    Kind.CANARY: LoadedPlugins.canary,
    Kind.TRANSPORT: lambda plugins: plugins.transport(_NoCredentials()),
    Kind.DISCOVERY: LoadedPlugins.discovery,
    Kind.BUS: LoadedPlugins.bus,
}


def check_registration(plugin: object) -> None:
    """Check the hooks of a plugin against the contract in `meshless_core.hookspecs.PluginSpec`.

    Args:
        plugin: what its entry point names: a module that has the hooks, as a rule.

    Raises:
        AssertionError: promises are broken; the message says which, all of them where they do not hide each other.
    """
    name = str(getattr(plugin, "__name__", type(plugin).__name__)).rpartition(".")[2]
    try:
        loaded = load_uninstalled(plugin, name)
    except PluginError as error:
        raise AssertionError(_told(error)) from error
    undocumented = [message for one in loaded.registrations for message in _undocumented(one.spec.options)]
    assert not undocumented, "\n".join(dict.fromkeys(undocumented))
    for one in loaded.registrations:
        _check_create(_CREATE[one.kind], loaded)


def _undocumented(options: type[Any]) -> list[str]:
    """What the fields of an options class lack: the loader gets along without, the people who configure it do not."""
    return [
        f"every option says what it is in, and why: write metadata={{'doc': ...}} for {options.__qualname__}.{field.name}"
        for field in attrs.fields(options)
        if not isinstance(doc := field.metadata.get("doc"), str) or not doc.strip()
    ]


def _check_create(create: Callable[[LoadedPlugins], object], loaded: LoadedPlugins) -> None:
    """Create where no event loop runs, whoever calls the check; twice, as two agents of one test do."""
    with ThreadPoolExecutor(1) as elsewhere:
        elsewhere.submit(threading.get_ident).result()  # its thread is there before we count
        before = set(threading.enumerate())
        for plugins in (loaded, LoadedPlugins(loaded.registrations)):
            try:
                elsewhere.submit(create, plugins).result()
            except PluginError as error:
                pure = (
                    "create is pure: no I/O, no threads, no running loop, as often as it is called: " if error.__cause__ else ""
                )
                raise AssertionError(f"{pure}{_told(error)}") from error
        began = [thread.name for thread in threading.enumerate() if thread not in before]
        assert not began, f"create is pure: no I/O, no threads, which are for start(); it began {', '.join(began)}"


def _told(error: PluginError) -> str:
    return "\n".join(problem.message for problem in error)
