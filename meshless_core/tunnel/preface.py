"""What two agents say to each other before application bytes flow: a request to open, and the reply.

The source identity is *not* here: the server's agent takes it from the leaf of the secure session and from nowhere else. What
is told here about the source is for logs. This module does no I/O and reads no clock; the wire form is in `frames`.
"""

from __future__ import annotations

import attrs

from meshless_core.types import PodRef, ReplyCode, ServiceId

__all__ = ["OpenReply", "OpenRequest"]


@attrs.frozen(kw_only=True)
class OpenRequest:
    """The client's agent asks for one connection to one pod.

    Attributes:
        connection_id: 16 bytes, the same in the logs of both agents.
        service: the service wanted.
        pod: the pod the client's agent chose.
        pod_uid: that pod's uid; a pod recreated under the same name must not be mistaken for it.
        version: the version chosen, None for a pod without a `version` label.
        source_pod: the pod behind the source, as told by the client's agent: for logs only; None if not told.
        deadline_ms: milliseconds the client's agent is still willing to wait for the reply, 1 to 2**32-1.
        traceparent: W3C trace context to hand on, None without one.
    """

    connection_id: bytes
    service: ServiceId
    pod: PodRef
    pod_uid: str
    version: str | None = None
    source_pod: PodRef | None = None
    deadline_ms: int
    traceparent: str | None = None


@attrs.frozen
class OpenReply:
    """The server's agent answers.

    Attributes:
        code: `OK`, or why not.
        reason: for people; at most 256 characters, empty for `OK`.
    """

    code: ReplyCode
    reason: str = ""
