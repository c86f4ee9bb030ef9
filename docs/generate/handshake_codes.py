"""The page that maps our reply codes to those of SOCKS and HTTP, from the tables the plugins answer from."""

from __future__ import annotations

from http import HTTPStatus

from meshless_handshake_http.codes import ANSWERS, REQUEST_TIMEOUT
from meshless_handshake_http.codes import REJECTIONS as HTTP_REJECTIONS
from meshless_handshake_socks5.codes import NO_ACCEPTABLE_METHODS, REPLIES, SocksReply
from meshless_handshake_socks5.codes import REJECTIONS as SOCKS_REJECTIONS

from docs.generate.page import Page, table, titled
from meshless_core import ReplyCode

__all__ = ["PAGE"]


def _status(status: int) -> str:
    return f"`{status}` {HTTPStatus(status).phrase}"


def _socks(reply: SocksReply) -> str:
    return f"`0x{reply:02x}` {reply.name.lower().replace('_', ' ')}"


def _render() -> str:
    rows = [
        (
            f"{int(code)} `{code.name}`",
            _socks(REPLIES[code]),
            _status(ANSWERS[code].status) if code else "`200` for CONNECT; else the service answers",
            f"`{ANSWERS[code].error}`" if ANSWERS[code].error else "",
            "yes" if code.retryable else "no",
        )
        for code in ReplyCode
    ]
    socks = [(_socks(reply), text) for reply, text in SOCKS_REJECTIONS.items()]
    socks.append(
        (
            f"`0x{NO_ACCEPTABLE_METHODS:02x}` instead of a method",
            "no method 0, no authentication; or refused before it was chosen",
        )
    )
    http = [(_status(status), text) for status, text in HTTP_REJECTIONS.items()]
    http.append((_status(REQUEST_TIMEOUT.status), "the head was not complete within `agent.handshake_timeout`"))
    introduction = (
        "What a client that speaks SOCKS5 or HTTP is told where others get a [reply code](reply-codes.md). SOCKS has eight "
        "replies and no text, so several codes share one; the agent's access log has the code itself. An HTTP refusal is a "
        'whole response: status, `Proxy-Status: meshless; error=...; details="<CODE>: <why>"` '
        "([RFC 9209](https://www.rfc-editor.org/rfc/rfc9209)), `Retry-After` where trying again makes sense, a text with the "
        "connection id, and the end of the connection. A response without `Proxy-Status: meshless` comes from the service."
    )
    malformed = (
        "## Requests that are not well formed\n\nAll of these are `MALFORMED_REQUEST` (505: `UNSUPPORTED_VERSION`, 408: "
        "`TIMEOUT`) to the agent; the two protocols can say more."
    )
    return titled(
        "Reply codes in SOCKS and HTTP",
        "plugins/handshake_socks5 and plugins/handshake_http (codes.py)",
        introduction,
        [
            table(("code", "SOCKS5 reply", "HTTP status", "`Proxy-Status` error", "retryable"), rows),
            malformed,
            "### SOCKS5\n\n" + table(("reply", "to"), socks),
            "### HTTP\n\n" + table(("status", "to"), http),
        ],
    )


PAGE = Page("handshake-codes.md", _render)
