"""The page of the access log: every field of its lines."""

from __future__ import annotations

from docs.generate.page import Page, table, titled
from meshless_core.agent.access_log_fields import FIELDS, Field

__all__ = ["PAGE"]

_INTRODUCTION = """\
One JSON object per line, one line per connection that ended and per request that became none: where it goes says
`--access-log` of [`meshless agent`](command-line.md). Fields that are also labels have the name and the value they have in the
[metrics](metrics.md), except that what is not known is null here and `unknown` there. No line holds key material, and text that
a peer sent is cut at 256 characters. A connection between two nodes has a line at each, with the same `connection`."""


def _lines(field: Field) -> str:
    if field.closed and field.refused:
        return "both"
    return "closed" if field.closed else "refused"


def _render() -> str:
    rows = [(f"`{field.name}`", _lines(field), field.meaning) for field in FIELDS]
    return titled(
        "Access log", "meshless_core/agent/access_log_fields.py", _INTRODUCTION, [table(("field", "lines", "meaning"), rows)]
    )


PAGE = Page("access-log.md", _render)
