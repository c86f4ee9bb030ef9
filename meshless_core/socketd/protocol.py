"""Messages between socketd and an agent, sans-IO.

One message is one packet of a SOCK_SEQPACKET Unix socket, so descriptors (SCM_RIGHTS) always belong to the message they
came with. The order is that of Istio's ZDS: after `hello` the whole state is sent as `pod` messages, then `snapshot`; the
agent drops what was not resent; after that `pod` and `removed` are changes. Every message is acknowledged, so socketd
knows what is served.

| message    | from    | descriptors             | fields |
|------------|---------|-------------------------|--------|
| `hello`    | agent   | -                       | version, node |
| `pod`      | socketd | listener, server folder | namespace, name, uid, meshlet, pod_version |
| `snapshot` | socketd | -                       | - |
| `removed`  | socketd | -                       | uid |
| `ack`      | agent   | -                       | uid ("" for snapshot) |
"""

from __future__ import annotations

import json
from typing import Final

import attrs

from meshless_core.documents import PodPlacement
from meshless_core.errors import SocketDirectoryError
from meshless_core.types import MeshletRef, PodRef, is_dns_label

__all__ = ["MAX_MESSAGE_BYTES", "PROTOCOL_VERSION", "Ack", "Hello", "Message", "PodAdded", "PodRemoved", "SnapshotSent"]

PROTOCOL_VERSION: Final = 1
MAX_MESSAGE_BYTES: Final = 4096


@attrs.frozen
class Hello:
    """First message of an agent."""

    version: int
    node: str


@attrs.frozen
class PodAdded:
    """A pod with its listener and the descriptor (O_PATH) of its server folder."""

    placement: PodPlacement


@attrs.frozen
class SnapshotSent:
    """The state is complete: whatever was not sent since `hello` is gone."""


@attrs.frozen
class PodRemoved:
    """A pod is gone; its listener has to be closed."""

    uid: str


@attrs.frozen
class Ack:
    """The agent has taken over a pod, dropped it, or (empty uid) the snapshot."""

    uid: str


Message = Hello | PodAdded | SnapshotSent | PodRemoved | Ack


def encode(message: Message) -> bytes:
    """Bytes of one packet."""
    match message:
        case Hello():
            fields: dict[str, object] = {"type": "hello", "version": message.version, "node": message.node}
        case PodAdded(placement):
            fields = {
                "type": "pod",
                "namespace": placement.pod.namespace,
                "name": placement.pod.name,
                "uid": placement.uid,
                "meshlet": placement.meshlet.name if placement.meshlet else None,
                "pod_version": placement.version,
            }
        case SnapshotSent():
            fields = {"type": "snapshot"}
        case PodRemoved(uid):
            fields = {"type": "removed", "uid": uid}
        case Ack(uid):
            fields = {"type": "ack", "uid": uid}
    return json.dumps(fields, separators=(",", ":")).encode()


def decode(packet: bytes) -> Message:
    """The message in one packet.

    Raises:
        SocketDirectoryError: not a message of this protocol.
    """
    try:
        fields = json.loads(packet)
    except ValueError as error:
        raise SocketDirectoryError(f"socketd protocol: not JSON: {packet[:256]!r}") from error
    if not isinstance(fields, dict):
        raise SocketDirectoryError(f"socketd protocol: not an object: {packet[:256]!r}")

    def text(key: str) -> str:
        value = fields.get(key)
        if not isinstance(value, str) or len(value) > 256:
            raise SocketDirectoryError(f"socketd protocol: {key!r} has to be a short string in {packet[:256]!r}")
        return value

    def label(key: str) -> str:
        value = text(key)
        # pod names may hold dots (DNS subdomain); no segment may lead out of a folder
        if not all(is_dns_label(part) for part in value.split(".")):
            raise SocketDirectoryError(f"socketd protocol: {key!r} is not a Kubernetes name: {value[:256]!r}")
        return value

    match fields.get("type"):
        case "hello":
            version = fields.get("version")
            if type(version) is not int:
                raise SocketDirectoryError("socketd protocol: hello without an integer version")
            return Hello(version, label("node"))
        case "pod":
            namespace = label("namespace")
            meshlet = MeshletRef(namespace, label("meshlet")) if fields.get("meshlet") is not None else None
            version_text = text("pod_version") if fields.get("pod_version") is not None else None
            return PodAdded(PodPlacement(PodRef(namespace, label("name")), text("uid"), meshlet, version_text))
        case "snapshot":
            return SnapshotSent()
        case "removed":
            return PodRemoved(text("uid"))
        case "ack":
            return Ack(text("uid"))
        case other:
            raise SocketDirectoryError(f"socketd protocol: unknown message type {str(other)[:256]!r}")
