"""WebSockets: a server on a pod's socket, a client on the agent's, and one that knows only a URL, as the page says."""

from __future__ import annotations

from tests.interop.conftest import Servers
from tests.interop.recipe import Pod


def test_websockets_do_what_the_page_says(servers: Servers, web: Pod) -> None:
    servers.serve("chat", "WebSockets")
    web.follow("WebSockets")
