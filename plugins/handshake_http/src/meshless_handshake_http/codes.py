"""What our reply codes are in HTTP: one table, from which the code answers and the reference page is made.

The status is the one a client or a load balancer acts rightly on (503 is worth a retry, 403 is not); the error type of the
`Proxy-Status` field (RFC 9209, section 2.3) says that the mesh speaks and not the service, and why.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

import attrs

from meshless_core import ReplyCode

__all__ = ["ANSWERS", "REJECTIONS", "REQUEST_TIMEOUT", "Answer"]


@attrs.frozen
class Answer:
    """How a verdict looks in HTTP.

    Attributes:
        status: the status code.
        error: the error type in `Proxy-Status`, empty for no error.
    """

    status: int
    error: str


ANSWERS: Final[Mapping[ReplyCode, Answer]] = MappingProxyType(
    {
        ReplyCode.OK: Answer(200, ""),
        ReplyCode.UNSUPPORTED_VERSION: Answer(505, "http_request_error"),
        ReplyCode.MALFORMED_REQUEST: Answer(400, "http_request_error"),
        ReplyCode.SERVICE_NOT_FOUND: Answer(404, "destination_not_found"),
        ReplyCode.ACCESS_DENIED: Answer(403, "http_request_denied"),
        ReplyCode.NO_ENDPOINT: Answer(503, "destination_unavailable"),
        ReplyCode.CONNECTION_LIMIT: Answer(503, "connection_limit_reached"),
        ReplyCode.TUNNEL_FAILED: Answer(502, "destination_ip_unroutable"),
        ReplyCode.SERVICE_REFUSED: Answer(502, "connection_refused"),
        ReplyCode.TIMEOUT: Answer(504, "connection_timeout"),
        ReplyCode.DRAINING: Answer(503, "proxy_internal_response"),
        ReplyCode.OVERLOADED: Answer(503, "proxy_internal_response"),
        ReplyCode.NOT_READY: Answer(503, "proxy_configuration_error"),
        ReplyCode.UNKNOWN_CLIENT: Answer(403, "http_request_denied"),
        ReplyCode.INTERNAL_ERROR: Answer(500, "proxy_internal_error"),
    }
)

REQUEST_TIMEOUT: Final = Answer(408, "http_request_error")
"""`TIMEOUT` before the request is complete: the client is late, not the service."""

REJECTIONS: Final[Mapping[int, str]] = MappingProxyType(
    {
        400: "a head that is not HTTP/1.1 as RFC 9112 writes it, that can be read in two ways, or whose Host is no service id",
        421: "a second request for another service, sent along with the first",
        431: "a head larger than `max_head_bytes`",
        501: "a transfer coding other than chunked",
        505: "another version than HTTP/1.0 and HTTP/1.1, HTTP/2 with prior knowledge among them",
    }
)
"""Statuses of requests that are not well formed. All are `MALFORMED_REQUEST` to us but 505, which is `UNSUPPORTED_VERSION`."""
