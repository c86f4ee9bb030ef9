from __future__ import annotations

import http.client
import json
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from meshless_sdk import asgi, wsgi

VECTORS = json.loads((Path(__file__).parents[3] / "protocol/vectors/proxy-v2.json").read_text("utf-8"))["vectors"]
HEADER = bytes.fromhex("".join(VECTORS[0]["bytes"]))


def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    body = environ["wsgi.input"].read()
    start_response("200 OK", [("Content-Type", "application/json")])
    seen = {
        "peer": str(environ.get(wsgi.PEER, "nobody told")),
        "server": environ["SERVER_NAME"],
        "remote": environ["REMOTE_ADDR"],
        "path": environ["PATH_INFO"],
        "bytes": len(body),
    }
    return [json.dumps(seen).encode()]


@pytest.fixture(params=[False, True], ids=["plain", "proxy protocol"])
def serving(request: pytest.FixtureRequest, pod: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[bool]:
    servers: list[asgi.Server] = []
    there = threading.Event()

    class Noted(asgi.Server):
        async def startup(self, sockets: Any = None) -> None:
            await super().startup(sockets)
            servers.append(self)
            there.set()

    monkeypatch.setattr(asgi, "Server", Noted)
    thread = threading.Thread(target=lambda: wsgi.serve(app, "http", proxy_protocol=request.param, log_level="critical"))
    thread.start()
    assert there.wait(10)
    yield request.param
    servers[0].should_exit = True
    thread.join(10)


def test_an_application_gets_the_request_and_who_connects(pod: Path, serving: bool) -> None:
    client = http.client.HTTPConnection("http.cart.shop")
    client.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    client.sock.settimeout(10)
    client.sock.connect(str(pod / "server" / "http"))
    client.sock.sendall(HEADER if serving else b"")
    for _ in range(2):
        client.request("POST", "/orders", b"x" * 100_000)
        assert json.loads(client.getresponse().read()) == {
            "peer": "spiffe://mesh.local/ns/shop/meshlet/web" if serving else "nobody told",
            "server": "http.cart.shop",
            "remote": "",
            "path": "/orders",
            "bytes": 100_000,
        }
    client.close()
