"""One mesh of two nodes for the recipes, with a folder that servers which give up root can reach."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.interop.recipe import CLIENT, Pod, objects
from tests.mesh.running_mesh import RunningMesh


@pytest.fixture(scope="session")
def mesh() -> Iterator[RunningMesh]:
    # not pytest's folders: they are for their owner only, and their paths may be too long for a socket
    folder = Path(tempfile.mkdtemp(prefix="meshless-interop-"))
    folder.chmod(0o755)
    try:
        with RunningMesh(folder, objects()) as running:
            yield running
    finally:
        shutil.rmtree(folder)


class Servers:
    """The pods that serve: each is started when a test first needs it, and ends after its module."""

    def __init__(self, mesh: RunningMesh) -> None:
        self.mesh = mesh
        self._pods: dict[str, Pod] = {}

    def serve(self, pod: str, section: str) -> Pod:
        """Have a pod do its part of a section, once."""
        if pod not in self._pods:
            self._pods[pod] = Pod(self.mesh, pod, pod, self.mesh.folder / pod)
            self._pods[pod].follow(section)
        return self._pods[pod]

    def stop(self) -> None:
        for pod in reversed(self._pods.values()):
            pod.stop()
            shutil.rmtree(pod.folder)


@pytest.fixture(scope="module")
def servers(mesh: RunningMesh) -> Iterator[Servers]:
    servers = Servers(mesh)
    yield servers
    servers.stop()


@pytest.fixture(params=["same-node", "other-node"])
def web(mesh: RunningMesh, request: pytest.FixtureRequest) -> Iterator[Pod]:
    """The pod that dials, beside the servers or on another node."""
    pod = Pod(mesh, CLIENT, CLIENT if request.param == "same-node" else f"{CLIENT}-elsewhere", mesh.folder / CLIENT)
    yield pod
    pod.stop()
    shutil.rmtree(pod.folder)
