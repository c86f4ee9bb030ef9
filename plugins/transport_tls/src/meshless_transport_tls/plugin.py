"""Registers the TLS transport with the core. Must do nothing else."""

from __future__ import annotations

from meshless_core import TransportSpec, hookimpl
from meshless_transport_tls.options import Options
from meshless_transport_tls.transport import TlsTransport


@hookimpl
def meshless_register_transport() -> TransportSpec:
    """See `meshless_core.hookspecs.Hooks.meshless_register_transport`."""
    return TransportSpec(api=1, options=Options, create=TlsTransport)
