"""Documents as bytes: canonical JSON in an envelope `{topic, epoch, generation, digest, kind, body}`.

Why by hand and not by a converter: the agent decodes bytes it does not trust, so every field is read by a reader that accepts
exactly one form. Unknown fields are refused, not skipped: a field an old agent does not know may be one that forbids something.
`decode_document` returns a `Document` or raises `DocumentError`, nothing else, whatever the bytes. This module does no I/O.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from typing import Any, Final, NoReturn, TypeVar

from meshless_core.documents import (
    Document,
    MeshletDocument,
    NodeManifest,
    PodPlacement,
    ServiceDocument,
    TopicState,
    VersionWeight,
    manifest_topic,
    meshlet_topic,
    service_topic,
)
from meshless_core.errors import DocumentError, InvalidNameError
from meshless_core.types import Endpoint, MeshletRef, PodRef, ServiceId, is_dns_label

__all__ = [
    "MAX_DOCUMENT_BYTES",
    "TARGET_DOCUMENT_BYTES",
    "body_digest",
    "check_topic",
    "decode_document",
    "encode_document",
    "make_document",
    "topic_of",
]

TARGET_DOCUMENT_BYTES: Final = 256 * 1024
"""What a document should stay under; the reconciler warns above it (brokers' default limits start at 1 MB)."""

MAX_DOCUMENT_BYTES: Final = 1024 * 1024
"""Hard cap: nothing larger is written, read or parsed."""

_MAX_INT: Final = 2**53 - 1  # what every JSON implementation keeps exactly
_MAX_DURATION_NS: Final = 2**63 - 1  # Go's time.Duration
_MAX_TOPIC_BYTES: Final = 512
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}", re.ASCII)
_LABEL_VALUE = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?", re.ASCII)
_UID = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9_.:-]{0,126}[A-Za-z0-9])?", re.ASCII)
_ADDRESS = re.compile(r"(?:\[[0-9a-fA-F:.%]{2,64}\]|[A-Za-z0-9_.-]{1,253}):([0-9]{1,5})", re.ASCII)

Body = MeshletDocument | ServiceDocument | NodeManifest
_T = TypeVar("_T")


def check_topic(topic: str) -> str:
    """Return `topic` if it is one: DNS labels joined by "/", at most 512 bytes.

    Raises:
        InvalidNameError: it is not; such a text never becomes a path or a broker's filter.
    """
    if len(topic) > _MAX_TOPIC_BYTES or not all(map(is_dns_label, topic.split("/"))):
        raise InvalidNameError(f"{topic[:256]!r} is not a topic: join DNS labels with '/'")
    return topic


def topic_of(body: Body) -> str:
    """The one topic a body may be published under."""
    match body:
        case MeshletDocument():
            return meshlet_topic(body.ref)
        case ServiceDocument():
            return service_topic(body.service)
        case NodeManifest():
            return manifest_topic(body.node)


def body_digest(body: Body) -> str:
    """`sha256:<hex>` over the canonical JSON of the body (keys sorted, no blanks, ASCII)."""
    return _digest(_canonical(_WRITERS[type(body)][1](body)))


def make_document(body: Body, *, epoch: int, generation: int) -> Document:
    """Put a body into its envelope: topic and digest follow from the body."""
    return Document(topic_of(body), epoch, generation, body_digest(body), body)


def encode_document(document: Document) -> bytes:
    """Write a document.

    Raises:
        DocumentError: the envelope does not fit its body (topic, digest), a field is out of range, or the result is larger than
            `MAX_DOCUMENT_BYTES`.
    """
    kind, write = _WRITERS[type(document.body)]
    body = _canonical(write(document.body))
    payload = _canonical(
        {
            "topic": document.topic,
            "epoch": document.epoch,
            "generation": document.generation,
            "digest": document.digest,
            "kind": kind,
        }
    )
    payload = payload[:-1] + b',"body":' + body + b"}"
    # Reading it back costs microseconds and makes "what we publish, every agent can read" a fact, not a hope.
    decode_document(document.topic, payload)
    return payload


def decode_document(topic: str, payload: bytes) -> Document:
    """Read and verify the document of a topic.

    Args:
        topic: the topic the bytes came under; the envelope and the body have to name the same.
        payload: bytes as they came from the bus or the disk.

    Raises:
        DocumentError: not JSON, larger than `MAX_DOCUMENT_BYTES`, another topic, a digest that does not fit, an unknown kind or
            field, a missing field, or a value of the wrong type or form. The message names topic and field.
    """
    try:
        return _decode(topic, payload)
    except _FieldError as error:
        raise DocumentError(f"document {topic[:256]!r}: {error}; the reconciler has to publish it again") from error


def _decode(topic: str, payload: bytes) -> Document:
    if len(payload) > MAX_DOCUMENT_BYTES:
        _fail("$", f"has {len(payload)} bytes, more than {MAX_DOCUMENT_BYTES}")
    try:
        raw = json.loads(payload.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_no_constant, parse_float=_no_float)
    except (ValueError, RecursionError) as error:
        _fail("$", f"is not JSON ({str(error)[:256]})")
    fields = _object("$", raw, ("topic", "epoch", "generation", "digest", "kind", "body"))
    if fields["topic"] != topic:
        _fail("$.topic", f"names another topic: {str(fields['topic'])[:256]!r}")
    epoch = _integer("$.epoch", fields["epoch"], 0, _MAX_INT)
    generation = _integer("$.generation", fields["generation"], 0, _MAX_INT)
    digest = _pattern("$.digest", fields["digest"], _DIGEST, "sha256:<64 hex digits>")
    kind = fields["kind"]
    read = _READERS.get(kind) if isinstance(kind, str) else None
    if read is None:
        _fail("$.kind", f"is not a kind this version knows: {str(kind)[:256]!r}")
    actual = _digest(_canonical(fields["body"]))
    if actual != digest:
        _fail("$.digest", f"does not fit the body, which has {actual}")
    body = read("$.body", fields["body"])
    if topic_of(body) != topic:
        _fail("$.body", f"belongs under topic {topic_of(body)!r}")
    return Document(topic, epoch, generation, digest, body)


def _canonical(value: object) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False).encode("ascii")


def _digest(canonical: bytes) -> str:
    return f"sha256:{hashlib.sha256(canonical).hexdigest()}"


# --- writing: one function per kind, plain JSON values only ----------------------------------------------------------


def _ref(ref: MeshletRef | PodRef) -> dict[str, Any]:
    return {"namespace": ref.namespace, "name": ref.name}


def _write_meshlet(body: MeshletDocument) -> dict[str, Any]:
    return {"ref": _ref(body.ref), "uses": [str(use) for use in body.uses], "provides": list(body.provides)}


def _write_service(body: ServiceDocument) -> dict[str, Any]:
    return {
        "service": str(body.service),
        "declaredBy": [_ref(ref) for ref in body.declared_by],
        "allow": None if body.allow is None else [_ref(ref) for ref in body.allow],
        "maxConn": body.max_conn,
        "idleTimeoutNs": body.idle_timeout_ns,
        "proxyProtocol": body.proxy_protocol,
        "handOff": body.hand_off,
        "canary": None if body.canary is None else [{"version": line.version, "weight": line.weight} for line in body.canary],
        "endpoints": [
            {
                "pod": _ref(endpoint.pod),
                "uid": endpoint.uid,
                "node": endpoint.node,
                "address": endpoint.address,
                "version": endpoint.version,
                "ready": endpoint.ready,
            }
            for endpoint in body.endpoints
        ],
    }


def _write_manifest(body: NodeManifest) -> dict[str, Any]:
    return {
        "node": body.node,
        "pods": [
            {
                "pod": _ref(placement.pod),
                "uid": placement.uid,
                "meshlet": None if placement.meshlet is None else _ref(placement.meshlet),
                "version": placement.version,
            }
            for placement in body.pods
        ],
        "topics": {topic: {"generation": state.generation, "digest": state.digest} for topic, state in body.topics.items()},
    }


# --- reading: each reader takes (path, value) and accepts exactly one form -------------------------------------------


class _FieldError(Exception):
    """A field is not what it has to be; becomes a DocumentError that names the topic."""


def _fail(path: str, message: str) -> NoReturn:
    raise _FieldError(f"{path} {message}")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise ValueError("an object has the same key twice")
    return fields


def _no_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is not a JSON value")


def _no_float(text: str) -> NoReturn:
    raise ValueError(f"no field is a fraction, but {text[:32]} is one")


def _object(path: str, value: object, keys: tuple[str, ...]) -> dict[str, Any]:
    if not isinstance(value, dict):
        _fail(path, "is not an object")
    if missing := [key for key in keys if key not in value]:
        _fail(path, f"lacks {', '.join(missing)}")
    if len(value) != len(keys):
        unknown = sorted(str(key)[:64] for key in value if key not in keys)
        _fail(path, f"has fields this version does not know: {', '.join(unknown)[:256]}")
    return value


def _list(path: str, value: object, read: Callable[[str, object], _T]) -> tuple[_T, ...]:
    if not isinstance(value, list):
        _fail(path, "is not a list")
    return tuple(read(f"{path}[{index}]", item) for index, item in enumerate(value))


def _optional(path: str, value: object, read: Callable[[str, object], _T]) -> _T | None:
    return None if value is None else read(path, value)


def _integer(path: str, value: object, low: int, high: int) -> int:
    if type(value) is not int or not low <= value <= high:
        _fail(path, f"is not an integer of {low} to {high}: {str(value)[:64]}")
    return value


def _boolean(path: str, value: object) -> bool:
    if not isinstance(value, bool):
        _fail(path, "is neither true nor false")
    return value


def _pattern(path: str, value: object, pattern: re.Pattern[str], form: str) -> str:
    if not isinstance(value, str) or pattern.fullmatch(value) is None:
        _fail(path, f"is not {form}: {str(value)[:256]!r}")
    return value


def _label(path: str, value: object) -> str:
    if not isinstance(value, str) or not is_dns_label(value):
        _fail(path, f"is not a DNS label: {str(value)[:256]!r}")
    return value


def _subdomain(path: str, value: object) -> str:
    if not isinstance(value, str) or len(value) > 253 or not all(map(is_dns_label, value.split("."))):
        _fail(path, f"is not a DNS subdomain: {str(value)[:256]!r}")
    return value


def _version(path: str, value: object) -> str:
    return _pattern(path, value, _LABEL_VALUE, "a label value")


def _uid(path: str, value: object) -> str:
    return _pattern(path, value, _UID, "a uid")


def _address(path: str, value: object) -> str:
    text = _pattern(path, value, _ADDRESS, "host:port")
    if not 0 < int(text.rpartition(":")[2]) < 65536:
        _fail(path, f"has no port of 1 to 65535: {text[:256]!r}")
    return text


def _service_id(path: str, value: object) -> ServiceId:
    if not isinstance(value, str):
        _fail(path, "is not a service id")
    try:
        return ServiceId.parse(value)
    except InvalidNameError as error:
        raise _FieldError(f"{path}: {error}") from error


def _meshlet_ref(path: str, value: object) -> MeshletRef:
    fields = _object(path, value, ("namespace", "name"))
    return MeshletRef(_label(f"{path}.namespace", fields["namespace"]), _label(f"{path}.name", fields["name"]))


def _pod_ref(path: str, value: object) -> PodRef:
    fields = _object(path, value, ("namespace", "name"))
    return PodRef(_label(f"{path}.namespace", fields["namespace"]), _subdomain(f"{path}.name", fields["name"]))


def _version_weight(path: str, value: object) -> VersionWeight:
    fields = _object(path, value, ("version", "weight"))
    return VersionWeight(
        _version(f"{path}.version", fields["version"]), _integer(f"{path}.weight", fields["weight"], 0, _MAX_INT)
    )


def _endpoint(path: str, value: object) -> Endpoint:
    fields = _object(path, value, ("pod", "uid", "node", "address", "version", "ready"))
    return Endpoint(
        pod=_pod_ref(f"{path}.pod", fields["pod"]),
        uid=_uid(f"{path}.uid", fields["uid"]),
        node=_label(f"{path}.node", fields["node"]),
        address=_address(f"{path}.address", fields["address"]),
        version=_optional(f"{path}.version", fields["version"], _version),
        ready=_boolean(f"{path}.ready", fields["ready"]),
    )


def _placement(path: str, value: object) -> PodPlacement:
    fields = _object(path, value, ("pod", "uid", "meshlet", "version"))
    return PodPlacement(
        pod=_pod_ref(f"{path}.pod", fields["pod"]),
        uid=_uid(f"{path}.uid", fields["uid"]),
        meshlet=_optional(f"{path}.meshlet", fields["meshlet"], _meshlet_ref),
        version=_optional(f"{path}.version", fields["version"], _version),
    )


def _topic_states(path: str, value: object) -> Mapping[str, TopicState]:
    if not isinstance(value, dict):
        _fail(path, "is not an object")
    states = {}
    for topic, raw in value.items():
        where = f"{path}[{topic[:256]!r}]"
        try:
            check_topic(topic)
        except InvalidNameError as error:
            raise _FieldError(f"{where}: {error}") from error
        fields = _object(where, raw, ("generation", "digest"))
        states[topic] = TopicState(
            _integer(f"{where}.generation", fields["generation"], 0, _MAX_INT),
            _pattern(f"{where}.digest", fields["digest"], _DIGEST, "sha256:<64 hex digits>"),
        )
    return states


def _read_meshlet(path: str, value: object) -> MeshletDocument:
    fields = _object(path, value, ("ref", "uses", "provides"))
    return MeshletDocument(
        ref=_meshlet_ref(f"{path}.ref", fields["ref"]),
        uses=_list(f"{path}.uses", fields["uses"], _service_id),
        provides=_list(f"{path}.provides", fields["provides"], _label),
    )


def _read_service(path: str, value: object) -> ServiceDocument:
    fields = _object(
        path,
        value,
        ("service", "declaredBy", "allow", "maxConn", "idleTimeoutNs", "proxyProtocol", "handOff", "canary", "endpoints"),
    )
    if fields["proxyProtocol"] not in (None, "v2"):
        _fail(f"{path}.proxyProtocol", f"is neither null nor v2: {str(fields['proxyProtocol'])[:64]!r}")
    if not isinstance(fields["handOff"], bool):
        _fail(f"{path}.handOff", f"is neither true nor false: {str(fields['handOff'])[:64]!r}")
    return ServiceDocument(
        service=_service_id(f"{path}.service", fields["service"]),
        declared_by=_list(f"{path}.declaredBy", fields["declaredBy"], _meshlet_ref),
        allow=_optional(f"{path}.allow", fields["allow"], lambda at, item: _list(at, item, _meshlet_ref)),
        max_conn=_optional(f"{path}.maxConn", fields["maxConn"], lambda at, item: _integer(at, item, 1, _MAX_INT)),
        idle_timeout_ns=_optional(
            f"{path}.idleTimeoutNs", fields["idleTimeoutNs"], lambda at, item: _integer(at, item, 0, _MAX_DURATION_NS)
        ),
        proxy_protocol=fields["proxyProtocol"],
        hand_off=fields["handOff"],
        canary=_optional(f"{path}.canary", fields["canary"], lambda at, item: _list(at, item, _version_weight)),
        endpoints=_list(f"{path}.endpoints", fields["endpoints"], _endpoint),
    )


def _read_manifest(path: str, value: object) -> NodeManifest:
    fields = _object(path, value, ("node", "pods", "topics"))
    return NodeManifest(
        node=_label(f"{path}.node", fields["node"]),
        pods=_list(f"{path}.pods", fields["pods"], _placement),
        topics=_topic_states(f"{path}.topics", fields["topics"]),
    )


_WRITERS: Final[Mapping[type[Any], tuple[str, Callable[[Any], dict[str, Any]]]]] = {
    MeshletDocument: ("MeshletDocument", _write_meshlet),
    ServiceDocument: ("ServiceDocument", _write_service),
    NodeManifest: ("NodeManifest", _write_manifest),
}
_READERS: Final[Mapping[str, Callable[[str, object], Body]]] = {
    "MeshletDocument": _read_meshlet,
    "ServiceDocument": _read_service,
    "NodeManifest": _read_manifest,
}
