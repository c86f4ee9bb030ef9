"""nginx serves a pod's service on its own Unix socket, to many and for long answers."""

from __future__ import annotations

import hashlib
import os
import re

from tests.interop.conftest import Servers
from tests.interop.programs import needs
from tests.interop.recipe import Pod

pytestmark = needs("nginx", "curl")
CURL = 'curl -sS --unix-socket "$MESHLESS_DIR/client/meshless"'


def test_a_large_file_arrives_whole(servers: Servers, web: Pod) -> None:
    pages = servers.serve("pages", "nginx")
    content = os.urandom(8_000_000)
    (pages.folder / "html" / "flour").write_bytes(content)
    assert web.run(f"{CURL} -o flour -w '%{{http_code}}' http://http.pages.shop/flour") == "200"
    assert hashlib.sha256((web.folder / "flour").read_bytes()).digest() == hashlib.sha256(content).digest()


def test_requests_share_a_connection_and_what_nginx_says_passes_unchanged(servers: Servers, web: Pod) -> None:
    servers.serve("pages", "nginx")
    url = "http://http.pages.shop"
    said = web.run(
        f"{CURL} -w '%{{http_code}} %{{num_connects}}\\n' -o one {url}/ -o two {url}/nothing -o three {url}/bread.json"
    )
    assert said == "200 1\n404 0\n200 0\n"
    head = web.run(f"{CURL} -I {url}/bread.json")
    assert re.search(r"^Server: nginx/", head, re.MULTILINE)
    assert web.run(f"{CURL} -r 2-5 {url}/bread.json") == "name"


def test_nginx_is_the_way_in_as_the_page_says(servers: Servers, web: Pod) -> None:
    servers.serve("pages", "nginx")
    web.follow("nginx as the way in")
