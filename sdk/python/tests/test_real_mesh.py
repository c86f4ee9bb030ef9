"""The SDK against real agents: what unit tests say of a fake one holds for the real one."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import meshless_sdk
import pytest
from meshless_sdk.serving import Connection, Server

if TYPE_CHECKING:
    from meshless_sdk.pytest_plugin import Mesh

pytestmark = pytest.mark.slow

SHOP = """
apiVersion: meshless.dev/v1
kind: Meshlet
metadata: {namespace: shop, name: web}
spec:
  client:
    - {namespace: shop, meshlet: cart, service: http}
    - {namespace: shop, meshlet: cart, service: told}
    - {namespace: shop, meshlet: cart, service: absent}
---
apiVersion: meshless.dev/v1
kind: Meshlet
metadata: {namespace: shop, name: cart}
spec:
  server:
    selector: {app: cart}
    services:
      - {name: http}
      - {name: told, proxyProtocol: v2}
      - {name: absent}
---
apiVersion: v1
kind: Pod
metadata: {namespace: shop, name: web, labels: {meshless/meshlet: web}}
spec: {nodeName: node-a}
---
apiVersion: v1
kind: Pod
metadata: {namespace: shop, name: cart, labels: {meshless/meshlet: cart, app: cart, version: v1}}
spec: {nodeName: node-a}
"""


@pytest.fixture
def mesh(meshless_mesh: Callable[[str], Mesh]) -> Mesh:
    return meshless_mesh(SHOP)


@pytest.fixture
def serving(mesh: Mesh) -> Iterator[Callable[..., None]]:
    threads: list[tuple[Server, threading.Thread]] = []

    def begin(service: str, handler: Callable[[Connection], object], proxy_protocol: bool = False) -> None:
        server = Server(handler, service, path=mesh.server("shop", "cart", service), proxy_protocol=proxy_protocol)
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        threads.append((server, thread))

    yield begin
    for server, thread in threads:
        assert server.stop(10) == 0
        thread.join(10)


def echo(connection: Connection) -> None:
    while data := connection.socket.recv(1000):
        connection.socket.sendall(data)


@pytest.mark.parametrize("receive_descriptors", [False, True])
def test_a_real_agent_speaks_version_2(mesh: Mesh, serving: Callable[..., None], receive_descriptors: bool) -> None:
    serving("http", echo)
    dialler = meshless_sdk.Dialer(path=mesh.client("shop", "web"), sticky_key=b"k", receive_descriptors=receive_descriptors)
    with dialler.connect("http.cart.shop") as connection:
        connection.sendall(b"ping")
        assert connection.recv(10) == b"ping"
        assert connection.handshake_version == 2
        assert connection.handed_over == receive_descriptors
        assert len(connection.connection_id) == 32
        assert (connection.version, connection.endpoint) == ("v1", "shop/cart")


def test_a_real_refusal_names_the_connection(mesh: Mesh) -> None:
    dialler = meshless_sdk.Dialer(path=mesh.client("shop", "web"), retry=meshless_sdk.Retry(1))
    with pytest.raises(meshless_sdk.AccessDenied) as denied:
        dialler.connect("other.cart.shop")
    assert len(denied.value.connection_id) == 32
    with pytest.raises(meshless_sdk.ServiceRefused) as refused:
        dialler.connect("absent.cart.shop")
    assert refused.value.text


def test_the_plain_functions_still_dial(mesh: Mesh, serving: Callable[..., None]) -> None:
    serving("http", echo)
    with meshless_sdk.connect("http.cart.shop", path=mesh.client("shop", "web")) as connection:
        connection.sendall(b"ping")
        assert connection.recv(10) == b"ping"


def test_a_server_that_asks_is_told_who_connects(mesh: Mesh, serving: Callable[..., None]) -> None:
    def tell(connection: Connection) -> None:
        assert connection.peer is not None
        connection.socket.sendall(f"{connection.id} {connection.peer} {connection.peer.pod}".encode())

    serving("told", tell, proxy_protocol=True)
    with meshless_sdk.Dialer(path=mesh.client("shop", "web")).connect("told.cart.shop") as connection:
        told = connection.makefile("rb").read().decode()
        assert told == f"{connection.connection_id} spiffe://mesh.local/ns/shop/meshlet/web web"
