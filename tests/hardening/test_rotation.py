"""Leaves and roots change under a running mesh: what lives goes on, what is new uses the new, what is old is not used again.

Leaves live twelve seconds here and are renewed after about four, so a rotation of the root is carried out while one waits.
"""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509

from meshless_core.identity import certificates
from meshless_core.types import ReplyCode

pytestmark = pytest.mark.slow

LIFETIME = 12.0  # seconds


@pytest.fixture(scope="module")
def reconciler_options() -> Sequence[str]:
    return (f"--leaf-lifetime={LIFETIME:g}s",)


def leaf_of(mesh: Any, node: str, meshlet: str) -> tuple[int, bytes]:
    """Serial number and issuing key of the leaf an agent holds on disk; an older one lies beside it for a moment."""
    found = []
    for path in (mesh.folder / node / "state" / "leaves" / f"{meshlet}.shop").glob("*.crt"):
        with contextlib.suppress(FileNotFoundError):  # replaced while we look
            found.append(certificates.load_certificates(path.read_bytes(), str(path))[0])
    newest = max(found, key=lambda leaf: leaf.not_valid_before_utc)
    issuer = newest.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value
    assert issuer.key_identifier is not None
    return newest.serial_number, issuer.key_identifier


def roots(mesh: Any, node: str) -> int:
    """How many roots an agent trusts."""
    return Path(mesh.folder / node / "state" / "leaves" / "bundle.pem").read_text().count("BEGIN CERTIFICATE")


def rotate(mesh: Any, *options: str) -> None:
    command = [sys.executable, "-m", "meshless_core.cli", "ca", "rotate", *options, "ca"]
    subprocess.run(command, cwd=mesh.folder, check=True, capture_output=True, timeout=30)


def say(connection: Any, data: bytes) -> None:
    connection.sendall(data)
    received = b""
    while len(received) < len(data):
        part = connection.recv(64)
        assert part, "the live connection was cut"
        received += part
    assert received == data


@contextlib.contextmanager
def traffic(mesh: Any) -> Iterator[list[ReplyCode]]:
    """New connections one after the other during the block; the replies."""
    codes: list[ReplyCode] = []
    over = threading.Event()

    def dial() -> None:
        while not over.wait(0.005):
            client, code = mesh.open()
            client.close()
            codes.append(code)

    thread = threading.Thread(target=dial)
    thread.start()
    try:
        yield codes
    finally:
        over.set()
        thread.join()


def handshakes(mesh: Any) -> float:
    made: float = mesh.metric("node-a", "meshless_tunnel_handshakes_total", role="client", result="ok")
    return made


def test_a_renewed_leaf_leaves_live_connections_alone_and_retires_warm_sessions(
    mesh: Any, patience: Callable[..., Any]
) -> None:
    mesh.exchange()
    live, code = mesh.open()
    assert code is ReplyCode.OK
    say(live, b"before")
    first = {node: leaf_of(mesh, node, meshlet)[0] for node, meshlet in (("node-a", "web"), ("node-b", "cart"))}

    def renewed() -> bool:
        return leaf_of(mesh, "node-a", "web")[0] != first["node-a"] and leaf_of(mesh, "node-b", "cart")[0] != first["node-b"]

    patience(renewed, "both ends have renewed their leaves")
    say(live, b"after")
    # the live connection's session was made with the old leaves: clean as its end is, it is not kept
    with nothing_kept(mesh, patience, active=1):
        live.shutdown(socket.SHUT_WR)
        assert live.recv(1) == b""
        live.close()
    before = handshakes(mesh)
    mesh.exchange()
    assert handshakes(mesh) == before + 1


@contextlib.contextmanager
def nothing_kept(mesh: Any, patience: Callable[..., Any], *, active: int) -> Iterator[None]:
    """No idle session before the block, and none after it when `active` connections have ended in it."""
    patience(lambda: mesh.metric("node-a", "meshless_tunnel_sessions", state="idle") == 0, "idle sessions are gone")
    assert mesh.metric("node-a", "meshless_tunnel_sessions", state="active") == active
    yield
    patience(lambda: mesh.metric("node-a", "meshless_tunnel_sessions", state="active") == 0, "the connection has ended")
    assert mesh.metric("node-a", "meshless_tunnel_sessions", state="idle") == 0


def test_the_root_is_rotated_under_traffic_without_a_single_failure(mesh: Any, patience: Callable[..., Any]) -> None:
    old_root = leaf_of(mesh, "node-a", "web")[1]
    stolen = mesh.leaf("web", lifetime=3600)  # of the old root, still valid when that root is no longer trusted
    live, code = mesh.open()
    assert code is ReplyCode.OK
    with traffic(mesh) as codes:
        rotate(mesh)
        patience(lambda: roots(mesh, "node-a") == roots(mesh, "node-b") == 2, "both agents trust both roots")
        with mesh.tunnel(mesh.context(stolen)) as tunnel:
            assert tunnel.open(mesh.request()).code is ReplyCode.OK, "the old root is trusted during the overlap"
        patience(
            lambda: old_root not in (leaf_of(mesh, "node-a", "web")[1], leaf_of(mesh, "node-b", "cart")[1]),
            "both agents have leaves of the new root",
        )
        during = len(codes)
        patience(lambda: len(codes) > during + 5, "connections under the new root")
        rotate(mesh, "--finish", "--force")
        patience(lambda: roots(mesh, "node-a") == roots(mesh, "node-b") == 1, "both agents trust the new root only")
        finished = len(codes)
        patience(lambda: len(codes) > finished + 5, "connections after the rotation")
    assert set(codes) == {ReplyCode.OK}
    say(live, b"still here")
    live.close()
    untrusted = {"role": "server", "result": "certificate_untrusted"}
    before = mesh.metric("node-b", "meshless_tunnel_handshakes_total", **untrusted)
    with contextlib.suppress(OSError), mesh.tunnel(mesh.context(stolen)) as tunnel:
        assert tunnel.everything() == b""
    patience(
        lambda: mesh.metric("node-b", "meshless_tunnel_handshakes_total", **untrusted) == before + 1,
        "a leaf of the retired root is refused",
    )
