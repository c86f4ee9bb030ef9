"""Every metric an agent exports: the table that code, merging of workers and reference are made from or checked against.

Names and labels are those of ztunnel and Linkerd where the meaning is the same. A label holds names of declared meshlets,
services, versions and plugins, or a word of a fixed set: never a pod, an address, a path or text a peer chose.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal

import attrs

__all__ = ["FLOW_LABELS", "METRICS", "METRICS_BY_NAME", "MetricInfo"]

FLOW_LABELS: Final = (
    "reporter",
    "source_namespace",
    "source_meshlet",
    "destination_namespace",
    "destination_meshlet",
    "destination_service",
    "destination_version",
)
"""What kind of connection: the labels of everything that is counted per connection."""


@attrs.frozen
class MetricInfo:
    """A metric's page in the reference: name without unit guessing, type, labels, help with unit.

    `of_workers` says what the node's value is when there are several workers (`agent.workers`): their sum, or what the worker
    with the highest or the lowest one says, where each tells of the same thing.
    """

    name: str
    type: Literal["counter", "gauge", "histogram", "info"]
    help: str
    labels: tuple[str, ...] = ()
    of_workers: Literal["sum", "max", "min"] = "sum"


METRICS: Final = (
    MetricInfo("meshless_connections_opened_total", "counter", "Connections established.", FLOW_LABELS),
    MetricInfo(
        "meshless_connections_closed_total",
        "counter",
        "Established connections that ended; reason is the outcome, flags says who or what ended it.",
        (*FLOW_LABELS, "reason", "flags"),
    ),
    MetricInfo("meshless_connections_active", "gauge", "Connections established now.", FLOW_LABELS),
    MetricInfo(
        "meshless_connections_refused_total",
        "counter",
        "Requests that became no connection; reason is the class, flags the reply code. The version is unknown until one was "
        "chosen.",
        (*FLOW_LABELS, "reason", "flags"),
    ),
    MetricInfo("meshless_sent_bytes_total", "counter", "Payload bytes from clients towards services.", FLOW_LABELS),
    MetricInfo("meshless_received_bytes_total", "counter", "Payload bytes from services towards clients.", FLOW_LABELS),
    MetricInfo(
        "meshless_connect_duration_seconds",
        "histogram",
        "From the complete request to the reply, for established connections.",
        FLOW_LABELS,
    ),
    MetricInfo("meshless_connection_duration_seconds", "histogram", "From established to closed.", FLOW_LABELS),
    MetricInfo(
        "meshless_revocations_ignored_total",
        "counter",
        "Handed-over connections that the agent had to cut, because the client did not stop when it was told to.",
        FLOW_LABELS,
    ),
    MetricInfo(
        "meshless_authz_decisions_total",
        "counter",
        "Decisions of all authorizers together, those about live connections after a change included. mode is enforce: no "
        "policy is only tried out yet.",
        ("action", "mode", "reporter"),
    ),
    MetricInfo(
        "meshless_plugin_hook_seconds",
        "histogram",
        "Time in a call of a plugin's object. Calls that may wait are all measured; those on the way of every connection are "
        "measured one time in 32 on average, so _count is not the number of calls.",
        ("plugin", "hook"),
    ),
    MetricInfo(
        "meshless_plugin_failures_total",
        "counter",
        "Calls of a plugin's object that raised, answered nonsense or did not answer in time; every one counts.",
        ("plugin", "hook", "reason"),
    ),
    MetricInfo("meshless_handshakes_pending", "gauge", "Client connections whose request is not complete yet."),
    MetricInfo("meshless_tunnel_sessions", "gauge", "Secure sessions to and from other agents.", ("role", "state")),
    MetricInfo("meshless_tunnel_handshakes_total", "counter", "Secure handshakes with other agents.", ("role", "result")),
    MetricInfo("meshless_pods", "gauge", "Pods whose sockets this agent serves.", of_workers="max"),
    MetricInfo(
        "meshless_sockets",
        "gauge",
        "Sockets of this node's pods. role client: listeners for clients, accepting or waiting (the agent starts or drains). "
        "role server: services the documents say a pod here provides, present or missing (no socket in the pod's server "
        "folder: the application does not listen yet, or elsewhere).",
        ("role", "state"),
        of_workers="max",
    ),
    MetricInfo("meshless_config_generation", "gauge", "Highest generation of the documents in force.", of_workers="min"),
    MetricInfo(
        "meshless_config_age_seconds", "gauge", "Seconds since the bus last confirmed the documents in force.", of_workers="max"
    ),
    MetricInfo(
        "meshless_bus_connected", "gauge", "1 if documents come from the bus, 0 if from disk or not at all.", of_workers="min"
    ),
    MetricInfo(
        "meshless_bus_messages_total",
        "counter",
        "Documents from the bus by what came of them: applied, unchanged, stale (older than what is held, deleted, or not "
        "wanted), malformed, or conflict (another content than the manifest names, or is held, for that generation). direction "
        "is received: agents send nothing yet.",
        ("direction", "result"),
    ),
    MetricInfo("meshless_access_log_lost_lines_total", "counter", "Access log lines that could not be written."),
    MetricInfo(
        "meshless_certificate_expiry_seconds",
        "gauge",
        "Seconds until a leaf expires.",
        ("namespace", "meshlet"),
        of_workers="min",
    ),
    MetricInfo("meshless_build", "info", "Version of the agent.", ("version", "node"), of_workers="max"),
)
METRICS_BY_NAME: Final[Mapping[str, MetricInfo]] = {info.name: info for info in METRICS}
