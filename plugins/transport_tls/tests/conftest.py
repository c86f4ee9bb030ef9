"""A small mesh for the tests of this plugin: real roots, real leaves, bad certificates of every kind, real loopback TCP."""

from __future__ import annotations

import asyncio
import datetime
import os
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID, ObjectIdentifier
from meshless_transport_tls.contexts import ALPN
from meshless_transport_tls.names import encode_server_name
from meshless_transport_tls.options import Options
from meshless_transport_tls.transport import TlsTransport

from meshless_core import Identity, SecureStream

TRUST_DOMAIN = "mesh.test"
WEB = Identity(TRUST_DOMAIN, "shop", "web")
CART = Identity(TRUST_DOMAIN, "shop", "cart")
DB = Identity(TRUST_DOMAIN, "shop", "db")
HOUR = datetime.timedelta(hours=1)


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC).replace(microsecond=0)


@attrs.frozen
class Signer:
    """A certificate with its key, that can sign others."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    @property
    def pem(self) -> str:
        return self.certificate.public_bytes(serialization.Encoding.PEM).decode()

    @property
    def key_pem(self) -> str:
        return self.key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        ).decode()


def make_certificate(
    issuer: Signer | None,
    uris: list[str] | None = None,
    *,
    ca: bool = False,
    path_length: int | None = None,
    dns: list[str] | None = None,
    not_before: datetime.datetime | None = None,
    not_after: datetime.datetime | None = None,
    usages: list[ObjectIdentifier] | None = None,
    digital_signature: bool = True,
    name: str = "test",
) -> Signer:
    """Any certificate, good or bad; `issuer` None makes it self-signed."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"{name} {os.urandom(4).hex()}")])
    signing_key = key if issuer is None else issuer.key
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject if issuer is None else issuer.certificate.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(not_before or _now() - HOUR)
        .not_valid_after(not_after or _now() + HOUR)
        .add_extension(x509.BasicConstraints(ca=ca, path_length=path_length), critical=True)
        .add_extension(
            x509.KeyUsage(
                digital_signature=digital_signature,
                key_cert_sign=ca,
                crl_sign=ca,
                key_encipherment=not digital_signature,
                content_commitment=False,
                data_encipherment=False,
                key_agreement=False,
                encipher_only=False,
                decipher_only=False,
            ),
            critical=True,
        )
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signing_key.public_key()), critical=False)
    )
    if not ca or usages:
        wanted = [ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH] if usages is None else usages
        if wanted:
            builder = builder.add_extension(x509.ExtendedKeyUsage(wanted), critical=False)
    names: list[x509.GeneralName] = [x509.UniformResourceIdentifier(uri) for uri in uris or []]
    names += [x509.DNSName(text) for text in dns or []]
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    return Signer(builder.sign(signing_key, hashes.SHA256()), key)


@attrs.frozen
class FileCredentials:
    """Credentials that lie in files."""

    identity: Identity
    serial: str
    certificate_chain_path: str
    private_key_path: str
    trust_bundle_pem: str


class Source:
    """A CredentialsSource a test fills by hand."""

    trust_domain = TRUST_DOMAIN

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.held: dict[Identity, FileCredentials] = {}
        self.expected: set[Identity] = set()

    def get(self, identity: Identity) -> FileCredentials | None:
        return self.held.get(identity)

    def expects(self, identity: Identity) -> bool:
        return identity in self.expected or identity in self.held

    def hold(self, identity: Identity, leaf: Signer, bundle: str, *, extra: str = "") -> FileCredentials:
        """Present `leaf` (followed by `extra` certificates) as `identity`, trusting `bundle`."""
        serial = os.urandom(8).hex()
        chain, key = self._directory / f"{serial}.crt", self._directory / f"{serial}.key"
        chain.write_text(leaf.pem + extra)
        key.touch(mode=0o600)
        key.write_text(leaf.key_pem)
        self.held[identity] = credentials = FileCredentials(identity, serial, str(chain), str(key), bundle)
        return credentials


class Mesh:
    """Two agents on loopback: `client` holds web, `server` holds cart; both trust `root`."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.root = make_certificate(None, [f"spiffe://{TRUST_DOMAIN}"], ca=True, path_length=1, name="root")
        self.client_source = Source(directory)
        self.server_source = Source(directory)
        self.client_source.hold(WEB, self.leaf(WEB), self.root.pem)
        self.server_source.hold(CART, self.leaf(CART), self.root.pem)
        self.client = TlsTransport(Options(), self.client_source)
        self.server = TlsTransport(Options(), self.server_source)
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.listener.setblocking(False)

    @property
    def address(self) -> str:
        host, port = self.listener.getsockname()
        return f"{host}:{port}"

    def leaf(self, identity: Identity, **changes: Any) -> Signer:
        return make_certificate(self.root, changes.pop("uris", [identity.uri]), **changes)

    async def accept(self) -> SecureStream:
        connection, _ = await asyncio.get_running_loop().sock_accept(self.listener)
        return await self.server.accept(connection)

    async def connect(self, target: Identity = CART) -> SecureStream:
        return await self.client.connect(self.address, source=WEB, target=target)

    async def pair(self) -> tuple[SecureStream, SecureStream]:
        connecting, accepting = await asyncio.gather(self.connect(), self.accept())
        return connecting, accepting

    async def outcomes(self, target: Identity = CART) -> tuple[SecureStream | BaseException, SecureStream | BaseException]:
        """What the client and the server each got: a stream or an error."""
        connecting, accepting = await asyncio.gather(self.connect(target), self.accept(), return_exceptions=True)
        return connecting, accepting

    def raw_context(self, leaf: Signer | None, *, alpn: list[str] | None = None) -> ssl.SSLContext:
        """A TLS client that breaks the rules a test wants broken; it trusts anything."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        context.set_alpn_protocols([ALPN] if alpn is None else alpn)
        if leaf is not None:
            credentials = Source(self.directory).hold(WEB, leaf, "")
            context.load_cert_chain(credentials.certificate_chain_path, credentials.private_key_path)
        return context

    async def open_raw(
        self, context: ssl.SSLContext, server_name: str | None = None
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        host, port = self.listener.getsockname()
        return await asyncio.open_connection(
            host, port, ssl=context, server_hostname=encode_server_name(CART) if server_name is None else server_name
        )


@pytest.fixture
def mesh(tmp_path: Path) -> Iterator[Mesh]:
    made = Mesh(tmp_path)
    yield made
    made.listener.close()


@pytest.fixture
def open_descriptors() -> Callable[[], int]:
    """Counts this process's open descriptors."""
    return lambda: len(os.listdir("/proc/self/fd"))


@pytest.fixture
async def no_leak(open_descriptors: Callable[[], int]) -> AsyncIterator[None]:
    """The test must leave as many descriptors open as it found."""
    await asyncio.sleep(0)
    before = open_descriptors()
    yield
    assert open_descriptors() == before, "a descriptor leaked"
