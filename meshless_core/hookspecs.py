"""ALL extension points of Meshless, one file.

A hook is a *synchronous registration*: it is called once per process, when the configuration names the plugin, and returns a
spec: a name for the plugin's options class and a factory. The work happens on the objects the factory makes; they satisfy the
small Protocols below, so no connection ever passes through pluggy's call loop.

Life of a plugin: hook -> `spec.create(options)` (pure: no I/O, no threads) -> `await start()` -> use -> `await stop()`.
`stop()` is called also after a `start()` that failed half-way, and must cope. `start` and `stop` are optional.

A plugin reads its settings from its options class only: never from the environment, never from files of its own.

Every hook returns one spec. To provide two kinds, implement two hooks in one module. A minimal plugin::

    import attrs
    from meshless_core import Authorizer, AuthorizerSpec, Decision, Verdict, hookimpl

    @attrs.frozen
    class Options:
        namespace: str = attrs.field(default="lab", metadata={"doc": "Namespace that is cut off. Default lab."})

    class Quarantine:
        def __init__(self, options: Options) -> None:
            self._namespace = options.namespace
        async def authorize(self, request):
            if request.source.namespace == self._namespace:
                return Decision(Verdict.DENY, "quarantine", f"namespace {self._namespace} is in quarantine")
            return Decision(Verdict.ABSTAIN, "quarantine", "not in quarantine")

    @hookimpl
    def meshless_register_authorizer() -> AuthorizerSpec:
        return AuthorizerSpec(api=1, options=Options, create=Quarantine)
"""

from __future__ import annotations

import socket
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from typing import Any, Final, Protocol, runtime_checkable

import attrs
import pluggy

from meshless_core.errors import Problem
from meshless_core.types import (
    AuthorizationRequest,
    Decision,
    Identity,
    ReplyCode,
    ServiceId,
    VersionShare,
)

__all__ = [
    "ENTRY_POINT_GROUP",
    "PLUGIN_API",
    "Authorizer",
    "AuthorizerSpec",
    "Bus",
    "BusSpec",
    "BusUpdate",
    "CanaryRequest",
    "CanarySelector",
    "CanarySelectorSpec",
    "Credentials",
    "CredentialsSource",
    "Discovery",
    "DiscoverySnapshot",
    "DiscoverySpec",
    "FilteringHandshake",
    "HandshakeProtocol",
    "HandshakeRequest",
    "HandshakeSpec",
    "InlineAuthorizer",
    "InteractiveHandshake",
    "LeaseHandshake",
    "PluginSpec",
    "ReplyDetails",
    "SecureStream",
    "Transport",
    "TransportSpec",
    "hookimpl",
    "hookspec",
]

PLUGIN_API: Final = 1
"""Version of the Python contract in this file. A plugin states the version it was written for in its spec."""

ENTRY_POINT_GROUP: Final = "meshless.plugins"

hookspec = pluggy.HookspecMarker("meshless")
hookimpl = pluggy.HookimplMarker("meshless")


@attrs.frozen(kw_only=True)
class PluginSpec:
    """What every registration hook returns.

    Attributes:
        api: the `PLUGIN_API` the plugin was written for: write the number, do not import the constant.
        options: a frozen attrs class; the core structures `plugins.<name>` of the configuration with it, strictly.
            Every field needs a default (a plugin named with `{}` must work) and `metadata={"doc": "unit, why"}`.
        create: pure factory: called with an instance of `options`, returns the object that does the work.
    """

    api: int
    options: type[Any]
    create: Callable[..., Any]


# --- discovery -------------------------------------------------------------------------------------------------------


@attrs.frozen
class DiscoverySnapshot:
    """One complete state of the world as a discovery plugin sees it.

    Attributes:
        objects: Kubernetes-style objects (`apiVersion`, `kind`, `metadata`, ...): kinds Meshlet and Pod, plain JSON values.
            Workloads (Deployment, ...) are expanded to Pods by the plugin. Never partly read: all or nothing.
        origin: per object, `file:line` or another hint for error messages; same order as `objects`.
        problems: why the source as it is now could not be read, if `objects` is the last good state before it; shown to people.
    """

    objects: Sequence[Mapping[str, Any]]
    origin: Sequence[str]
    problems: Sequence[Problem] = ()


class Discovery(Protocol):
    """Finds Meshlets and Pods. Used by the reconciler only."""

    def watch(self) -> AsyncIterator[DiscoverySnapshot]:
        """Yield a complete snapshot at once, then another after every change.

        Raises DiscoveryError only if no first snapshot can be made. Later read errors are logged and kept out: the last good
        snapshot stays, and is yielded again with `problems` so that people see why. Bursts of changes may be folded into one
        snapshot.
        """
        ...


@attrs.frozen(kw_only=True)
class DiscoverySpec(PluginSpec):
    """Registration of a discovery plugin."""

    create: Callable[..., Discovery]


# --- authorization ---------------------------------------------------------------------------------------------------


@runtime_checkable
class Authorizer(Protocol):
    """Answers whether a connection may be. Runs on a thread of its own, so even a blocking mistake stops no data."""

    async def authorize(self, request: AuthorizationRequest) -> Decision:
        """Answer Allow, Deny or Abstain.

        Deny wins over Allow, whoever says it; nobody answering is Deny. Raising, returning anything but a Decision, or taking
        longer than `agent.authorize_timeout` is Deny. Asked again for every live connection when documents change.
        """
        ...


@runtime_checkable
class InlineAuthorizer(Protocol):
    """An authorizer that only computes: asked on the connection path without a task switch. Prefer `Authorizer`."""

    def authorize_inline(self, request: AuthorizationRequest) -> Decision:
        """Like `Authorizer.authorize`, but MUST NOT block, do I/O or take more than microseconds."""
        ...


@attrs.frozen(kw_only=True)
class AuthorizerSpec(PluginSpec):
    """Registration of an authorizer."""

    create: Callable[..., Authorizer | InlineAuthorizer]


# --- canary selection ------------------------------------------------------------------------------------------------


@attrs.frozen
class CanaryRequest:
    """One choice of a version.

    Attributes:
        target: the service.
        shares: the versions that can be chosen now, each with ready >= 1 and weight >= 1; never empty.
        sticky_key: clients with the same key should get the same version while shares stay the same; None for no wish.
        version_pin: a version the client asks for; honour it if it is among `shares`; None for no wish.
    """

    target: ServiceId
    shares: Sequence[VersionShare]
    sticky_key: bytes | None = None
    version_pin: str | None = None


class CanarySelector(Protocol):
    """Chooses a version for each new connection."""

    def choose(self, request: CanaryRequest) -> str | None:
        """Return the `version` of one of `request.shares`.

        Called on the connection path: must not block. Raising, or returning a version not offered, refuses the connection
        with INTERNAL_ERROR. Shares that spilled (no ready pod, weight 0) are already left out.
        """
        ...


@attrs.frozen(kw_only=True)
class CanarySelectorSpec(PluginSpec):
    """Registration of a canary selector. Exactly one is active."""

    create: Callable[..., CanarySelector]


# --- tunnel transport ------------------------------------------------------------------------------------------------


class Credentials(Protocol):
    """A leaf with its key, and the trust bundle, of one moment. Never logged, never pickled."""

    @property
    def identity(self) -> Identity:
        """The identity the leaf proves."""
        ...

    @property
    def serial(self) -> str:
        """Changes whenever leaf, key or trust bundle changes: sessions of different serials are never shared."""
        ...

    @property
    def certificate_chain_path(self) -> str:
        """PEM file: the leaf first, then intermediates if there are any."""
        ...

    @property
    def private_key_path(self) -> str:
        """PEM file, mode 0600."""
        ...

    @property
    def trust_bundle_pem(self) -> str:
        """All roots that are trusted now, PEM, one after the other."""
        ...


class CredentialsSource(Protocol):
    """Gives the transport what it may present. An agent holds leaves for the meshlets of its own pods, no others."""

    @property
    def trust_domain(self) -> str:
        """The mesh's trust domain."""
        ...

    def get(self, identity: Identity) -> Credentials | None:
        """Current credentials for a local meshlet's identity, None if this agent holds none."""
        ...

    def expects(self, identity: Identity) -> bool:
        """Whether this agent is to hold credentials for `identity`.

        If it does not hold any yet they are on their way, as for a pod that was added a moment ago: a transport that is asked
        for them lets the peer wait for a while instead of refusing it.
        """
        ...


class SecureStream(Protocol):
    """An authenticated, encrypted, ordered byte stream between two agents, non-blocking.

    The calls follow `io.RawIOBase` on a non-blocking descriptor: None means "would block". One event loop uses a stream.
    """

    @property
    def peer(self) -> Identity:
        """Identity on the peer's *leaf*, verified before the stream was handed out."""
        ...

    @property
    def local(self) -> Identity:
        """Identity this side presented."""
        ...

    @property
    def serial(self) -> str:
        """`Credentials.serial` of what this side presented."""
        ...

    @property
    def expires(self) -> float:
        """Unix time, seconds, at which the peer's leaf expires: the stream is used for no new connection from then on."""
        ...

    def fileno(self) -> int:
        """Descriptor to wait on: readable when `readinto` may make progress, writable when `write` or `flush` may."""
        ...

    def readinto(self, buffer: memoryview) -> int | None:
        """Read decrypted bytes into `buffer`; 0 at the end of the stream, None if it would block.

        Raises:
            OSError: the peer reset the connection.
            TransportError: the stream is broken or the peer violated the protocol.
        """
        ...

    def pending(self) -> bool:
        """Whether `readinto` can make progress without the descriptor becoming readable again."""
        ...

    def write(self, data: bytes | bytearray | memoryview) -> int | None:
        """Take some of `data`; returns how many bytes were taken, None if none. Taken bytes may still need `flush`.

        Raises:
            OSError: the connection is gone.
            TransportError: the stream is broken.
        """
        ...

    def flush(self) -> bool:
        """Send what was taken; True when nothing is left. When False, wait for writable and call again."""
        ...

    def close(self) -> None:
        """Close at once; idempotent, never blocks, never raises."""
        ...


class Transport(Protocol):
    """Makes secure streams. Runs in the agent's event loop."""

    async def connect(self, address: str, *, source: Identity, target: Identity) -> SecureStream:
        """Connect to the agent at `address` (`host:port`) as `source`, insist that its leaf is `target`.

        The caller bounds it with a timeout and cancels it. The descriptor never leaks, cancelled or not.

        Raises:
            TransportError: with a low-cardinality reason; the peer's text is cut at 256 characters.
        """
        ...

    async def accept(self, connection: socket.socket) -> SecureStream:
        """Authenticate a connection another agent opened; owns and closes `connection` on any failure.

        The peer names the wanted target (for TLS: SNI) and the transport presents that meshlet's leaf. Bytes and time before
        authentication are bounded by the transport.

        Raises:
            TransportError: with a low-cardinality reason.
        """
        ...


@attrs.frozen(kw_only=True)
class TransportSpec(PluginSpec):
    """Registration of a tunnel transport. `create(options, credentials)` gets a `CredentialsSource` too."""

    create: Callable[..., Transport]


# --- handshake -------------------------------------------------------------------------------------------------------


@attrs.frozen
class HandshakeRequest:
    """A complete, well-formed request of a client.

    Attributes:
        service_id: the service it wants.
        sticky_key: wish for the canary selector, None if not given.
        version_pin: wish for the canary selector, None if not given.
        timeout: seconds the client is willing to wait for the reply, None if not given.
        traceparent: W3C trace context of the client, None if not given.
        accepts_descriptor: whether the client can receive the service's socket itself and keep this connection as its lease.
    """

    service_id: ServiceId
    sticky_key: bytes | None = None
    version_pin: str | None = None
    timeout: float | None = None
    traceparent: str | None = None
    accepts_descriptor: bool = False


@attrs.frozen(kw_only=True)
class ReplyDetails:
    """What a reply can carry besides its code, for handshakes that have room for it.

    Attributes:
        connection_id: 16 bytes, the same in the logs of both agents.
        version: the chosen version, None before one was chosen or for a pod without a version.
        endpoint: the chosen pod, `<namespace>/<pod>`, empty before one was chosen.
        retry_after: seconds after which trying again makes sense, None for no advice.
        descriptor_follows: whether the service's socket is sent behind the reply (SCM_RIGHTS, with one more byte).
    """

    connection_id: bytes
    version: str | None = None
    endpoint: str = ""
    retry_after: float | None = None
    descriptor_follows: bool = False


class HandshakeProtocol(Protocol):
    """Sans-IO server side of one client handshake: bytes in, a request out, reply bytes out. Never reads a clock."""

    def receive_data(self, data: bytes) -> HandshakeRequest | None:
        """Feed bytes as they arrive (b"" = the client sent end-of-file); the request once it is complete, else None.

        The same bytes give the same request however they are cut.

        Raises:
            RemoteProtocolError: the bytes are not a request, end before it is complete, or go on without end (an agent reads no
                more than 64 KiB); `code` is the ReplyCode to answer with.
        """
        ...

    def reply(self, code: ReplyCode, text: str = "", details: ReplyDetails | None = None) -> bytes:
        """Bytes of the reply; may be empty if the protocol has none for this code.

        A refusal may be asked for in every state before OK, also after an error: the agent always replies. OK needs a complete
        request.
        """
        ...

    @property
    def trailing_data(self) -> bytes:
        """Application bytes that arrived behind the request; they are delivered first, after the tunnel stands."""
        ...


@runtime_checkable
class InteractiveHandshake(Protocol):
    """A handshake that has to say something before the request is complete (SOCKS5: the chosen method).

    Optional, in addition to `HandshakeProtocol`. Asked after each `receive_data` that returned None. What is still unsaid when
    the request is complete, or refused, is the handshake's own to put in front of its `reply`. A client that does not take
    these bytes at once (its receive buffer is full before it has asked for anything) is refused with TIMEOUT.
    """

    def data_to_send(self) -> bytes:
        """Bytes to send to the client now, each once; b"" if there are none. At most a few hundred bytes."""
        ...


@runtime_checkable
class FilteringHandshake(Protocol):
    """A handshake that goes on reading what the client sends after OK, so that nothing meant for another service gets through.

    Optional, in addition to `HandshakeProtocol`. Costs a copy in Python: only protocols that can change their target on a
    connection (HTTP) need it.
    """

    @property
    def filtering(self) -> bool:
        """Whether this connection has to be filtered; asked once, after OK. If not, nothing is copied."""
        ...

    def filter_data(self, data: bytes) -> bytes:
        """What may be forwarded of the client's next bytes; trailing data of the request has been through it already.

        May hold bytes back, a bounded number. b"" in = the client ended its side; what comes back is forwarded before the end.

        Raises:
            RemoteProtocolError: the connection is cut: what came cannot be told apart, or is meant for somebody else.
        """
        ...


@runtime_checkable
class LeaseHandshake(Protocol):
    """A handshake whose connection can be the lease of a handed-over descriptor; optional, besides `HandshakeProtocol`."""

    def notice(self, kind: str, text: str = "") -> bytes:
        """Bytes of a notice on the lease: `kind` is "drain" (finish soon) or "revoked" (stop now)."""
        ...


@attrs.frozen(kw_only=True)
class HandshakeSpec(PluginSpec):
    """Registration of a client handshake. `create(options)` returns a factory: one `HandshakeProtocol` per connection.

    An object that can do more satisfies `InteractiveHandshake`, `FilteringHandshake` or `LeaseHandshake` besides.

    Attributes:
        first_bytes: the values of a connection's first byte this handshake claims; claiming a taken byte is a start-up error.
    """

    create: Callable[..., Callable[[], HandshakeProtocol]]
    first_bytes: frozenset[int]


# --- bus -------------------------------------------------------------------------------------------------------------


@attrs.frozen
class BusUpdate:
    """A change of one topic.

    Attributes:
        topic: exact topic, segments are DNS labels joined by "/".
        payload: the whole document, None if it was deleted.
    """

    topic: str
    payload: bytes | None


class Bus(Protocol):
    """Carries documents from the reconciler to agents: a store of last values with change notices. Not trusted."""

    async def publish(self, topic: str, payload: bytes | None) -> None:
        """Replace a topic's document (None deletes it). Atomic per topic.

        Raises:
            BusError: not stored.
        """
        ...

    def subscribe(self, topics: frozenset[str]) -> AsyncGenerator[BusUpdate, None]:
        """Yield the present value of each of exactly these topics that has one, then every change, until closed.

        Close with `aclose()`. A slow reader gets the newest value per topic, never a growing queue. There are no wildcards.

        Raises:
            BusError: the bus was lost; the caller subscribes again (with backoff) and gets everything afresh.
        """
        ...

    async def topics(self) -> frozenset[str]:
        """All topics with a document: for the reconciler, to delete what is no longer wanted.

        Raises:
            BusError: not readable.
        """
        ...


@attrs.frozen(kw_only=True)
class BusSpec(PluginSpec):
    """Registration of a bus. Exactly one is active."""

    create: Callable[..., Bus]


# --- the hooks -------------------------------------------------------------------------------------------------------


class Hooks:
    """The hooks by name. Each is called once per process at start-up, in the order of the configuration.

    These are specifications: pluggy calls what plugins implement, never the bodies here.
    """

    @hookspec
    def meshless_register_discovery(self) -> DiscoverySpec:
        """Register a discovery plugin: it tells the reconciler which Meshlets and Pods there are. One is active."""
        raise NotImplementedError

    @hookspec
    def meshless_register_authorizer(self) -> AuthorizerSpec:
        """Register an authorizer: may this source use this target? All active ones are asked; deny wins."""
        raise NotImplementedError

    @hookspec
    def meshless_register_canary_selector(self) -> CanarySelectorSpec:
        """Register a canary selector: which version gets this connection? One is active."""
        raise NotImplementedError

    @hookspec
    def meshless_register_transport(self) -> TransportSpec:
        """Register a tunnel transport: secure streams between agents. One is active."""
        raise NotImplementedError

    @hookspec
    def meshless_register_handshake(self) -> HandshakeSpec:
        """Register a client handshake, chosen by a connection's first byte. Any number."""
        raise NotImplementedError

    @hookspec
    def meshless_register_bus(self) -> BusSpec:
        """Register a bus: carries documents from the reconciler to agents. One is active."""
        raise NotImplementedError
