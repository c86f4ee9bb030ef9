"""The vocabulary of Meshless: small frozen values that every other module speaks in.

This module must not do I/O, read a clock, or import anything of ours but `errors`.
"""

from __future__ import annotations

import enum
import re
from functools import cached_property, lru_cache
from typing import Final
from urllib.parse import urlsplit

import attrs

from meshless_core.errors import InvalidNameError

__all__ = [
    "MAX_SERVICE_ID_BYTES",
    "AuthorizationRequest",
    "Decision",
    "Endpoint",
    "Identity",
    "MeshletRef",
    "PodRef",
    "ReplyCode",
    "ServiceId",
    "Verdict",
    "VersionShare",
    "is_dns_label",
]

MAX_SERVICE_ID_BYTES: Final = 255
_DNS_LABEL = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?", re.ASCII)


def is_dns_label(text: str) -> bool:
    """Whether `text` is a DNS label as Kubernetes means it (RFC 1123: 1 to 63 of a-z, 0-9, '-', no '-' at the ends)."""
    return _DNS_LABEL.fullmatch(text) is not None


class ReplyCode(enum.IntEnum):
    """The verdict byte of the client handshake (product contract, section 4). Values are wire format: never renumber."""

    OK = 0
    UNSUPPORTED_VERSION = 1
    MALFORMED_REQUEST = 2
    SERVICE_NOT_FOUND = 3
    ACCESS_DENIED = 4
    NO_ENDPOINT = 5
    CONNECTION_LIMIT = 6
    TUNNEL_FAILED = 7
    SERVICE_REFUSED = 8
    TIMEOUT = 9
    DRAINING = 10
    OVERLOADED = 11
    NOT_READY = 12
    UNKNOWN_CLIENT = 13
    INTERNAL_ERROR = 255

    @property
    def retryable(self) -> bool:
        """Whether a client may try the same request again without anything being fixed first."""
        return self not in _FINAL

    @property
    def meaning(self) -> str:
        """What happened, for people."""
        return _MEANINGS[self][0]

    @property
    def advice(self) -> str:
        """What the client may do about it, for people."""
        return _MEANINGS[self][1]


_MEANINGS: Final = {
    ReplyCode.OK: ("valid, exists, allowed, tunnel established", "talk"),
    ReplyCode.UNSUPPORTED_VERSION: ("the first byte is no version the agent has a handshake for", "fix the client"),
    ReplyCode.MALFORMED_REQUEST: ("size 0, not ASCII, or not <service>.<meshlet>.<namespace>", "fix the request"),
    ReplyCode.SERVICE_NOT_FOUND: ("no such namespace, meshlet or service is known", "retry later"),
    ReplyCode.ACCESS_DENIED: ("a policy said no", "not retry"),
    ReplyCode.NO_ENDPOINT: ("the service exists, no ready pod provides it", "retry"),
    ReplyCode.CONNECTION_LIMIT: ("maxConn is reached on every eligible pod", "retry"),
    ReplyCode.TUNNEL_FAILED: ("the remote agent is unreachable or not authentic", "retry"),
    ReplyCode.SERVICE_REFUSED: ("the pod is there, its socket is missing or refuses", "retry"),
    ReplyCode.TIMEOUT: ("not established within the deadline", "retry"),
    ReplyCode.DRAINING: ("this agent is shutting down", "retry at once: another agent takes over the socket"),
    ReplyCode.OVERLOADED: ("the agent is at a limit of its own", "retry with backoff"),
    ReplyCode.NOT_READY: ("the agent has no usable configuration yet", "retry"),
    ReplyCode.UNKNOWN_CLIENT: ("this socket belongs to no meshlet", "not retry"),
    ReplyCode.INTERNAL_ERROR: ("a bug or a failing plugin; logged with the connection id", "retry"),
}

_FINAL: Final = frozenset(
    {
        ReplyCode.OK,
        ReplyCode.UNSUPPORTED_VERSION,
        ReplyCode.MALFORMED_REQUEST,
        ReplyCode.ACCESS_DENIED,
        ReplyCode.UNKNOWN_CLIENT,
    }
)


@attrs.frozen(order=True, cache_hash=True)
class MeshletRef:
    """Names a meshlet: a client of services, a server of services, or both."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


@attrs.frozen(order=True, cache_hash=True)
class PodRef:
    """Names a pod."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


@attrs.frozen(order=True, cache_hash=True)
class ServiceId:
    """`<service>.<meshlet>.<namespace>`: what a client dials."""

    service: str
    meshlet: str
    namespace: str

    def __str__(self) -> str:
        return f"{self.service}.{self.meshlet}.{self.namespace}"

    @cached_property
    def owner(self) -> MeshletRef:
        """The meshlet that provides the service."""
        return MeshletRef(self.namespace, self.meshlet)

    @classmethod
    def parse(cls, text: str) -> ServiceId:
        """Parse a service id. The last few thousand are remembered: every connection of a client asks for the same ones.

        Raises:
            InvalidNameError: not three DNS labels joined by dots, or longer than 255 bytes.
        """
        return _parse_service_id(text)


@lru_cache(maxsize=4096)
def _parse_service_id(text: str) -> ServiceId:
    parts = text.split(".")
    if len(text) > MAX_SERVICE_ID_BYTES or len(parts) != 3 or not all(map(is_dns_label, parts)):
        raise InvalidNameError(f"{text[:256]!r} is not a service id: write <service>.<meshlet>.<namespace>, each a DNS label")
    return ServiceId(*parts)


@attrs.frozen(order=True)
class Identity:
    """What a certificate proves: a meshlet within a trust domain, as a SPIFFE ID."""

    trust_domain: str
    namespace: str
    meshlet: str

    @property
    def uri(self) -> str:
        """`spiffe://<trust-domain>/ns/<namespace>/meshlet/<name>`."""
        return f"spiffe://{self.trust_domain}/ns/{self.namespace}/meshlet/{self.meshlet}"

    @property
    def ref(self) -> MeshletRef:
        """The meshlet this identity stands for."""
        return MeshletRef(self.namespace, self.meshlet)

    def __str__(self) -> str:
        return self.uri

    @classmethod
    def parse(cls, uri: str) -> Identity:
        """Parse a SPIFFE ID of the form this mesh issues.

        Raises:
            InvalidNameError: another scheme, another path shape, a port, user, query or fragment, or not DNS labels.
        """
        try:
            parts = urlsplit(uri)
        except ValueError:
            parts = urlsplit("")
        steps = parts.path.split("/")
        if (
            parts.scheme != "spiffe"
            or not parts.netloc
            or not all(is_dns_label(label) for label in parts.netloc.split("."))
            or parts.query
            or parts.fragment
            or len(steps) != 5
            or (steps[0], steps[1], steps[3]) != ("", "ns", "meshlet")
            or not (is_dns_label(steps[2]) and is_dns_label(steps[4]))
            or uri != f"spiffe://{parts.netloc}{parts.path}"
        ):
            raise InvalidNameError(
                f"{uri[:256]!r} is not an identity: expected spiffe://<trust-domain>/ns/<namespace>/meshlet/<name>"
            )
        return cls(parts.netloc, steps[2], steps[4])


@attrs.frozen(cache_hash=True)
class Endpoint:
    """One pod that can serve a service.

    Attributes:
        pod: the pod.
        uid: the pod's uid; a recreated pod of the same name has another.
        node: name of the node the pod runs on.
        address: `host:port` of that node's agent for tunnels.
        version: value of the pod's `version` label, None without one.
        ready: whether it may receive new connections.
    """

    pod: PodRef
    uid: str
    node: str
    address: str
    version: str | None
    ready: bool

    @cached_property
    def key(self) -> tuple[str, str, str]:
        """The pod's namespace, name and uid: what stays when address, version or readiness change."""
        return self.pod.namespace, self.pod.name, self.uid


class Verdict(enum.Enum):
    """An authorizer's answer."""

    ALLOW = "allow"
    DENY = "deny"
    ABSTAIN = "abstain"


@attrs.frozen
class Decision:
    """A decision with its provenance; a value, never an exception.

    Attributes:
        verdict: the answer.
        policy: name of the plugin and, where there is one, of the rule (`policy_declared/allow-list`).
        reason: for people: why, naming the objects.
    """

    verdict: Verdict
    policy: str
    reason: str


@attrs.frozen
class AuthorizationRequest:
    """What an authorizer is asked, on the client's agent for a quick no and on the server's agent with authority.

    Attributes:
        source: the meshlet that wants to connect; proven by the listener (client side) or the leaf (server side).
        source_pod: the pod behind it where known. On the server side it is told by the client's agent: for logs only.
        target: the service it wants.
        exists: whether the service is known to this agent.
        declared: whether the source's Meshlet lists the target under `spec.client`.
        consent: True/False if the service has an `allow` list and the source is on it or not; None without a list.
        side: "client" or "server".
    """

    source: MeshletRef
    source_pod: PodRef | None
    target: ServiceId
    exists: bool
    declared: bool
    consent: bool | None
    side: str


@attrs.frozen
class VersionShare:
    """A candidate of the canary selection.

    Attributes:
        version: the version's name; None stands for pods without a `version` label, or for all ready pods together where no
            strategy is declared.
        weight: declared integer weight >= 0; 1 for every version if no strategy is declared.
        ready: number of endpoints of this version that can be used now; a share with 0 is never offered.
    """

    version: str | None
    weight: int
    ready: int
