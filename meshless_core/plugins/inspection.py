"""Checks on one plugin, each returning what is wrong in words its author or user can act on.

pluggy accepts in silence a hook that is misspelt, not marked, wrapped or asynchronous; with authorizers silence would mean
"nobody objects". So every such case is an error here. This module must not decide about the set of plugins: the loader does.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any, Final

import attrs
import pluggy

from meshless_core.config.structuring import supports
from meshless_core.hookspecs import PLUGIN_API, HandshakeSpec, Hooks, PluginSpec
from meshless_core.meshlet.reading import nearest

__all__ = [
    "HOOK_NAMES",
    "article",
    "missing_methods",
    "problems_of_hooks",
    "problems_of_options_class",
    "problems_of_spec",
    "waiting_method",
]

HOOK_NAMES: Final = frozenset(name for name in vars(Hooks) if name.startswith("meshless_register_"))

_FORBIDDEN: Final = ("tryfirst", "trylast", "wrapper", "hookwrapper", "optionalhook")


def problems_of_hooks(plugin: object, manager: pluggy.PluginManager) -> Iterator[str]:
    """What is wrong with the hooks of a plugin that has just been imported."""
    marked = 0
    for name in sorted(dir(plugin)):
        options: Any = manager.parse_hookimpl_opts(plugin, name)
        if options is None:
            if name.startswith("meshless_register_") and callable(inspect.getattr_static(plugin, name)):
                yield f"{name} is not marked as a hook and would never be called: write @hookimpl above it"
            continue
        marked += 1
        hook = options.get("specname") or name
        if hook not in HOOK_NAMES:
            yield f"there is no hook {hook!r}, {nearest(hook, HOOK_NAMES)}"
        for option in _FORBIDDEN:
            if options.get(option):
                yield f"{name} uses {option}, but order comes from the configuration only: write plain @hookimpl"
        function = inspect.getattr_static(plugin, name)
        function = getattr(function, "__func__", function)
        if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
            yield f"{name} is async, but hooks are plain functions that return a spec: remove async"
        elif inspect.isgeneratorfunction(function):
            yield f"{name} is a generator, but hooks return a spec: replace yield by return"
    if not marked:
        yield f"has no hook, so it would do nothing: implement one of {', '.join(sorted(HOOK_NAMES))}"


def problems_of_spec(spec: object, wanted: type[PluginSpec], hook: str, *, owner: str, core: str) -> Iterator[str]:
    """What is wrong with what a hook returned.

    Args:
        spec: the returned value.
        wanted: class it has to be of.
        hook: name of the hook.
        owner: distribution and version of the plugin.
        core: distribution and version of Meshless.
    """
    if not isinstance(spec, wanted):
        what = f"returned {article(type(spec).__name__)}" if spec is not None else "returned nothing"
        yield f"{hook} {what}: return {article(wanted.__name__)}"
        return
    api = getattr(spec, "api", None)
    if type(api) is not int:
        yield f"{hook} states api={api!r}: write the number of the plugin api, now {PLUGIN_API}"
        return
    if api != PLUGIN_API:
        cure = f"upgrade {owner}" if api < PLUGIN_API else f"upgrade {core}, or install an older release of {owner}"
        yield f"is written for plugin api {api}, but {core} has plugin api {PLUGIN_API}: {cure}"
        return
    create: Any = getattr(spec, "create", None)
    if not callable(create):
        yield f"{hook} states create={create!r}, which cannot be called: give a class or function that takes the options"
    yield from problems_of_options_class(spec.options)
    if isinstance(spec, HandshakeSpec):
        claimed = spec.first_bytes
        if not isinstance(claimed, frozenset) or not claimed or not all(type(b) is int and 0 <= b <= 255 for b in claimed):
            yield f"{hook} states first_bytes={claimed!r}: give a frozenset of at least one integer from 0 to 255"


def problems_of_options_class(cls: object) -> Iterator[str]:
    """What is wrong with a plugin's options class."""
    if not isinstance(cls, type) or not attrs.has(cls):
        yield f"options is {cls!r}, not an attrs class: write a class with @attrs.frozen above it"
        return
    name = cls.__qualname__
    required = [field.alias for field in attrs.fields(cls) if field.init and field.default is attrs.NOTHING]
    if required:
        yield f"options class {name} gives no default for {', '.join(required)}: a plugin named with {{}} must work"
        return
    unsupported = supports(cls)
    if unsupported is not None:
        yield f"options class {name} cannot be filled from a configuration: {unsupported}"
    try:
        instance = cls()
    except Exception as error:  # noqa: BLE001 - boundary: a plugin's defaults, validators and converters run here
        yield f"options class {name} cannot be made from its defaults: {type(error).__name__}: {error}"
        return
    if not _is_frozen(instance):
        yield f"options class {name} is not frozen: write @attrs.frozen above it"


def _is_frozen(instance: Any) -> bool:
    """Whether setting an attribute is refused; asked of the class's own throw-away instance, since attrs keeps no flag."""
    fields = attrs.fields(type(instance))
    name = fields[0].name if fields else "meshless_probe"
    try:
        setattr(instance, name, getattr(instance, name, None))
    except attrs.exceptions.FrozenInstanceError:
        return True
    except Exception:  # noqa: BLE001 - boundary: whatever a plugin's own __setattr__ raises, it is not attrs' refusal
        return False
    return False


def missing_methods(instance: object, methods: tuple[str, ...]) -> str | None:
    """The first of the needed methods a created object lacks, None if it has all; "a|b" needs one of them."""
    for names in methods:
        if not any(callable(getattr(instance, name, None)) for name in names.split("|")):
            return names.replace("|", "() or ") + "()"
    return None


def waiting_method(instance: object, methods: tuple[str, ...]) -> str | None:
    """The first of these methods that a created object has as an async one, although its caller does not wait; None if none."""
    return next((name for name in methods if inspect.iscoroutinefunction(getattr(instance, name, None))), None)


def article(noun: str) -> str:
    """The noun with "a" or "an", for messages that name a class."""
    return f"{'an' if noun[:1].lower() in 'aeiou' else 'a'} {noun}"
