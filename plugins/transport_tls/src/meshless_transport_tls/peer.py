"""Our own look at the peer's leaf, after OpenSSL has checked signatures, chain and validity.

Why a second look: OpenSSL asks "is this chain good", a mesh asks "which one meshlet is this". Only the leaf is looked at:
whatever a peer adds to its chain cannot lend it an identity. Must not do I/O or read a clock.
"""

from __future__ import annotations

import datetime
from typing import TypeVar

from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID, ObjectIdentifier

from meshless_core import Identity, InvalidNameError
from meshless_transport_tls.failures import Reason, failure

__all__ = ["CLIENT_USAGE", "SERVER_USAGE", "expires_at", "identify_peer"]

_Extension = TypeVar("_Extension", bound=x509.ExtensionType)

CLIENT_USAGE = ExtendedKeyUsageOID.CLIENT_AUTH
SERVER_USAGE = ExtendedKeyUsageOID.SERVER_AUTH


def identify_peer(leaf_der: bytes | None, trust_domain: str, usage: ObjectIdentifier, now: datetime.datetime) -> Identity:
    """The identity the peer's leaf proves.

    Args:
        leaf_der: the leaf, DER; None if the peer sent none.
        trust_domain: the only trust domain that is accepted.
        usage: the extended key usage the peer's role needs: `CLIENT_USAGE` or `SERVER_USAGE`.
        now: the present.

    Raises:
        TransportError: the leaf is not what a leaf of this mesh has to be.
    """
    if leaf_der is None:
        raise failure(Reason.NO_CERTIFICATE, "the peer showed no certificate")
    try:
        leaf = x509.load_der_x509_certificate(leaf_der)
        extensions = leaf.extensions
        not_before, not_after = leaf.not_valid_before_utc, leaf.not_valid_after_utc
    except (ValueError, x509.DuplicateExtension) as error:
        raise failure(Reason.CERTIFICATE_INVALID, "the peer's certificate cannot be read") from error
    if now < not_before:
        raise failure(
            Reason.CERTIFICATE_NOT_YET_VALID,
            f"the peer's certificate is valid from {not_before:%Y-%m-%d %H:%M:%S} UTC; compare the clocks of the two nodes",
        )
    if now >= not_after:
        raise failure(Reason.CERTIFICATE_EXPIRED, f"the peer's certificate expired at {not_after:%Y-%m-%d %H:%M:%S} UTC")
    _check_profile(extensions, usage)
    identity = _identity(extensions)
    if identity.trust_domain != trust_domain:
        raise failure(Reason.WRONG_TRUST_DOMAIN, f"the peer is {identity}, which is not of trust domain {trust_domain}")
    return identity


def expires_at(leaf_der: bytes | None) -> float:
    """Unix time, seconds, at which a leaf that `identify_peer` has accepted expires."""
    assert leaf_der is not None, "identify_peer refuses a peer without a leaf"
    return x509.load_der_x509_certificate(leaf_der).not_valid_after_utc.timestamp()


def _check_profile(extensions: x509.Extensions, usage: ObjectIdentifier) -> None:
    constraints = _value(extensions, x509.BasicConstraints)
    key_usage = _value(extensions, x509.KeyUsage)
    if (constraints is not None and constraints.ca) or (key_usage is not None and key_usage.key_cert_sign):
        raise failure(Reason.CERTIFICATE_INVALID, "the peer showed the certificate of an authority instead of a leaf")
    if key_usage is None or not key_usage.digital_signature:
        raise failure(Reason.CERTIFICATE_INVALID, "the peer's certificate may not be used for signatures")
    purposes = _value(extensions, x509.ExtendedKeyUsage)
    if purposes is None or usage not in purposes:
        role = "client" if usage == CLIENT_USAGE else "server"
        raise failure(Reason.CERTIFICATE_INVALID, f"the peer's certificate may not be used as a tls {role}")


def _identity(extensions: x509.Extensions) -> Identity:
    names = _value(extensions, x509.SubjectAlternativeName)
    uris = [] if names is None else names.get_values_for_type(x509.UniformResourceIdentifier)
    if names is None or len(uris) != 1 or len(list(names)) != 1:
        raise failure(
            Reason.CERTIFICATE_INVALID,
            f"the peer's certificate has {len(uris)} URI names; exactly one and no other name is allowed",
        )
    try:
        return Identity.parse(uris[0])
    except InvalidNameError as error:
        raise failure(Reason.CERTIFICATE_INVALID, f"the peer's certificate names no meshlet: {error}") from error


def _value(extensions: x509.Extensions, kind: type[_Extension]) -> _Extension | None:
    try:
        return extensions.get_extension_for_class(kind).value
    except x509.ExtensionNotFound:
        return None
