"""A mesh of two nodes as processes: a client on node-a, one service beside it and one on node-b. The tests play the pods."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.mesh.running_mesh import RunningMesh, raise_open_files

TWO_NODES = """
apiVersion: meshless.dev/v1
kind: Meshlet
metadata: {namespace: shop, name: web}
spec:
  client:
    - {namespace: shop, meshlet: near, service: http}
    - {namespace: shop, meshlet: far, service: http}
---
apiVersion: meshless.dev/v1
kind: Meshlet
metadata: {namespace: shop, name: near}
spec: {server: {selector: {app: near}, services: [{name: http}]}}
---
apiVersion: meshless.dev/v1
kind: Meshlet
metadata: {namespace: shop, name: far}
spec: {server: {selector: {app: far}, services: [{name: http}]}}
---
apiVersion: v1
kind: Pod
metadata: {namespace: shop, name: web-0, labels: {meshless/meshlet: web}}
spec: {nodeName: node-a}
---
apiVersion: v1
kind: Pod
metadata: {namespace: shop, name: near-0, labels: {meshless/meshlet: near, app: near}}
spec: {nodeName: node-a}
---
apiVersion: v1
kind: Pod
metadata: {namespace: shop, name: far-0, labels: {meshless/meshlet: far, app: far}}
spec: {nodeName: node-b}
"""


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningMesh]:
    """A running mesh; after the module's tests it has to end and leave nothing."""
    raise_open_files()
    folder: Path = tmp_path_factory.mktemp("mesh")
    with RunningMesh(folder, TWO_NODES) as running:
        yield running
