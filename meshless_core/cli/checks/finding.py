"""One thing that was looked at, and what to do about it."""

from __future__ import annotations

import enum
from typing import Any

import attrs

__all__ = ["Finding", "Level"]


class Level(enum.Enum):
    """How bad: `WARNING` works but somebody should look, `PROBLEM` means something does not work."""

    OK = "ok"
    WARNING = "warning"
    PROBLEM = "problem"


@attrs.frozen
class Finding:
    """A finding.

    Attributes:
        area: what kind of thing, such as "documents".
        subject: which one, such as the node's name.
        level: how bad.
        message: what is the case.
        fix: what to do; empty if nothing has to be done.
    """

    area: str
    subject: str
    level: Level
    message: str
    fix: str = ""

    @classmethod
    def ok(cls, area: str, subject: str, message: str) -> Finding:
        """All is well."""
        return cls(area, subject, Level.OK, message)

    @classmethod
    def warning(cls, area: str, subject: str, message: str, fix: str) -> Finding:
        """It works, and somebody should look."""
        return cls(area, subject, Level.WARNING, message, fix)

    @classmethod
    def problem(cls, area: str, subject: str, message: str, fix: str) -> Finding:
        """Something does not work."""
        return cls(area, subject, Level.PROBLEM, message, fix)

    def to_dict(self) -> dict[str, Any]:
        """For JSON and tables."""
        return {
            "area": self.area,
            "subject": self.subject,
            "result": self.level.value,
            "message": self.message,
            "fix": self.fix or None,
        }
