"""nginx's stream proxy: one hop between Unix sockets."""

from __future__ import annotations

import os

import attrs

from bench.paths.base import Group, Route, Stage
from bench.processes import wait_until_accepting
from bench.programs import NGINX, require

__all__ = ["NginxPath"]

_CONFIG = """\
load_module /usr/lib/nginx/modules/ngx_stream_module.so;
daemon off;
worker_processes 1;
{user}
pid {folder}/nginx.pid;
error_log stderr warn;
events {{ worker_connections 20000; }}
stream {{
  server {{
    listen unix:{folder}/entry backlog=4096;
    proxy_pass unix:{folder}/server;
    proxy_timeout 1h;
  }}
}}
"""


@attrs.frozen
class NginxPath:
    """Unix socket to Unix socket through one nginx worker."""

    name: str
    group: Group = Group.SAME_NODE
    in_quick: bool = True

    @property
    def describes(self) -> str:
        """One line for the legend."""
        return "nginx, stream module, one worker"

    def start(self, stage: Stage) -> Route:
        """Start server and proxy."""
        program = require(NGINX, stage.install, stage.say)
        config = stage.folder / "nginx.conf"
        config.write_text(_CONFIG.format(folder=stage.folder, user="user root;" if os.geteuid() == 0 else ""))
        stage.start_server(f"unix:{stage.folder}/server")
        proxy = stage.start_proxy("nginx", [program, "-e", "stderr", "-p", str(stage.folder), "-c", str(config)])
        wait_until_accepting(f"unix:{stage.folder}/entry", proxy)
        return Route(f"unix:{stage.folder}/entry", None, (proxy.pid,), {"nginx": proxy.pid})
