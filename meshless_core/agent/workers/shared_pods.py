"""The pods' listeners and folders, handed on to every worker as socketd handed them to the agent: same protocol and server."""

from __future__ import annotations

import os
from collections.abc import Mapping

from meshless_core.documents import PodPlacement
from meshless_core.errors import SocketDirectoryError
from meshless_core.socketd import ParkedPod, PodSockets

__all__ = ["SharedPods"]


class SharedPods:
    """Duplicates of the supervisor's descriptors, for a `SocketdServer`; nothing on disk is made or removed.

    Args:
        pods: the supervisor's pods by uid; changes as they come and go.
    """

    def __init__(self, pods: Mapping[str, PodSockets]) -> None:
        self._pods = pods

    def create(self, placement: PodPlacement) -> ParkedPod:
        """Duplicates of a pod's listener and folder.

        Raises:
            SocketDirectoryError: the pod is gone, or there are no descriptors left.
        """
        pod = self._pods.get(placement.uid)
        if pod is None:
            raise SocketDirectoryError(f"pod {placement.pod} is gone")
        try:
            listener = pod.listener.dup()
            try:
                return ParkedPod(placement, listener, os.dup(pod.server_folder))
            except OSError:
                listener.close()
                raise
        except OSError as error:
            raise SocketDirectoryError(
                f"cannot share the sockets of pod {placement.pod}: {error.strerror}; raise the limit of open files"
            ) from error

    def remove(self, parked: ParkedPod) -> None:
        """Close the duplicates."""
        parked.close()
