"""The schema of the Meshlet resource (product contract, section 2), as code that collects every problem.

Fail closed: an empty field (`allow:` with nothing behind it) is an error and never "no restriction", and an unknown field is an
error, since a misspelt `allow` would open a service. This module must not read files or look at other objects.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, Final, TypeVar

from meshless_core.errors import InvalidDurationError, ValidationError
from meshless_core.meshlet.duration import parse_duration
from meshless_core.meshlet.model import API_VERSIONS, CanaryWeight, Meshlet, Service
from meshless_core.meshlet.reading import Fields, ProblemLog, describe
from meshless_core.meshlet.yaml_source import Marks, format_path
from meshless_core.types import MeshletRef, ServiceId, is_dns_label

__all__ = ["is_label_key", "is_label_value", "parse_meshlet", "read_metadata", "read_string_map"]

_Named = TypeVar("_Named", ServiceId, MeshletRef, Service, CanaryWeight)

DEFAULT_NAMESPACE: Final = "default"
"""Where an object without `metadata.namespace` lives: the convention of Kubernetes for files."""

# What the API server adds to every object it returns; `kubectl get -o yaml | meshless validate -` has to work.
_SERVER_SET: Final = ("uid", "resourceVersion", "generation", "creationTimestamp", "deletionTimestamp", "selfLink")
_METADATA: Final = frozenset(
    {"name", "namespace", "labels", "annotations", "finalizers", "generateName", "managedFields", "ownerReferences"}
    | {"deletionGracePeriodSeconds", *_SERVER_SET}
)
_LABEL_NAME: Final = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,61}[A-Za-z0-9])?", re.ASCII)


def is_label_value(text: str) -> bool:
    """Whether `text` can be a label's value: empty, or 1 to 63 of A-Z a-z 0-9 '.' '_' '-', alphanumeric at the ends."""
    return not text or _LABEL_NAME.fullmatch(text) is not None


def is_label_key(text: str) -> bool:
    """Whether `text` can be a label's key: a name like a value, with an optional `<dns name>/` before it."""
    prefix, slash, name = text.rpartition("/")
    if slash and not (len(prefix) <= 253 and all(map(is_dns_label, prefix.split(".")))):
        return False
    return _LABEL_NAME.fullmatch(name) is not None


def parse_meshlet(obj: Mapping[str, Any], source: str = "", lines: Marks | None = None) -> Meshlet:
    """Validate a Meshlet.

    Args:
        obj: the object, plain JSON values.
        source: file name or other origin, for messages.
        lines: `LoadedObject.marks`, None when there are no lines to tell.

    Raises:
        ValidationError: with every problem found, each with its path and line.
    """
    log = ProblemLog(source, lines)
    meshlet = _meshlet(obj, log)
    if log.problems or meshlet is None:
        raise ValidationError(log.in_order())
    return meshlet


def _meshlet(obj: Mapping[str, Any], log: ProblemLog) -> Meshlet | None:
    top = Fields.of(obj, (), log)
    if top is None:
        return None
    top.only({"apiVersion", "kind", "metadata", "spec", "status"})
    if top.required("apiVersion", f"write apiVersion: {API_VERSIONS[0]}"):
        version = top.string("apiVersion")
        if version is not None and version not in API_VERSIONS:
            top.problem("apiVersion", f"{describe(version)} is not known, use {API_VERSIONS[0]}")
    if top.required("kind"):
        kind = top.string("kind")
        if kind is not None and kind != "Meshlet":
            top.problem("kind", f"must be Meshlet, not {describe(kind)}")
    ref = read_metadata(top)
    spec = top.fields("spec") if top.required("spec") else None
    if spec is None:
        return None
    spec.only({"client", "server"}, hints={"canary": "move it below spec.server", "services": "move it below spec.server"})
    clients = _clients(spec)
    server = spec.fields("server")
    selector, services, canary = _server(server) if server is not None else (None, (), None)
    if ref is None:
        return None
    return Meshlet(MeshletRef(*ref), clients, selector, services, canary)


def read_metadata(top: Fields) -> tuple[str, str] | None:
    """Namespace and name of an object; labels and annotations are checked on the way. None if they cannot be told."""
    metadata = top.fields("metadata") if top.required("metadata") else None
    if metadata is None:
        return None
    metadata.only(_METADATA)
    name = metadata.label("name") if metadata.required("name") else None
    namespace = metadata.label("namespace") if "namespace" in metadata else DEFAULT_NAMESPACE
    read_string_map(metadata, "labels", labels=True)
    read_string_map(metadata, "annotations", labels=False)
    return None if name is None or namespace is None else (namespace, name)


def read_string_map(parent: Fields, key: str, *, labels: bool) -> dict[str, str] | None:
    """A mapping of strings to strings; with `labels`, keys and values must be what Kubernetes allows for labels."""
    fields = parent.fields(key)
    if fields is None:
        return None
    found: dict[str, str] = {}
    for name in fields:
        value = fields.string(name)
        if value is None:
            continue
        if labels and not is_label_key(name):
            fields.problem(name, "is not a label key: use [<dns name>/]<name>, the name 1 to 63 of A-Z a-z 0-9 '.' '_' '-'")
        elif labels and not is_label_value(value):
            fields.problem(name, f"{describe(value)} is not a label value: use up to 63 of A-Z a-z 0-9 '.' '_' '-'")
        else:
            found[name] = value
    return found


def _clients(spec: Fields) -> tuple[ServiceId, ...]:
    uses: list[tuple[Fields, ServiceId]] = []
    for entry in spec.items("client") or ():
        parts = _dns_labels(entry, ("namespace", "meshlet", "service"))
        if parts is not None:
            uses.append((entry, ServiceId(parts["service"], parts["meshlet"], parts["namespace"])))
    return _distinct(uses, None, "service")


def _dns_labels(entry: Fields, keys: tuple[str, ...]) -> dict[str, str] | None:
    """The fields `keys` of an entry, all of them required DNS labels; None if one is not."""
    entry.only(keys)
    found = {key: entry.label(key) for key in keys if entry.required(key)}
    whole = {key: value for key, value in found.items() if value is not None}
    return whole if len(whole) == len(keys) else None


def _distinct(entries: Iterable[tuple[Fields, _Named]], key: str | None, what: str) -> tuple[_Named, ...]:
    """The entries without those whose name came before; those are noted at their field `key`."""
    first: dict[str, tuple[Fields, _Named]] = {}
    for entry, item in entries:
        name = _name(item)
        if name in first:
            entry.problem(key, f"duplicate {what} {name!r}, first at {format_path(first[name][0].path)}: keep one")
        else:
            first[name] = (entry, item)
    return tuple(item for _, item in first.values())


def _name(item: ServiceId | MeshletRef | Service | CanaryWeight) -> str:
    match item:
        case Service():
            return item.name
        case CanaryWeight():
            return item.version
        case _:
            return str(item)


def _server(server: Fields) -> tuple[dict[str, str] | None, tuple[Service, ...], tuple[CanaryWeight, ...] | None]:
    server.only({"selector", "services", "canary"})
    selector = read_string_map(server, "selector", labels=True)
    if server.is_empty("selector"):
        server.problem("selector", "is empty and would select every pod: name at least one label or remove it")
    entries = server.items("services") if server.required("services") else None
    if server.is_empty("services"):
        server.problem("services", "has no entry: name a service or remove spec.server")
    services = [(entry, service) for entry in entries or () if (service := _service(entry)) is not None]
    return selector, _distinct(services, "name", "service"), _canary(server)


def _service(entry: Fields) -> Service | None:
    entry.only({"name", "maxConn", "idleTimeout", "allow", "proxyProtocol", "handOff"})
    name = entry.label("name") if entry.required("name") else None
    max_conn = entry.integer("maxConn", least=1)
    idle_timeout = _idle_timeout(entry)
    allow = _allow(entry)
    proxy_protocol = entry.string("proxyProtocol")
    if proxy_protocol not in (None, "v2"):
        entry.problem("proxyProtocol", f"{describe(proxy_protocol)} is not supported: use v2 or remove it")
    hand_off = entry.boolean("handOff")
    return None if name is None else Service(name, max_conn, idle_timeout, allow, proxy_protocol, hand_off is not False)


def _idle_timeout(entry: Fields) -> int | None:
    """Nanoseconds; zero means no limit, as it does for timeouts in Go. An unquoted `0` is the same as `"0"`."""
    if entry.is_zero("idleTimeout"):
        return None
    raw = entry.raw("idleTimeout")
    if isinstance(raw, int | float) and not isinstance(raw, bool):
        entry.problem("idleTimeout", f"{describe(raw)} has no unit: write for example {raw}s or {raw}m")
        return None
    text = entry.string("idleTimeout")
    if text is None:
        return None
    try:
        duration = parse_duration(text)
    except InvalidDurationError as error:
        entry.problem("idleTimeout", str(error))
        return None
    if duration < 0:
        entry.problem("idleTimeout", f"idleTimeout must not be negative, {describe(text)} is: remove it for no limit")
        return None
    return duration or None


def _allow(entry: Fields) -> tuple[MeshletRef, ...] | None:
    listed = entry.items("allow")
    if listed is None:
        return None
    refs: list[tuple[Fields, MeshletRef]] = []
    for item in listed:
        parts = _dns_labels(item, ("namespace", "meshlet"))
        if parts is not None:
            refs.append((item, MeshletRef(parts["namespace"], parts["meshlet"])))
    return _distinct(refs, None, "meshlet")


def _canary(server: Fields) -> tuple[CanaryWeight, ...] | None:
    entries = server.items("canary")
    if entries is None:
        return None
    if server.is_empty("canary"):
        server.problem("canary", "has no entry: name a version and its weight, or remove it for equal shares of all pods")
    weights: list[tuple[Fields, CanaryWeight]] = []
    for entry in entries:
        entry.only({"version", "weight"})
        version = entry.string("version") if entry.required("version") else None
        if version is not None and (not version or not is_label_value(version)):
            entry.problem("version", f"{describe(version)} is not a label value: use 1 to 63 of A-Z a-z 0-9 '.' '_' '-'")
            version = None
        weight = entry.integer("weight", least=0) if entry.required("weight") else None
        if version is not None and weight is not None:
            weights.append((entry, CanaryWeight(version, weight)))
    if entries and len(weights) == len(entries) and not any(line.weight for _, line in weights):
        server.problem("canary", "every weight is 0, so no version would get connections: give one a weight above 0")
    return _distinct(weights, "version", "version")
