"""The transport: connects and accepts, and hands out streams whose peer is known.

The client insists on the exact identity it wanted. The server shows the leaf of the meshlet the client asked for and takes the
client's identity from its leaf, from nothing else. Whatever happens on the way, the descriptor is either in a stream or closed.
"""

from __future__ import annotations

import asyncio
import datetime
import os
import socket
import ssl
import time
from collections.abc import Callable
from typing import Final

from cryptography.x509.oid import ObjectIdentifier

from meshless_core import Credentials, CredentialsSource, Identity, InvalidNameError, TransportError
from meshless_transport_tls.client_hello import TLS_1_3, ClientHello
from meshless_transport_tls.contexts import ALPN, Contexts
from meshless_transport_tls.failures import Alert, Reason, alert_record, failure
from meshless_transport_tls.names import decode_server_name, encode_server_name
from meshless_transport_tls.options import Options
from meshless_transport_tls.peer import CLIENT_USAGE, SERVER_USAGE, expires_at, identify_peer
from meshless_transport_tls.session import Session, read_client_hello, refuse
from meshless_transport_tls.stream import TlsStream

__all__ = ["TlsTransport"]

_LEAF_SHARE: Final = 0.5  # of handshake_timeout
_LEAF_POLL_SECONDS: Final = 0.02  # a CredentialsSource has no event


class TlsTransport:
    """Mutual TLS 1.3. Satisfies `meshless_core.hookspecs.Transport`."""

    def __init__(self, options: Options, credentials: CredentialsSource, *, clock: Callable[[], float] = time.time) -> None:
        """Make a transport that presents what `credentials` holds. No I/O.

        Args:
            options: settings.
            credentials: the leaves of this agent's meshlets.
            clock: returns Unix time, seconds; used for our own look at validity, OpenSSL uses the system's clock.
        """
        self._options = options
        self._credentials = credentials
        self._contexts = Contexts(credentials)
        self._clock = clock
        self._accepting = 0

    async def connect(self, address: str, *, source: Identity, target: Identity) -> TlsStream:
        """See `Transport.connect`. A server that refuses *our* leaf says so only in the first read: TLS 1.3 is like that."""
        host, port = _split_address(address)
        if target.trust_domain != self._credentials.trust_domain:
            raise failure(Reason.WRONG_TRUST_DOMAIN, f"{target} is not of trust domain {self._credentials.trust_domain}")
        found = self._contexts.get(source, server=False)
        if found is None:
            raise failure(Reason.NO_CREDENTIALS, f"this agent holds no valid leaf for {source}; see meshless check")
        credentials, context = found
        try:
            server_name = encode_server_name(target)
        except InvalidNameError as error:
            raise failure(Reason.BAD_ADDRESS, str(error)) from error
        try:
            async with asyncio.timeout(self._options.handshake_timeout):
                connection = await self._dial(host, port, address)
                try:
                    peer_name = f"the agent at {address}"
                    session = Session(
                        context, connection, peer_name, budget=self._options.max_handshake_bytes, server_name=server_name
                    )
                    leaf = await session.authenticate()
                    if session.tls.selected_alpn_protocol() != ALPN:
                        session.goodbye()
                        raise failure(Reason.WRONG_ALPN, f"{peer_name} does not speak {ALPN}")
                    peer = self._identify(session, leaf, SERVER_USAGE)
                    if peer != target:
                        session.goodbye()
                        raise failure(Reason.IDENTITY_MISMATCH, f"{peer_name} is {peer}, wanted was {target}")
                except BaseException:
                    connection.close()
                    raise
        except TimeoutError as error:
            raise failure(
                Reason.TIMEOUT, f"no authenticated stream to {address} within {self._options.handshake_timeout:g} s"
            ) from error
        except OSError as error:
            raise failure(
                Reason.HANDSHAKE_EOF, f"the connection to {address} broke during the handshake: {error.strerror}"
            ) from error
        return TlsStream(
            connection,
            session.tls,
            session.incoming,
            session.outgoing,
            peer=peer,
            local=source,
            serial=credentials.serial,
            expires=expires_at(leaf),
        )

    async def accept(self, connection: socket.socket) -> TlsStream:
        """See `Transport.accept`."""
        if self._accepting >= self._options.max_pending_handshakes:
            connection.close()
            raise failure(
                Reason.OVERLOADED,
                f"{self._accepting} connections are authenticating; raise max_pending_handshakes if that is normal",
            )
        self._accepting += 1
        try:
            return await self._accept(connection)
        except BaseException:
            connection.close()
            raise
        finally:
            self._accepting -= 1

    async def _accept(self, connection: socket.socket) -> TlsStream:
        peer_name = "the connecting agent"
        try:
            connection.setblocking(False)
            self._tune(connection)
            peer_name = f"the agent connecting from {_describe(connection.getpeername())}"
            async with asyncio.timeout(self._options.handshake_timeout):
                hello, received = await read_client_hello(connection, peer_name, self._options.max_handshake_bytes)
                local = self._choose(connection, hello, peer_name)
                found = await self._await_leaf(local)
                if found is None:
                    refuse(connection, alert_record(Alert.UNRECOGNIZED_NAME))
                    raise failure(
                        Reason.UNKNOWN_SERVER_NAME, f"{peer_name} asks for {local}, for which this agent holds no leaf"
                    )
                credentials, context = found
                session = Session(context, connection, peer_name, budget=self._options.max_handshake_bytes, received=received)
                leaf = await session.authenticate()
            if session.tls.selected_alpn_protocol() != ALPN:
                session.goodbye()
                raise failure(Reason.WRONG_ALPN, f"{peer_name} does not speak {ALPN}")
            peer = self._identify(session, leaf, CLIENT_USAGE)
        except TimeoutError as error:
            raise failure(
                Reason.TIMEOUT, f"{peer_name} did not authenticate within {self._options.handshake_timeout:g} s"
            ) from error
        except OSError as error:
            raise failure(Reason.HANDSHAKE_EOF, f"{peer_name} broke off during the handshake: {error.strerror}") from error
        return TlsStream(
            connection,
            session.tls,
            session.incoming,
            session.outgoing,
            peer=peer,
            local=local,
            serial=credentials.serial,
            expires=expires_at(leaf),
        )

    async def _await_leaf(self, local: Identity) -> tuple[Credentials, ssl.SSLContext] | None:
        """What to present as `local`, None without a leaf.

        A pod that was just added may be dialled a moment before the leaf of its meshlet is there: one that is on its way is
        waited for, half as long as the handshake may take, so that the peer still has time to hear why not.
        """
        patience = time.monotonic() + _LEAF_SHARE * self._options.handshake_timeout
        while (found := self._contexts.get(local, server=True)) is None:
            if not self._credentials.expects(local) or time.monotonic() >= patience:
                return None
            await asyncio.sleep(_LEAF_POLL_SECONDS)
        return found

    def _choose(self, connection: socket.socket, hello: ClientHello, peer_name: str) -> Identity:
        """The local identity the client asks for; refuses with the alert TLS has for the case."""
        if TLS_1_3 not in hello.versions:
            refuse(connection, alert_record(Alert.PROTOCOL_VERSION))
            raise failure(Reason.TLS_VERSION, f"{peer_name} does not offer tls 1.3")
        if ALPN.encode() not in hello.protocols:
            refuse(connection, alert_record(Alert.NO_APPLICATION_PROTOCOL))
            raise failure(Reason.WRONG_ALPN, f"{peer_name} does not speak {ALPN}")
        if hello.server_name is None:
            refuse(connection, alert_record(Alert.MISSING_EXTENSION))
            raise failure(Reason.NO_SERVER_NAME, f"{peer_name} does not say which meshlet it wants")
        try:
            return decode_server_name(hello.server_name)
        except InvalidNameError as error:
            refuse(connection, alert_record(Alert.UNRECOGNIZED_NAME))
            raise failure(Reason.UNKNOWN_SERVER_NAME, f"{peer_name} is refused: {error}") from error

    def _identify(self, session: Session, leaf: bytes | None, usage: ObjectIdentifier) -> Identity:
        now = datetime.datetime.fromtimestamp(self._clock(), datetime.UTC)
        try:
            return identify_peer(leaf, self._credentials.trust_domain, usage, now)
        except TransportError:
            session.goodbye()
            raise

    async def _dial(self, host: str, port: int, address: str) -> socket.socket:
        """Connect to the first of the host's addresses that answers."""
        loop = asyncio.get_running_loop()
        try:
            # An address needs no resolver, and so no thread: this cannot block.
            candidates = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
        except socket.gaierror:
            try:
                candidates = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            except OSError as error:
                raise failure(Reason.CONNECT_FAILED, f"cannot resolve {host!r}: {error.strerror}") from error
        problem: OSError | None = None
        for family, kind, protocol, _, socket_address in candidates:
            connection = socket.socket(family, kind | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC, protocol)
            try:
                self._tune(connection)
                await loop.sock_connect(connection, socket_address)
            except OSError as error:
                connection.close()
                problem = error
            except BaseException:
                connection.close()
                raise
            else:
                return connection
        # asyncio writes its own text over the system's; ours says what is wrong (connection refused, no route to host)
        reason = os.strerror(problem.errno or 0) if problem is not None else "the name has no address"
        raise failure(Reason.CONNECT_FAILED, f"cannot connect to the agent at {address}: {reason}") from problem

    def _tune(self, connection: socket.socket) -> None:
        """Send at once; notice a dead peer within `dead_peer_timeout`, whether we wait for its data or its acknowledgements."""
        if connection.family not in (socket.AF_INET, socket.AF_INET6):
            return
        seconds = self._options.dead_peer_timeout
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, seconds // 2)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, max(seconds // 6, 1))
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, seconds * 1000)


def _split_address(address: str) -> tuple[str, int]:
    host, separator, port = address.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        host = ""
    if not separator or not host or not (port.isascii() and port.isdigit() and 0 < int(port) < 65536):
        raise failure(Reason.BAD_ADDRESS, f"{address[:256]!r} is not an agent's address: write host:port, [::1]:port for IPv6")
    return host, int(port)


def _describe(address: object) -> str:
    match address:
        case (str(host), int(port), *_):
            return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        case _:
            return "a local socket"
