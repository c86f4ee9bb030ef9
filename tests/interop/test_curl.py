"""curl and wget dial through SOCKS5, CONNECT, plain requests and http_proxy, as the page says."""

from __future__ import annotations

from tests.interop.conftest import Servers
from tests.interop.programs import needs
from tests.interop.recipe import Pod

pytestmark = needs("nginx", "curl", "wget")


def test_curl_does_what_the_page_says(servers: Servers, web: Pod) -> None:
    servers.serve("pages", "nginx")
    web.follow("curl")
