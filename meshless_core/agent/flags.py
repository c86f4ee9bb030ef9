"""The words of the labels `reason` and `flags`: how a connection ended, or why it was refused.

`reason` is the class an alert is written for, `flags` the word below it that says where to look (as Envoy and ztunnel do with
`response_flags`). Both are fixed sets: what a peer or a plugin says goes to the log, never into a label. The log has both too.
ADR-0110 says why only what ended, or never began, has them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal

from meshless_core.relay import EndedBy, Outcome
from meshless_core.types import ReplyCode

__all__ = ["CLOSED_FLAGS", "NORMAL", "REFUSED_REASONS", "Cut", "closed_flags", "refused_labels"]

NORMAL: Final = "-"
"""Nothing to say: the connection ended the way connections are meant to. Never empty, so that a query can match it."""

Cut = Literal["", "revoked", "draining", "client_error", "agent_error"]
"""Why this agent cut a connection that was established; empty if it did not."""

CLOSED_FLAGS: Final[Mapping[str, str]] = {
    NORMAL: "both directions ended and everything was delivered",
    "let_go": "handed over and still alive: this agent stopped and gave up the lease",
    "client_reset": "the client broke off",
    "service_reset": "the service broke off",
    "tunnel_lost": "the tunnel to the other agent was lost: that agent has died, or the network in between",
    "agent_reset": "broken off, and neither end can be blamed",
    "idle_timeout": "no data in either direction for the service's `idleTimeout`",
    "revoked": "new documents, or a policy, no longer allow it",
    "draining": "this agent stopped before the connection had ended",
    "client_error": "the client sent what its protocol does not allow, or did not take its last bytes",
    "service_error": "the same of the service",
    "cut": "cut by the agent at the other end of the tunnel, whose own log says why",
    "agent_error": "a limit of the process, a broken tunnel protocol or a bug: the log says which",
}
"""Every value of `flags` for a connection that was established, and its meaning."""

_UNCUT: Final[Mapping[tuple[Outcome, EndedBy], str]] = {
    ("closed", "agent"): "let_go",
    ("reset", "client"): "client_reset",
    ("reset", "service"): "service_reset",
    ("reset", "agent"): "agent_reset",
    ("reset", "tunnel"): "tunnel_lost",
    ("idle_timeout", "agent"): "idle_timeout",
    ("idle_timeout", "client"): "idle_timeout",
    ("idle_timeout", "service"): "idle_timeout",
    ("error", "client"): "client_error",
    ("error", "service"): "service_error",
    ("error", "agent"): "agent_error",
}

REFUSED_REASONS: Final[Mapping[ReplyCode, str]] = {
    ReplyCode.ACCESS_DENIED: "policy",
    ReplyCode.UNKNOWN_CLIENT: "policy",
    ReplyCode.CONNECTION_LIMIT: "max_conn",
    ReplyCode.NO_ENDPOINT: "no_endpoint",
    ReplyCode.TUNNEL_FAILED: "connect_failed",
    ReplyCode.SERVICE_REFUSED: "connect_failed",
    ReplyCode.DRAINING: "draining",
    ReplyCode.SERVICE_NOT_FOUND: "not_found",
    ReplyCode.TIMEOUT: "timeout",
    ReplyCode.OVERLOADED: "overloaded",
    ReplyCode.NOT_READY: "not_ready",
    ReplyCode.UNSUPPORTED_VERSION: "bad_request",
    ReplyCode.MALFORMED_REQUEST: "bad_request",
    ReplyCode.INTERNAL_ERROR: "internal_error",
}
"""The class of each reply code but OK."""

_HANDSHAKE_TIMEOUT: Final = ("bad_request", "handshake_timeout")
_CLIENT_GONE: Final = ("client_gone", "client_gone")


def closed_flags(outcome: Outcome, ended_by: EndedBy, cut: Cut = "") -> str:
    """The label `flags` of a connection that was established; its `reason` is the outcome.

    Args:
        outcome: how the relay says it ended.
        ended_by: which side ended it.
        cut: why this agent cut it, if it did.
    """
    if outcome == "aborted":
        return cut or "cut"
    return _UNCUT.get((outcome, ended_by), NORMAL)


def refused_labels(code: ReplyCode, stage: str) -> tuple[str, str]:
    """The labels `reason` and `flags` of a request that became no connection.

    Args:
        code: what the client was told, or would have been.
        stage: who refused: "handshake", "client" (it left before it was answered), or anybody else.
    """
    if code is ReplyCode.TIMEOUT and stage == "handshake":
        return _HANDSHAKE_TIMEOUT
    if code is ReplyCode.INTERNAL_ERROR and stage == "client":
        return _CLIENT_GONE
    return REFUSED_REASONS[code], code.name.lower()
