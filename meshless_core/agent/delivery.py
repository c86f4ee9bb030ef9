"""The last step on the pod's node, for same-node connections and tunnels: count the slot, connect to the application."""

from __future__ import annotations

import socket
from typing import Final

import attrs

from meshless_core.agent.proxy_protocol import encode_proxy_header
from meshless_core.agent.runtime import AgentRuntime
from meshless_core.agent.service_socket import ServiceSocketError
from meshless_core.routing import Route
from meshless_core.types import Identity, MeshletRef, PodRef, ReplyCode, ServiceId

__all__ = ["BACKLOG_RETRY_SECONDS", "DeliveryFailure", "Introduction", "deliver"]

BACKLOG_RETRY_SECONDS: Final = 0.005
"""A Unix listener with a full backlog gives no event when there is room again: ask again after this long."""


@attrs.frozen
class DeliveryFailure:
    """Why a pod was not reached; `text` is for logs and the reply."""

    code: ReplyCode
    text: str


@attrs.frozen
class Introduction:
    """Who connects: what a service with `proxyProtocol: v2` is told first.

    Attributes:
        connection_id: 16 bytes.
        source: the client's meshlet, as authorized.
        source_pod: the client's pod where known.
    """

    connection_id: bytes
    source: MeshletRef
    source_pod: PodRef | None


def deliver(
    runtime: AgentRuntime, route: Route, pod: PodRef, uid: str, who: Introduction
) -> socket.socket | DeliveryFailure | None:
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
    elif route.proxy_protocol is not None and not _introduce(runtime, connection, service, who):
        connection.close()
        runtime.slots.give_back(uid, service.service)
        return DeliveryFailure(ReplyCode.SERVICE_REFUSED, f"pod {pod}: server/{service.service} does not take its PROXY header")
    return connection


def _introduce(runtime: AgentRuntime, connection: socket.socket, service: ServiceId, who: Introduction) -> bool:
    """Write the PROXY header; it fits the buffer of a fresh socket as a whole, or the service is gone."""
    source = Identity(runtime.trust_domain, who.source.namespace, who.source.name)
    header = encode_proxy_header(connection_id=who.connection_id, service=service, source=source, source_pod=who.source_pod)
    try:
        return connection.send(header) == len(header)
    except OSError:
        return False
