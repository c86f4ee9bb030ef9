from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import meshless_sdk
import pytest
from meshless_sdk.serving import Connection, Server

if TYPE_CHECKING:
    from meshless_sdk.pytest_plugin import Mesh

SHOP = """
apiVersion: meshless.dev/v1
kind: Meshlet
metadata: {namespace: shop, name: web}
spec: {client: [{namespace: shop, meshlet: cart, service: http}]}
---
apiVersion: meshless.dev/v1
kind: Meshlet
metadata: {namespace: shop, name: cart}
spec:
  server:
    selector: {app: cart}
    services: [{name: http}]
---
apiVersion: v1
kind: Pod
metadata: {namespace: shop, name: web, labels: {meshless/meshlet: web}}
spec: {nodeName: node-a}
---
apiVersion: v1
kind: Pod
metadata: {namespace: shop, name: cart, labels: {meshless/meshlet: cart, app: cart}}
spec: {nodeName: node-a}
"""


def test_the_fake_agent_is_where_the_sdk_looks(meshless_agent: Any) -> None:
    meshless_agent.refuse("http.cart.shop", "ACCESS_DENIED")
    with pytest.raises(meshless_sdk.AccessDenied):
        meshless_sdk.connect("http.cart.shop")
    assert os.environ["MESHLESS_DIR"] == meshless_agent.directory


@pytest.mark.slow
def test_a_real_mesh_carries_a_connection_and_refuses_what_is_not_declared(meshless_mesh: Callable[[str], Mesh]) -> None:
    mesh = meshless_mesh(SHOP)

    def greet(connection: Connection) -> None:
        connection.socket.sendall(b"hello")

    with Server(greet, "http", path=mesh.server("shop", "cart", "http")) as server:
        import threading

        serving = threading.Thread(target=server.serve_forever)
        serving.start()
        dialler = meshless_sdk.Dialer(path=mesh.client("shop", "web"))
        with dialler.connect("http.cart.shop") as connection:
            assert connection.recv(10) == b"hello"
        with pytest.raises(meshless_sdk.AccessDenied):
            dialler.connect("other.cart.shop")
        server.request_stop()
        serving.join(10)
    assert meshless_mesh(SHOP) is mesh


def test_loading_the_plugin_costs_no_more_than_pytest_itself() -> None:
    code = (
        "import sys, pytest; before = set(sys.modules); import meshless_sdk.pytest_plugin; "
        "new = {name.split('.')[0] for name in set(sys.modules) - before}; "
        "print(*sorted(new & {'asyncio', 'ssl', 'httpx', 'uvicorn', 'meshless_core'}))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out == "\n"


@pytest.mark.slow
def test_a_mesh_with_a_wrong_meshlet_fails_the_test_with_what_is_wrong(meshless_mesh: Callable[[str], Mesh]) -> None:
    wrong = SHOP.replace("services: [", "service: [")
    for text in (wrong, f"{wrong}# and another"):  # one that failed is not in the way of the next
        with pytest.raises(pytest.fail.Exception, match=r"\$\.spec\.server\.service: unknown field, did you mean 'services'\?"):
            meshless_mesh(text)
