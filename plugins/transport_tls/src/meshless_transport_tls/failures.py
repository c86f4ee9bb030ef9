"""One vocabulary for everything that can go wrong with a TLS session, and the mapping into it.

`Reason` values are metric labels: add, never rename. Text from the peer is cut; OpenSSL's file and line never reach a message.
"""

from __future__ import annotations

import enum
import re
import ssl
from typing import Final

from meshless_core import TransportError

__all__ = ["Alert", "Reason", "alert_record", "failure", "from_ssl_error"]


class Reason(enum.StrEnum):
    """`TransportError.reason` of this transport."""

    BAD_ADDRESS = "bad_address"
    CERTIFICATE_EXPIRED = "certificate_expired"
    CERTIFICATE_INVALID = "certificate_invalid"
    CERTIFICATE_NOT_YET_VALID = "certificate_not_yet_valid"
    CERTIFICATE_UNTRUSTED = "certificate_untrusted"
    CLOSED = "closed"
    CONNECT_FAILED = "connect_failed"
    HANDSHAKE_EOF = "handshake_eof"
    HANDSHAKE_TOO_LARGE = "handshake_too_large"
    IDENTITY_MISMATCH = "identity_mismatch"
    NO_CERTIFICATE = "no_certificate"
    NO_CREDENTIALS = "no_credentials"
    NO_SERVER_NAME = "no_server_name"
    NOT_TLS = "not_tls"
    OVERLOADED = "overloaded"
    PEER_ALERT = "peer_alert"
    TIMEOUT = "timeout"
    TLS_FAILURE = "tls_failure"
    TLS_VERSION = "tls_version"
    UNKNOWN_SERVER_NAME = "unknown_server_name"
    WRONG_ALPN = "wrong_alpn"
    WRONG_TRUST_DOMAIN = "wrong_trust_domain"


class Alert(enum.IntEnum):
    """Alerts this transport sends itself (RFC 8446, 6); OpenSSL sends the others."""

    UNEXPECTED_MESSAGE = 10
    RECORD_OVERFLOW = 22
    ILLEGAL_PARAMETER = 47
    DECODE_ERROR = 50
    PROTOCOL_VERSION = 70
    INTERNAL_ERROR = 80
    MISSING_EXTENSION = 109
    UNRECOGNIZED_NAME = 112
    NO_APPLICATION_PROTOCOL = 120


_ALERT_REASON: Final = re.compile(r"(?:SSLV3|TLSV1|TLSV13)_(?:ALERT_)?(?P<name>[A-Z_]+)")
_ALERT_TEXT: Final = re.compile(r"(?:sslv3|tlsv1|tlsv13) (?:alert )?(?P<name>[a-z ]+)")

# X509_V_ERR_* of OpenSSL's x509_vfy.h; stable since 1.0.
_VERIFY_REASONS: Final = {
    9: Reason.CERTIFICATE_NOT_YET_VALID,
    10: Reason.CERTIFICATE_EXPIRED,
    2: Reason.CERTIFICATE_UNTRUSTED,
    18: Reason.CERTIFICATE_UNTRUSTED,
    19: Reason.CERTIFICATE_UNTRUSTED,
    20: Reason.CERTIFICATE_UNTRUSTED,
    21: Reason.CERTIFICATE_UNTRUSTED,
}

_SSL_REASONS: Final = {
    "PEER_DID_NOT_RETURN_A_CERTIFICATE": Reason.NO_CERTIFICATE,
    "UNSUPPORTED_PROTOCOL": Reason.TLS_VERSION,
    "WRONG_SSL_VERSION": Reason.TLS_VERSION,
    "WRONG_VERSION_NUMBER": Reason.NOT_TLS,
    "HTTP_REQUEST": Reason.NOT_TLS,
    "HTTPS_PROXY_REQUEST": Reason.NOT_TLS,
    "PACKET_LENGTH_TOO_LONG": Reason.NOT_TLS,
    "RECORD_LAYER_FAILURE": Reason.NOT_TLS,
    "EXCESSIVE_MESSAGE_SIZE": Reason.HANDSHAKE_TOO_LARGE,
}


def failure(reason: Reason, message: str) -> TransportError:
    """A `TransportError` with one of our reasons."""
    return TransportError(message[:512], reason=reason.value)


def from_ssl_error(error: ssl.SSLError, peer: str) -> TransportError:
    """Say what OpenSSL's error means; `peer` is a description of the other side. Chain it with `from error`."""
    if isinstance(error, ssl.SSLCertVerificationError):
        reason = _VERIFY_REASONS.get(error.verify_code, Reason.CERTIFICATE_INVALID)
        return failure(reason, f"the certificate of {peer} is refused: {error.verify_message[:256]}")
    name = error.reason or ""
    if found := _SSL_REASONS.get(name):
        return failure(found, f"{peer} cannot be talked to: {name.lower().replace('_', ' ')}")
    alert = _ALERT_REASON.fullmatch(name)
    text = alert["name"].lower().replace("_", " ") if alert else None
    if text is None and (alert := _ALERT_TEXT.search(str(error))):
        text = alert["name"].strip()
    if text is not None:
        return failure(Reason.PEER_ALERT, f"{peer} ended the session with the tls alert {text!r}; its log says why")
    return failure(Reason.TLS_FAILURE, f"tls with {peer} failed: {(name or type(error).__name__).lower().replace('_', ' ')}")


def alert_record(alert: Alert) -> bytes:
    """A fatal alert in clear, for a peer we refuse before there are keys (RFC 8446, 5.1 and 6)."""
    return bytes((21, 3, 3, 0, 2, 2, alert))
