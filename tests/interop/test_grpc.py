"""gRPC calls of each kind, streams in both directions among them, as the page says."""

from __future__ import annotations

from tests.interop.conftest import Servers
from tests.interop.recipe import Pod


def test_grpc_does_what_the_page_says(servers: Servers, web: Pod) -> None:
    servers.serve("greeter", "gRPC")
    web.follow("gRPC")
