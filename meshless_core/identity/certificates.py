"""The shape of every certificate of a mesh, in one place: roots, cross certificates, leaves, requests.

Why one place: issuing and checking have to agree to the letter. This module is pure: bytes and objects in, objects out. It must
not read files or a clock (the time is an argument), and it must never put a key into a message.

Sources: RFC 5280 (profile), SPIFFE X509-SVID (one URI name, no CA bit, digitalSignature on leaves).
"""

from __future__ import annotations

import datetime
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from meshless_core.errors import IdentityError, InvalidNameError
from meshless_core.types import Identity, is_dns_label

__all__ = [
    "BACKDATE",
    "LEAF_LIFETIME",
    "MAX_LEAF_LIFETIME",
    "ROOT_LIFETIME",
    "build_cross_certificate",
    "build_leaf",
    "build_request",
    "build_root",
    "check_trust_domain",
    "generate_key",
    "identity_of",
    "is_issued_by",
    "key_identifier",
    "key_to_pem",
    "load_certificates",
    "load_key",
    "load_request",
    "to_pem",
    "trust_domain_of",
]

ROOT_LIFETIME: Final = datetime.timedelta(days=3650)
"""A root lives 10 years: replacing it is a deliberate act (`meshless ca rotate`), not something that happens to you."""

LEAF_LIFETIME: Final = datetime.timedelta(hours=24)
"""A leaf lives 24 h: short enough to need no revocation list, long enough to survive a night without its issuer."""

MAX_LEAF_LIFETIME: Final = datetime.timedelta(days=90)
"""Longest leaf the authority will sign: a leaf cannot be revoked, only outlived."""

BACKDATE: Final = datetime.timedelta(minutes=5)
"""`notBefore` lies this far back, so that a peer whose clock runs behind accepts a fresh certificate."""

_NO_USAGE: Final = {
    "digital_signature": False,
    "content_commitment": False,
    "key_encipherment": False,
    "data_encipherment": False,
    "key_agreement": False,
    "key_cert_sign": False,
    "crl_sign": False,
    "encipher_only": False,
    "decipher_only": False,
}


def check_trust_domain(name: str) -> None:
    """Refuse a name that cannot be a trust domain.

    The limit of 117 characters lets the longest identity of the domain still fit into a DNS name of 253 characters.

    Raises:
        InvalidNameError: empty, longer than 117 characters, or not DNS labels joined by dots.
    """
    if not 1 <= len(name) <= 117 or not all(is_dns_label(label) for label in name.split(".")):
        raise InvalidNameError(
            f"{name[:256]!r} is not a trust domain: use a DNS name of at most 117 characters, like mesh.example.org"
        )


def generate_key() -> ec.EllipticCurvePrivateKey:
    """A new P-256 key from the system's random source."""
    return ec.generate_private_key(ec.SECP256R1())


def key_to_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    """The key as unencrypted PKCS #8 PEM: for a file of mode 0600, for nothing else."""
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())


def load_key(pem: bytes, source: str) -> ec.EllipticCurvePrivateKey:
    """Read a P-256 key from PEM.

    Raises:
        IdentityError: no key, encrypted, or of another kind; the message names `source`, never the content.
    """
    try:
        key = serialization.load_pem_private_key(pem, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        key = None  # the cause is not chained: its text may quote the input
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
        raise IdentityError(
            f"{source} holds no unencrypted P-256 private key in PEM form; restore it from a backup or replace it"
        )
    return key


def to_pem(*certificates: x509.Certificate) -> str:
    """Certificates as PEM text, one after the other."""
    return "".join(certificate.public_bytes(serialization.Encoding.PEM).decode("ascii") for certificate in certificates)


def load_certificates(pem: bytes | str, source: str) -> tuple[x509.Certificate, ...]:
    """Read one or more certificates from PEM, in order.

    Raises:
        IdentityError: nothing there, or something that is no certificate.
    """
    try:
        data = pem.encode("ascii") if isinstance(pem, str) else pem
        return tuple(x509.load_pem_x509_certificates(data))
    except ValueError as error:
        raise IdentityError(f"{source} holds no certificates in PEM form; restore or reissue it") from error


def build_root(key: ec.EllipticCurvePrivateKey, trust_domain: str, now: datetime.datetime) -> x509.Certificate:
    """A self-signed root for `trust_domain`, valid for `ROOT_LIFETIME` from `now`.

    Path length 1: a root may certify its successor (see `build_cross_certificate`), and nothing below that.
    """
    check_trust_domain(trust_domain)
    name = _root_name(key.public_key())
    builder = _builder(key.public_key(), name, name, now - BACKDATE, now + ROOT_LIFETIME)
    builder = _as_authority(builder, key.public_key(), key.public_key(), path_length=1)
    builder = builder.add_extension(_uri_names(f"spiffe://{trust_domain}"), critical=False)
    return builder.sign(key, hashes.SHA256())


def build_cross_certificate(
    root: x509.Certificate,
    previous_root: x509.Certificate,
    previous_key: ec.EllipticCurvePrivateKey,
    now: datetime.datetime,
) -> x509.Certificate:
    """The new root's key certified by the previous root.

    It travels behind each leaf during a rotation: an agent that has not yet heard of the new root still gets a path that
    ends at the one it trusts. It lives no longer than the previous root.
    """
    public_key = _p256(root)
    expiry = min(root.not_valid_after_utc, previous_root.not_valid_after_utc)
    builder = _builder(public_key, root.subject, previous_root.subject, now - BACKDATE, expiry)
    builder = _as_authority(builder, public_key, previous_key.public_key(), path_length=0)
    builder = builder.add_extension(_uri_names(f"spiffe://{trust_domain_of(root)}"), critical=False)
    return builder.sign(previous_key, hashes.SHA256())


def build_leaf(
    public_key: ec.EllipticCurvePublicKey,
    identity: Identity,
    root: x509.Certificate,
    root_key: ec.EllipticCurvePrivateKey,
    now: datetime.datetime,
    lifetime: datetime.timedelta,
) -> x509.Certificate:
    """A leaf that proves `identity`, signed by `root`.

    `notBefore` is backdated by `BACKDATE`, for short lives by a quarter of the life; `notAfter` never exceeds the root's.

    Raises:
        IdentityError: the root has expired.
    """
    expiry = min(now + lifetime, root.not_valid_after_utc)
    if expiry <= now:
        raise IdentityError(
            f"the root of {identity.trust_domain} expired on {root.not_valid_after_utc:%Y-%m-%d}; run meshless ca rotate"
        )
    name = x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Meshless")])
    builder = _builder(public_key, name, root.subject, now - min(BACKDATE, lifetime / 4), expiry)
    builder = (
        builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.KeyUsage(**{**_NO_USAGE, "digital_signature": True}), critical=True)
        .add_extension(
            x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH]), critical=False
        )
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(root_key.public_key()), critical=False)
        .add_extension(_uri_names(identity.uri), critical=False)
    )
    return builder.sign(root_key, hashes.SHA256())


def build_request(key: ec.EllipticCurvePrivateKey) -> str:
    """A certificate signing request (PKCS #10, PEM) that proves possession of `key` and names nobody.

    The wanted identity travels beside it: what a request says about names must not matter to an authority.
    """
    request = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, hashes.SHA256())
    return request.public_bytes(serialization.Encoding.PEM).decode("ascii")


def load_request(pem: bytes | str) -> ec.EllipticCurvePublicKey:
    """The public key of a request whose own signature holds; every name in it is ignored.

    Raises:
        IdentityError: not a PKCS #10 request, its signature is wrong, or its key is not P-256.
    """
    try:
        data = pem.encode("ascii") if isinstance(pem, str) else pem
        request = x509.load_pem_x509_csr(data)
        if not request.is_signature_valid:
            raise IdentityError("the signature of the certificate request is wrong; sign it with the key it is for")
        public_key = request.public_key()
    except (ValueError, UnsupportedAlgorithm, InvalidSignature) as error:
        raise IdentityError("the certificate request is not PKCS #10 in PEM form") from error
    if not isinstance(public_key, ec.EllipticCurvePublicKey) or not isinstance(public_key.curve, ec.SECP256R1):
        raise IdentityError("the key of the certificate request is not P-256; generate a P-256 key")
    return public_key


def identity_of(leaf: x509.Certificate) -> Identity:
    """The identity a leaf names: its only URI name.

    Raises:
        IdentityError: no URI name, several, or one that is not an identity of a mesh.
    """
    uris = _uris(leaf)
    if len(uris) != 1:
        raise IdentityError(f"the certificate has {len(uris)} URI names, a leaf of the mesh has exactly one; reissue it")
    try:
        return Identity.parse(uris[0])
    except InvalidNameError as error:
        raise IdentityError(str(error)) from error


def trust_domain_of(root: x509.Certificate) -> str:
    """The trust domain a root stands for.

    Raises:
        IdentityError: the certificate is not a root of a mesh.
    """
    uris = _uris(root)
    if len(uris) != 1 or not uris[0].startswith("spiffe://") or "/" in uris[0][9:]:
        raise IdentityError(
            "the certificate is not a root of a mesh: it does not name a trust domain; create one with meshless ca init"
        )
    return uris[0][9:]


def key_identifier(certificate: x509.Certificate) -> str:
    """Hex of the subject key identifier (SHA-1 of the public key, RFC 5280 4.2.1.2): a short name for a root."""
    return x509.SubjectKeyIdentifier.from_public_key(_p256(certificate)).digest.hex()


def is_issued_by(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    """Whether `issuer` signed `certificate`: names fit and the signature holds. Validity and usage are not looked at."""
    try:
        certificate.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def _builder(
    public_key: ec.EllipticCurvePublicKey,
    subject: x509.Name,
    issuer: x509.Name,
    not_before: datetime.datetime,
    not_after: datetime.datetime,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(not_before)
        .not_valid_after(not_after)
    )


def _as_authority(
    builder: x509.CertificateBuilder,
    public_key: ec.EllipticCurvePublicKey,
    issuer_key: ec.EllipticCurvePublicKey,
    *,
    path_length: int,
) -> x509.CertificateBuilder:
    return (
        builder.add_extension(x509.BasicConstraints(ca=True, path_length=path_length), critical=True)
        .add_extension(x509.KeyUsage(**{**_NO_USAGE, "key_cert_sign": True, "crl_sign": True}), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key), critical=False)
    )


def _root_name(public_key: ec.EllipticCurvePublicKey) -> x509.Name:
    # Each root has a name of its own: two roots of one name would make path building guess by key identifier.
    digest = x509.SubjectKeyIdentifier.from_public_key(public_key).digest.hex()
    return x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Meshless"),
            x509.NameAttribute(NameOID.COMMON_NAME, f"Meshless root {digest[:16]}"),
        ]
    )


def _uri_names(uri: str) -> x509.SubjectAlternativeName:
    return x509.SubjectAlternativeName([x509.UniformResourceIdentifier(uri)])


def _uris(certificate: x509.Certificate) -> list[str]:
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (x509.ExtensionNotFound, x509.DuplicateExtension, ValueError):
        return []
    return names.get_values_for_type(x509.UniformResourceIdentifier)


def _p256(certificate: x509.Certificate) -> ec.EllipticCurvePublicKey:
    public_key = certificate.public_key()
    if not isinstance(public_key, ec.EllipticCurvePublicKey):
        raise IdentityError("the certificate's key is not an elliptic curve key; create the authority with meshless ca init")
    return public_key
