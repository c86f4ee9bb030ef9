"""The page of reply codes: the verdict byte of the client handshake."""

from __future__ import annotations

from docs.generate.page import Page, table, titled
from meshless_core import ReplyCode

__all__ = ["PAGE"]


def _render() -> str:
    rows = [
        (str(int(code)), f"`{code.name}`", code.meaning, code.advice, "yes" if code.retryable else "no") for code in ReplyCode
    ]
    introduction = (
        "The second byte of every reply. After `OK` both directions are transparent bytes; after any other code the agent "
        "closes. The agent always replies: a silent close is a bug. Denied beats not found: a client that may not see a "
        "service does not learn whether it exists."
    )
    return titled(
        "Reply codes",
        "meshless_core/types.py",
        introduction,
        [table(("code", "name", "meaning", "the client may", "retryable"), rows)],
    )


PAGE = Page("reply-codes.md", _render)
