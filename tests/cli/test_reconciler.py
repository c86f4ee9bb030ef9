"""`meshless reconciler` as a process: publishes, follows the file, ends on SIGTERM, says what is wrong."""

import asyncio
import datetime
import json
import os
import signal
import stat
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import click
import pytest

from meshless_core.bus import DirectoryBus
from meshless_core.cli.reconciler import parse_nodes
from meshless_core.documents import NodeManifest, ServiceDocument
from meshless_core.documents_codec import decode_document
from meshless_core.errors import IdentityError
from meshless_core.identity import CertificateAuthority, IssuerClient, certificates
from meshless_core.types import Identity

NODES = "node-a=127.0.0.1:7001,node-b=127.0.0.1:7002"
MESH = """
apiVersion: meshless.dev/v1
kind: Meshlet
metadata: {namespace: shop, name: cart}
spec: {server: {services: [{name: http}]}}
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {namespace: shop, name: cart}
spec:
  replicas: %d
  template: {metadata: {labels: {meshless/meshlet: cart}}}
"""
TOPIC = "service/shop/cart/http"


def configure(folder: Path) -> None:
    (folder / "meshless.yaml").write_text(
        "plugins:\n  discovery_file: {paths: [mesh.yaml], settle: 0.02}\n  bus_directory: {path: bus}\n"
    )
    (folder / "mesh.yaml").write_text(MESH % 1)


@asynccontextmanager
async def reconciler(folder: Path, *arguments: str) -> AsyncIterator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "meshless_core.cli", "--log-format", "json", "reconciler", *arguments),
        cwd=folder,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def published(folder: Path, topic: str) -> None:
    """Return when the topic is on the bus."""
    updates = DirectoryBus(str(folder / "bus"), rescan=3600.0).subscribe(frozenset({topic}))
    while (await anext(updates)).payload is None:
        pass
    await updates.aclose()


async def test_it_publishes_follows_the_file_and_ends_on_sigterm(tmp_path: Path) -> None:
    configure(tmp_path)
    updates = DirectoryBus(str(tmp_path / "bus"), rescan=3600.0).subscribe(frozenset({TOPIC, "node/node-b/manifest"}))
    async with asyncio.timeout(40), reconciler(tmp_path, "--config", "meshless.yaml", "--nodes", NODES) as process:
        seen: dict[str, object] = {}
        while len(seen) < 2:
            update = await anext(updates)
            assert update.payload is not None
            seen[update.topic] = decode_document(update.topic, update.payload).body
        service: object = seen[TOPIC]
        manifest = seen["node/node-b/manifest"]
        assert isinstance(service, ServiceDocument)
        assert isinstance(manifest, NodeManifest)
        assert [endpoint.pod.name for endpoint in service.endpoints] == ["cart-0"]
        assert service.endpoints[0].address in {"127.0.0.1:7001", "127.0.0.1:7002"}
        (tmp_path / "mesh.yaml").write_text(MESH % 3)
        while not isinstance(service, ServiceDocument) or len(service.endpoints) != 3:
            update = await anext(updates)
            assert update.payload is not None
            service = decode_document(update.topic, update.payload).body
        await updates.aclose()
        process.send_signal(signal.SIGTERM)
        _, log = await process.communicate()
        assert process.returncode == 0, log
    assert "4 documents published" in log.decode()
    assert "told to stop; the documents stay on the bus" in log.decode()
    assert (tmp_path / "bus/service/shop/cart/http.json").exists()
    status = json.loads((tmp_path / "meshless-run/reconciler/status.json").read_text())
    assert status["meshlets"][0]["name"] == "cart"


async def test_a_file_that_is_wrong_at_the_start_is_named_with_its_line(tmp_path: Path) -> None:
    configure(tmp_path)
    (tmp_path / "mesh.yaml").write_text("kind: Pod\nkind: Pod\n")
    async with asyncio.timeout(40), reconciler(tmp_path, "--config", "meshless.yaml", "--nodes", NODES) as process:
        _, log = await process.communicate()
        assert process.returncode not in (0, 70), log
    assert "mesh.yaml:2" in log.decode()
    assert "duplicate key" in log.decode()
    assert not (tmp_path / "bus").exists()


def test_nodes_are_read_from_one_text_or_several() -> None:
    expected = {"node-a": "127.0.0.1:7001", "node-b": "[::1]:7002", "node-c": "host.example:1"}
    assert parse_nodes(("node-a=127.0.0.1:7001, node-b=[::1]:7002", "node-c=host.example:1")) == expected


@pytest.mark.parametrize(
    "text",
    ["", "node-a", "node-a=", "Node=127.0.0.1:1", "node-a=127.0.0.1", "node-a=:1", "node-a=h:0", "node-a=h:65536", "a=h:1,"],
)
def test_an_entry_of_another_form_is_refused(text: str) -> None:
    with pytest.raises(click.BadParameter, match="is not <node>=<host>:<port>"):
        parse_nodes((text,))


def test_a_node_named_twice_is_refused() -> None:
    with pytest.raises(click.BadParameter, match="'a' is named twice"):
        parse_nodes(("a=h:1", "a=h:2"))


async def test_it_issues_each_node_the_leaves_of_its_own_pods_and_removes_the_sockets_at_the_end(tmp_path: Path) -> None:
    configure(tmp_path)
    (tmp_path / "mesh.yaml").write_text((MESH % 1).replace("cart}}}", "cart}}, spec: {nodeName: node-a}}"))
    CertificateAuthority.create(tmp_path / "ca", "mesh.local")
    arguments = ("--config", "meshless.yaml", "--nodes", NODES, "--ca", "ca", "--issuer-dir", "run/issuer")
    request = certificates.build_request(certificates.generate_key())
    cart = Identity("mesh.local", "shop", "cart")
    async with asyncio.timeout(40), reconciler(tmp_path, *arguments, "--leaf-lifetime", "30m") as process:
        await published(tmp_path, TOPIC)
        folder = tmp_path / "run/issuer"
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        issued = await IssuerClient(folder / "node-a.sock").issue(cart, request)
        leaf = certificates.load_certificates(issued.chain_pem, "chain")[0]
        assert certificates.identity_of(leaf) == cart
        assert leaf.not_valid_after_utc - leaf.not_valid_before_utc <= datetime.timedelta(minutes=35)
        with pytest.raises(IdentityError, match="has no pod on node node-b"):
            await IssuerClient(folder / "node-b.sock").issue(cart, request)
        process.send_signal(signal.SIGTERM)
        _, log = await process.communicate()
        assert process.returncode == 0, log
        assert list(folder.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--ca", "ca"], "--ca and --issuer-dir go together"),
        (["--ca", "nowhere", "--issuer-dir", "run"], "create one with meshless ca init"),
        (["--ca", "ca", "--issuer-dir", "run"], "trust_domain: is mesh.local, but the authority in ca is of other.test"),
        (["--ca", "ca", "--issuer-dir", "run", "--leaf-lifetime", "3s"], "is not between 4s and 2160h"),
        (["--ca", "ca", "--issuer-dir", "run", "--leaf-lifetime", "soon"], "is not a duration"),
    ],
)
async def test_an_issuer_that_cannot_be_is_refused_before_anything_starts(
    tmp_path: Path, arguments: list[str], message: str
) -> None:
    configure(tmp_path)
    CertificateAuthority.create(tmp_path / "ca", "other.test")
    async with (
        asyncio.timeout(40),
        reconciler(tmp_path, "--config", "meshless.yaml", "--nodes", NODES, *arguments) as process,
    ):
        _, log = await process.communicate()
        assert process.returncode in (1, 2), log
    assert message in " ".join(log.decode().split())
    assert not (tmp_path / "bus").exists()


async def test_a_folder_others_may_write_is_no_place_for_the_issuers_sockets(tmp_path: Path) -> None:
    configure(tmp_path)
    CertificateAuthority.create(tmp_path / "ca", "mesh.local")
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared").chmod(0o777)
    arguments = ("--config", "meshless.yaml", "--nodes", NODES, "--ca", "ca", "--issuer-dir", "shared")
    async with asyncio.timeout(40), reconciler(tmp_path, *arguments) as process:
        _, log = await process.communicate()
        assert process.returncode not in (0, 70), log
    assert "others may write into shared (mode 0777)" in log.decode()
    assert stat.S_IMODE((tmp_path / "shared").stat().st_mode) == 0o777
