"""Meshless itself, as a user gets it: a mesh by `meshless dev`, dialled through a pod's socket with the handshake."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import attrs

from bench.errors import PathUnavailableError
from bench.paths.base import Group, Route, Stage
from bench.processes import Process

__all__ = ["MeshlessPath"]

_READY_SECONDS = 60.0
_POLL_SECONDS = 0.05
_SERVICE = "any.far.bench"

_MESH = """\
apiVersion: meshless.dev/v1
kind: Meshlet
metadata: {{namespace: bench, name: near}}
spec:
  client:
    - {{namespace: bench, meshlet: far, service: any}}
---
apiVersion: meshless.dev/v1
kind: Meshlet
metadata: {{namespace: bench, name: far}}
spec:
  server:
    selector: {{app: far}}
    services:
      - name: any
        allow:
          - {{namespace: bench, meshlet: near}}
---
apiVersion: v1
kind: Pod
metadata: {{namespace: bench, name: near, labels: {{meshless/meshlet: near, app: near}}}}
spec:
  nodeName: {near_node}
  containers: [{{name: load, image: none}}]
---
apiVersion: v1
kind: Pod
metadata: {{namespace: bench, name: far, labels: {{meshless/meshlet: far, app: far}}}}
spec:
  nodeName: {far_node}
  containers: [{{name: load, image: none}}]
"""


@attrs.frozen
class MeshlessPath:
    """A mesh of one node (client and server beside one agent) or of two (an agent each, mutual TLS between them)."""

    name: str
    nodes: int
    hand_off: bool = False
    workers: int = 1
    in_quick: bool = True

    @property
    def group(self) -> Group:
        """By the number of nodes, and whether the bytes pass through the agent."""
        if self.hand_off:
            return Group.HANDED_OVER
        return Group.SAME_NODE if self.nodes == 1 else Group.CROSS_NODE

    @property
    def describes(self) -> str:
        """One line for the legend."""
        if self.hand_off:
            return "Meshless, one agent that hands the service's socket to the client (handshake version 2)"
        agents = "one agent" if self.nodes == 1 else "two agents"
        if self.workers > 1:
            return f"Meshless, {agents}, {self.workers} workers per agent, with handshake, decisions and access log"
        return f"Meshless, {agents}, default configuration, with handshake, decisions and access log"

    def start(self, stage: Stage) -> Route:
        """Start the mesh and the server in the far pod."""
        program = Path(sys.executable).with_name("meshless")
        if not program.exists():
            raise PathUnavailableError(
                f"there is no meshless beside {sys.executable}: run `make setup`, then use .venv/bin/python"
            )
        near_node, far_node = "a", "a" if self.nodes == 1 else "b"
        mesh, run = stage.folder / "mesh.yaml", stage.folder / "run"
        mesh.write_text(_MESH.format(near_node=near_node, far_node=far_node))
        command = [str(program), "dev", str(mesh), "--run-dir", str(run)]
        if self.workers > 1:
            config = stage.folder / "meshless.yaml"
            config.write_text(f"agent: {{workers: {self.workers}}}\n")
            command += ["--config", str(config)]
        dev = stage.start_proxy("meshless-dev", command)
        _wait_until_ready(dev)
        stage.start_server(f"unix:{run}/pods/bench/far/server/any")
        agents = {f"agent {node}": _agent_pid(run, node, dev) for node in dict.fromkeys((near_node, far_node))}
        # dev leads the tree: reconciler, socketd and supervisor count in CPU too, though no byte passes them
        roots = tuple(dict.fromkeys((dev.pid, *agents.values())))
        return Route(
            f"unix:{run}/pods/bench/near/client/meshless", _SERVICE, roots, agents, ("--hand-off",) if self.hand_off else ()
        )


def _wait_until_ready(dev: Process) -> None:
    deadline = time.monotonic() + _READY_SECONDS
    while "ready" not in map(str.strip, dev.log.read_text(errors="replace").splitlines()):
        dev.check()
        if time.monotonic() > deadline:
            raise PathUnavailableError(f"meshless dev is not ready after {_READY_SECONDS:.0f} s: {dev.tail()}")
        time.sleep(_POLL_SECONDS)  # between two looks; the deadline above bounds them


def _agent_pid(run: Path, node: str, dev: Process) -> int:
    file = run / "nodes" / node / "agent.pid"
    try:
        return int(file.read_text())
    except (FileNotFoundError, ValueError) as error:
        raise PathUnavailableError(f"node {node}: {file.name} does not name a process: {dev.tail()}") from error
