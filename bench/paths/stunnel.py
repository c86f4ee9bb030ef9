"""A pair of stunnels with mutual TLS 1.3 between them."""

from __future__ import annotations

import attrs

from bench.certificates import write_certificates
from bench.paths.base import Group, Route, Stage
from bench.processes import Process, free_port, wait_until_accepting
from bench.programs import STUNNEL, require

__all__ = ["StunnelTlsPath"]

_CONFIG = """\
foreground = yes
pid =
debug = err
syslog = no
sslVersionMin = TLSv1.3
CAfile = {ca}
cert = {certificate}
verifyChain = yes
{side}
[hop]
accept = {accept}
connect = {connect}
"""


@attrs.frozen
class StunnelTlsPath:
    """Unix socket, stunnel, mutual TLS 1.3 over loopback TCP, stunnel, Unix socket. A thread per connection."""

    name: str
    group: Group = Group.CROSS_NODE
    in_quick: bool = True

    @property
    def describes(self) -> str:
        """One line for the legend."""
        return "two stunnel, a thread per connection, TLS session resumption as by default"

    def start(self, stage: Stage) -> Route:
        """Start server, far side, near side."""
        files = write_certificates(stage.folder)
        server, entry = f"{stage.folder}/server", f"{stage.folder}/entry"
        between = f"127.0.0.1:{free_port()}"
        stage.start_server(f"unix:{server}")
        far = self._start(stage, "stunnel-far", files.ca, files.server, between, server, "requireCert = yes")
        wait_until_accepting(f"tcp:{between}", far)
        near = self._start(stage, "stunnel-near", files.ca, files.client, entry, between, "client = yes")
        wait_until_accepting(f"unix:{entry}", near)
        return Route(f"unix:{entry}", None, (near.pid, far.pid), {"near": near.pid, "far": far.pid})

    @staticmethod
    def _start(stage: Stage, name: str, ca: object, certificate: object, accept: str, connect: str, side: str) -> Process:
        config = stage.folder / f"{name}.conf"
        config.write_text(_CONFIG.format(ca=ca, certificate=certificate, accept=accept, connect=connect, side=side))
        return stage.start_proxy(name, [require(STUNNEL, stage.install, stage.say), str(config)])
