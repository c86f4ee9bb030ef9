"""Who is who: the certificate authority, the issuer protocol between control plane and agents, and the agents' leaves.

The transport sees none of this: it gets a `CredentialsSource`, which `LeafStore` is. Nothing here decides who may talk to whom.
"""

from meshless_core.identity.authority import CertificateAuthority
from meshless_core.identity.client import Issued, IssuerClient, LeafIssuer
from meshless_core.identity.leaf import LeafCredentials
from meshless_core.identity.server import IssuerServer
from meshless_core.identity.sockets import bind_issuer_socket
from meshless_core.identity.store import LeafStore

__all__ = [
    "CertificateAuthority",
    "Issued",
    "IssuerClient",
    "IssuerServer",
    "LeafCredentials",
    "LeafIssuer",
    "LeafStore",
    "bind_issuer_socket",
]
