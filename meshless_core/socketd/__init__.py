"""socketd: owns the pods' socket directories and parks their listeners.

socketd creates one directory and one listener per pod and hands listeners and directory descriptors to the node's agent. Which
listener accepted a connection *is* the client's identity, so nothing a client says is ever believed. Because socketd keeps a
copy of every listener, an agent that dies loses no connect: it waits in the backlog for the next agent.

socketd moves no bytes of connections, parses nothing a pod sends and loads no plugins.
"""

from meshless_core.socketd.client import PodSockets, SocketdClient
from meshless_core.socketd.directories import LISTEN_BACKLOG, ParkedPod, PodDirectories
from meshless_core.socketd.manifest import follow_manifest
from meshless_core.socketd.server import SocketdServer

__all__ = ["LISTEN_BACKLOG", "ParkedPod", "PodDirectories", "PodSockets", "SocketdClient", "SocketdServer", "follow_manifest"]
