"""What is read from an agent's parts at each scrape, because it lives there and not with the counters of connections."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from meshless_core.agent.document_set import Outcome
from meshless_core.documents import ServiceDocument

if TYPE_CHECKING:
    from meshless_core.agent.agent import Agent

__all__ = ["provided_services", "read_gauges"]

_Values = dict[tuple[str, ...], float]

_RESULTS: Final[Mapping[Outcome, str]] = {
    Outcome.CHANGED: "applied",
    Outcome.SAME: "unchanged",
    Outcome.STALE: "stale",
    Outcome.MALFORMED: "malformed",
    Outcome.CONFLICT: "conflict",
}


def read_gauges(agent: Agent, accepting: int) -> dict[str, _Values]:
    """Metric name -> (label values -> value), as of now.

    Args:
        agent: the agent.
        accepting: pods whose connects are accepted now.
    """
    runtime, documents = agent.runtime, agent.documents
    age = documents.age_seconds()
    revisions = runtime.table.revisions.values() if runtime.table else ()
    now = time.time()
    return {
        "meshless_handshakes_pending": {(): float(runtime.handshaking)},
        "meshless_tunnel_sessions": {
            ("client", "idle"): float(agent.outbound.idle),
            ("client", "active"): float(agent.outbound.active),
            ("server", "idle"): float(agent.inbound.idle),
            ("server", "active"): float(agent.inbound.active),
            ("server", "authenticating"): float(agent.inbound.authenticating),
        },
        "meshless_pods": {(): float(len(runtime.pods))},
        "meshless_sockets": _sockets(agent, accepting),
        "meshless_config_generation": {(): float(max((r.generation for r in revisions), default=0))},
        "meshless_config_age_seconds": {(): age} if age is not None else {},
        "meshless_bus_connected": {(): float(documents.connected)},
        "meshless_bus_messages_total": {
            ("received", result): float(documents.received[outcome]) for outcome, result in _RESULTS.items()
        },
        "meshless_access_log_lost_lines_total": {(): float(runtime.access_log.lost)},
        "meshless_certificate_expiry_seconds": {
            (identity.namespace, identity.meshlet): at - now for identity, at in agent.leaves.expiries().items()
        },
    }


def provided_services(agent: Agent) -> dict[str, list[str]]:
    """Names of the services that each pod of this node provides, by the pod's uid; each needs a socket in its pod."""
    services: dict[str, list[str]] = {}
    for document in agent.documents.documents.values():
        if isinstance(document.body, ServiceDocument):
            for endpoint in document.body.endpoints:
                if endpoint.node == agent.node:
                    services.setdefault(endpoint.uid, []).append(document.body.service.service)
    return {uid: sorted(names) for uid, names in services.items()}


def _sockets(agent: Agent, accepting: int) -> _Values:
    pods = agent.runtime.pods
    present = missing = 0
    for uid, services in provided_services(agent).items():
        pod = pods.get(uid)
        there = sum(map(pod.service_sockets.has, services)) if pod is not None else 0
        present += there
        missing += len(services) - there
    return {
        ("client", "accepting"): float(accepting),
        ("client", "waiting"): float(max(len(pods) - accepting, 0)),
        ("server", "present"): float(present),
        ("server", "missing"): float(missing),
    }
