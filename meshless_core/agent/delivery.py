"""The last step on the pod's node, for same-node connections and tunnels: count the slot, connect to the application."""

from __future__ import annotations

import socket
from typing import Final

import attrs

from meshless_core.agent.runtime import AgentRuntime
from meshless_core.agent.service_socket import ServiceSocketError
from meshless_core.routing import Route
from meshless_core.types import PodRef, ReplyCode

__all__ = ["BACKLOG_RETRY_SECONDS", "DeliveryFailure", "deliver"]

BACKLOG_RETRY_SECONDS: Final = 0.005
"""A Unix listener with a full backlog gives no event when there is room again: ask again after this long."""


@attrs.frozen
class DeliveryFailure:
    """Why a pod was not reached; `text` is for logs and the reply."""

    code: ReplyCode
    text: str


def deliver(runtime: AgentRuntime, route: Route, pod: PodRef, uid: str) -> socket.socket | DeliveryFailure | None:
    """Connect to a local pod's service and count it.

    Returns:
        The socket, with a slot taken that the caller gives back; None if the application's backlog is full (try again, no
        slot is taken); otherwise why not.
    """
    local = runtime.pods.get(uid)
    service = route.service
    if local is None or local.placement.pod != pod:
        return DeliveryFailure(ReplyCode.NO_ENDPOINT, f"pod {pod} ({uid}) is not on node {runtime.node} any more")
    if local.placement.meshlet != service.owner:
        return DeliveryFailure(ReplyCode.NO_ENDPOINT, f"pod {pod} does not belong to meshlet {service.owner}")
    if not runtime.slots.take(uid, service.service, route.max_conn):
        return DeliveryFailure(ReplyCode.CONNECTION_LIMIT, f"pod {pod} has its maxConn of {route.max_conn} connections")
    try:
        connection = local.service_sockets.connect(service.service)
    except ServiceSocketError as error:
        runtime.slots.give_back(uid, service.service)
        return DeliveryFailure(ReplyCode.SERVICE_REFUSED, f"pod {pod}: {error}")
    except OSError as error:
        runtime.slots.give_back(uid, service.service)
        return DeliveryFailure(ReplyCode.OVERLOADED, f"pod {pod}: {error.strerror}: raise the agent's limit of open files")
    if connection is None:
        runtime.slots.give_back(uid, service.service)
    return connection
