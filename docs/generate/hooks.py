"""The page of extension points: each hook with its signature, what it returns, and the Protocol its object satisfies."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator

import attrs

from docs.generate.page import GenerationError, Page, docstring, fenced, prose, table, titled
from meshless_core import hookspecs

__all__ = ["PAGE", "hook_names"]


def hook_names() -> tuple[str, ...]:
    """Every hook, in the order of the file."""
    return tuple(name for name in vars(hookspecs.Hooks) if name.startswith("meshless_"))


def _signature(name: str, function: object) -> str:
    assert callable(function)
    signature = inspect.signature(function)
    parameters = [p for p in signature.parameters.values() if p.name != "self"]
    returns = signature.return_annotation
    result = returns if isinstance(returns, str) else getattr(returns, "__name__", str(returns))
    text = str(signature.replace(parameters=parameters, return_annotation=inspect.Signature.empty))
    # annotations are kept as written, which inspect shows in quotes
    unquoted = re.sub(r": '([^']*)'", r": \1", text)
    return f"def {name}{unquoted} -> {result}"


def _spec_of(name: str) -> type[hookspecs.PluginSpec]:
    returns = inspect.signature(getattr(hookspecs.Hooks, name)).return_annotation
    spec = getattr(hookspecs, returns if isinstance(returns, str) else returns.__name__, None)
    if not (isinstance(spec, type) and issubclass(spec, hookspecs.PluginSpec)):
        raise GenerationError(f"hook {name} must be annotated to return a PluginSpec, not {returns}")
    return spec


def _names_in(annotation: object) -> list[str]:
    """Public names of the hookspecs that an annotation, a docstring or a signature mentions."""
    words = re.findall(r"[A-Za-z_]\w*", str(annotation))
    return [word for word in words if word in hookspecs.__all__ and isinstance(getattr(hookspecs, word), type)]


def _is_protocol(thing: object) -> bool:
    return bool(getattr(thing, "_is_protocol", False))


def _members(protocol: type) -> Iterator[tuple[str, object]]:
    for name, member in vars(protocol).items():
        if not name.startswith("_") and (callable(member) or isinstance(member, property)):
            yield name, member


def _describe_member(owner: str, name: str, member: object) -> str:
    if isinstance(member, property):
        returns = inspect.signature(member.fget).return_annotation if member.fget else "?"
        head = f"{name}: {returns}"
    else:
        prefix = "async " if inspect.iscoroutinefunction(member) else ""
        head = prefix + _signature(name, member)
    return f"#### {owner}.{name}\n\n{fenced(head, 'python')}\n\n{prose(docstring(member, f'{owner}.{name}'))}"


def _describe_type(name: str) -> str:
    thing = getattr(hookspecs, name)
    parts = [f"### {name}", prose(docstring(thing, name))]
    if attrs.has(thing) and not _is_protocol(thing):
        rows = [
            (f"`{field.name}`", f"`{field.type}`", "required" if field.default is attrs.NOTHING else f"`{field.default!r}`")
            for field in attrs.fields(thing)
        ]
        parts.append(table(("field", "type", "default"), rows))
    else:
        parts += [_describe_member(name, *member) for member in _members(thing)]
    return "\n\n".join(parts)


def _reachable(spec: type[hookspecs.PluginSpec]) -> list[str]:
    """Types a plugin of this kind meets, nearest first: what `create` returns, then what its methods speak of."""
    source = inspect.get_annotations(spec).get("create", "")
    found: list[str] = []
    queue = _names_in(source) + _names_in(spec.__doc__)
    while queue:
        name = queue.pop(0)
        thing = getattr(hookspecs, name)
        if name in found or issubclass(thing, hookspecs.PluginSpec):
            continue
        found.append(name)
        if _is_protocol(thing):
            for _, member in _members(thing):
                function = member.fget if isinstance(member, property) else member
                assert callable(function)
                queue += _names_in(inspect.signature(function))
    return found


def _render() -> str:
    described: set[str] = set()
    parts = [prose(docstring(hookspecs, "meshless_core.hookspecs"))]
    parts.append(f"## PluginSpec\n\n{_describe_type('PluginSpec').removeprefix('### PluginSpec').strip()}")
    for name in hook_names():
        hook = getattr(hookspecs.Hooks, name)
        spec = _spec_of(name)
        parts += [f"## {name}", fenced(_signature(name, hook), "python"), prose(docstring(hook, name))]
        parts.append(_describe_type(spec.__name__))
        for type_name in _reachable(spec):
            if type_name in described:
                parts.append(f"Also met here: [{type_name}](#{type_name.lower()}).")
            else:
                described.add(type_name)
                parts.append(_describe_type(type_name))
    introduction = (
        f"Entry-point group `{hookspecs.ENTRY_POINT_GROUP}`, contract version `PLUGIN_API = {hookspecs.PLUGIN_API}`. "
        "How to write a plugin: [the tutorial](../tutorial/write-a-plugin.md). Types that are not described here, such as "
        "`AuthorizationRequest`, `Decision` and `VersionShare`, are [values](values.md) or [errors](errors.md)."
    )
    return titled("Hooks", "meshless_core/hookspecs.py", introduction, parts)


PAGE = Page("hooks.md", _render)
