"""How a meshlet is named in the server name indication (RFC 6066): `<meshlet>.<namespace>.meshlet.<trust-domain>`.

The name only says which leaf the client wants to see; it proves nothing, and nothing is authorised by it. It travels in clear,
as in every TLS without encrypted ClientHello. This module must not do I/O.
"""

from __future__ import annotations

from meshless_core import Identity, InvalidNameError

__all__ = ["decode_server_name", "encode_server_name"]

_MAX_DNS_NAME = 253


def encode_server_name(identity: Identity) -> str:
    """The server name that asks for `identity`.

    Raises:
        InvalidNameError: longer than a DNS name may be (253 characters): shorten the trust domain.
    """
    name = f"{identity.meshlet}.{identity.namespace}.meshlet.{identity.trust_domain}"
    if len(name) > _MAX_DNS_NAME:
        raise InvalidNameError(f"{identity} makes a server name of {len(name)} characters, 253 fit: use a shorter trust domain")
    return name


def decode_server_name(name: str) -> Identity:
    """The identity a server name asks for.

    Raises:
        InvalidNameError: not a name `encode_server_name` makes.
    """
    labels = name.split(".", 3)
    if len(name) > _MAX_DNS_NAME or len(labels) != 4 or labels[2] != "meshlet":
        raise InvalidNameError(f"{name[:256]!r} is not a server name of the mesh: <meshlet>.<namespace>.meshlet.<trust-domain>")
    return Identity.parse(Identity(labels[3], labels[1], labels[0]).uri)
