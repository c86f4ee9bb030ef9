"""A whole mesh on one machine, without root: one process per node's agent, a supervisor with reconciler, issuer and socketd.

Everything is the real thing: the same agents, documents, sockets and certificates as on a cluster. Only the kubelet is played.
"""

from meshless_core.dev.layout import NodeLayout, RunLayout
from meshless_core.dev.supervisor import DevMesh

__all__ = ["DevMesh", "NodeLayout", "RunLayout"]
