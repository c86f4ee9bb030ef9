"""The fields of an access log line, in their order: what the reference is made from and the lines are checked against."""

from __future__ import annotations

from typing import Final

import attrs

__all__ = ["FIELDS", "Field"]


@attrs.frozen
class Field:
    """One field.

    Attributes:
        name: its name; that of a metric's label where the meaning is the same.
        meaning: what it says, with unit.
        closed: whether lines of connections that ended have it.
        refused: whether lines of requests that became no connection have it.
    """

    name: str
    meaning: str
    closed: bool = True
    refused: bool = True


FIELDS: Final = (
    Field("time", "When it ended or was refused, in seconds since the Unix epoch."),
    Field("event", "`closed` or `refused`."),
    Field("node", "The node whose agent wrote the line."),
    Field("connection", "Id of the connection, 32 hexadecimal digits: the same at both agents, in logs and in replies."),
    Field("reporter", "`source`, `destination`, or `both` if client and service are on this node."),
    Field("transport", "`local`, `tunnel` or `handoff`.", refused=False),
    Field("source_namespace", "Namespace of the client's meshlet; null if its pod belongs to none."),
    Field("source_meshlet", "The client's meshlet."),
    Field("source_pod", "The client's pod; with `reporter` `destination` as the other agent says it."),
    Field("destination_namespace", "Namespace of the service; null if the request was not understood."),
    Field("destination_meshlet", "Meshlet of the service."),
    Field("destination_service", "Name of the service."),
    Field("destination_version", "Version of the pod; null without one, or if none was chosen."),
    Field("service", "The same as a service id, which is what the client dialled."),
    Field("destination_pod", "The pod that served it.", refused=False),
    Field("destination_node", "The pod's node.", refused=False),
    Field("peer", "Address of the other agent; null without one.", refused=False),
    Field(
        "policy", "The rule: name of the policy that allowed or denied it. Where no policy refused, which part of the agent."
    ),
    Field("code", "The reply code.", closed=False),
    Field("reason", "As the label: the outcome of a connection, the class of a refusal."),
    Field("flags", "As the label: who or what ended it, or the reply code in lower case."),
    Field("ended_by", "`client`, `service`, `agent` or `tunnel`.", refused=False),
    Field("detail", "For people: why, at most 256 characters; empty if there is nothing to say."),
    Field("connect_seconds", "From the complete request to the reply.", refused=False),
    Field("duration_seconds", "From established to closed.", refused=False),
    Field("bytes_to_service", "Payload bytes from the client to the service; 0 if it was handed over.", refused=False),
    Field("bytes_to_client", "Payload bytes from the service to the client; 0 if it was handed over.", refused=False),
)
