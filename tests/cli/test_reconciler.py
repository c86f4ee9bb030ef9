"""`meshless reconciler` as a process: publishes, follows the file, ends on SIGTERM, says what is wrong."""

import asyncio
import json
import os
import signal
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
