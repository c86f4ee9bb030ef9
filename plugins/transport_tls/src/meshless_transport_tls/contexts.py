"""TLS contexts, one per local identity and role, rebuilt when the credentials change.

Building one parses a key and a trust bundle (hundreds of microseconds), so they are kept; a context is never shared between two
serials, so a session can never outlive, or be resumed across, the credentials it was made with. Must not do network I/O.
"""

from __future__ import annotations

import ssl
from typing import Final

from meshless_core import Credentials, CredentialsSource, Identity
from meshless_transport_tls.failures import Reason, failure

__all__ = ["ALPN", "Contexts"]

ALPN: Final = "meshless/1"
"""The application protocol both sides insist on: nothing else that speaks TLS can be mistaken for an agent (RFC 7301)."""


class Contexts:
    """Finds or builds the context for an identity."""

    __slots__ = ("_cache", "_source")

    def __init__(self, source: CredentialsSource) -> None:
        """Serve contexts for what `source` holds."""
        self._source = source
        self._cache: dict[tuple[Identity, bool], tuple[str, ssl.SSLContext]] = {}

    def get(self, identity: Identity, *, server: bool) -> tuple[Credentials, ssl.SSLContext] | None:
        """Present credentials of a local identity and a context made of them; None if this agent holds none.

        Raises:
            TransportError: the credentials cannot be loaded.
        """
        credentials = self._source.get(identity)
        if credentials is None:
            self._cache.pop((identity, server), None)
            return None
        cached = self._cache.get((identity, server))
        if cached is not None and cached[0] == credentials.serial:
            return credentials, cached[1]
        context = _build(credentials, server=server)
        self._cache[identity, server] = (credentials.serial, context)
        return credentials, context


def _build(credentials: Credentials, *, server: bool) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if server else ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False  # names are URIs: the transport compares the identity itself
    context.verify_mode = ssl.CERT_REQUIRED
    context.verify_flags |= ssl.VerifyFlags.VERIFY_X509_STRICT
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.options |= ssl.OP_NO_TICKET
    if server:
        context.num_tickets = 0  # agents keep whole sessions warm; a resumed one could outlive its identity
    context.set_alpn_protocols([ALPN])
    try:
        context.load_verify_locations(cadata=credentials.trust_bundle_pem)
        context.load_cert_chain(credentials.certificate_chain_path, credentials.private_key_path)
    except OSError as error:  # ssl.SSLError is one
        raise failure(
            Reason.NO_CREDENTIALS,
            f"the leaf of {credentials.identity} at {credentials.certificate_chain_path} cannot be loaded: {error.strerror}",
        ) from error
    return context
