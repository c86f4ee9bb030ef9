"""HAProxy in TCP mode: one hop between Unix sockets, and a pair with mutual TLS 1.3 between them."""

from __future__ import annotations

import resource

import attrs

from bench.certificates import write_certificates
from bench.paths.base import Group, Route, Stage
from bench.processes import Process, free_port, wait_until_accepting
from bench.programs import HAPROXY, require

__all__ = ["HaproxyPath", "HaproxyTlsPath"]

_CONFIG = """\
global
  maxconn {connections}
{threads}
defaults
  mode tcp
{splice}
  timeout connect 10s
  timeout client 1h
  timeout server 1h
listen hop
  bind {bind}
  server far {server}
"""


def _start(stage: Stage, name: str, bind: str, server: str, threads: int | None, splice: bool = False) -> Process:
    config = stage.folder / f"{name}.cfg"
    config.write_text(
        _CONFIG.format(
            bind=bind,
            server=server,
            connections=_most_connections(),
            threads="" if threads is None else f"  nbthread {threads}",
            splice="  option splice-auto" if splice else "",
        )
    )
    program = require(HAPROXY, stage.install, stage.say)
    return stage.start_proxy(name, [program, "-db", "-f", str(config)])


def _most_connections() -> int:
    """HAProxy refuses to start unless it may have two descriptors per connection, half of one for pipes, and some more."""
    return min(9000, (resource.getrlimit(resource.RLIMIT_NOFILE)[1] - 100) * 10 // 26)


@attrs.frozen
class HaproxyPath:
    """Unix socket to Unix socket through one HAProxy. `threads` None: as many as it takes by itself."""

    name: str
    threads: int | None
    splice: bool
    group: Group = Group.SAME_NODE

    @property
    def in_quick(self) -> bool:
        """Only the baseline."""
        return self.threads == 1 and not self.splice

    @property
    def describes(self) -> str:
        """One line for the legend."""
        threads = "default threads" if self.threads is None else f"nbthread {self.threads}"
        return f"HAProxy, mode tcp, {threads}{', option splice-auto' if self.splice else ''}"

    def start(self, stage: Stage) -> Route:
        """Start server and proxy."""
        server, entry = f"unix:{stage.folder}/server", f"unix:{stage.folder}/entry"
        stage.start_server(server)
        proxy = _start(stage, "haproxy", f"{_plain(entry)} mode 666", _plain(server), self.threads, self.splice)
        wait_until_accepting(entry, proxy)
        return Route(entry, None, (proxy.pid,), {"haproxy": proxy.pid})


@attrs.frozen
class HaproxyTlsPath:
    """Unix socket, HAProxy, mutual TLS 1.3 over loopback TCP, HAProxy, Unix socket. Sessions resume, as by default."""

    name: str
    threads: int | None
    group: Group = Group.CROSS_NODE

    @property
    def in_quick(self) -> bool:
        """Only the baseline."""
        return self.threads == 1

    @property
    def describes(self) -> str:
        """One line for the legend."""
        threads = "default threads" if self.threads is None else f"nbthread {self.threads}"
        return f"two HAProxy, {threads} each, TLS session resumption as by default"

    def start(self, stage: Stage) -> Route:
        """Start server, far proxy, near proxy."""
        files = write_certificates(stage.folder)
        server, entry = f"unix:{stage.folder}/server", f"unix:{stage.folder}/entry"
        between = f"127.0.0.1:{free_port()}"
        tls = f"ca-file {files.ca} verify required ssl-min-ver TLSv1.3"
        stage.start_server(server)
        far = _start(stage, "haproxy-far", f"{between} ssl crt {files.server} {tls}", _plain(server), self.threads)
        wait_until_accepting(f"tcp:{between}", far)
        near = _start(
            stage, "haproxy-near", f"{_plain(entry)} mode 666", f"{between} ssl crt {files.client} {tls}", self.threads
        )
        wait_until_accepting(entry, near)
        return Route(entry, None, (near.pid, far.pid), {"near": near.pid, "far": far.pid})


def _plain(address: str) -> str:
    """A Unix address as HAProxy writes it."""
    return f"unix@{address.removeprefix('unix:')}"
