"""What can go wrong in a bench run, as far as the run can go on or say what to do."""

from __future__ import annotations

__all__ = ["BenchError", "MeasurementError", "PathUnavailableError"]


class BenchError(Exception):
    """The run cannot go on; the message says what to do."""


class PathUnavailableError(BenchError):
    """One path cannot be measured here; the others can."""


class MeasurementError(BenchError):
    """One measurement failed: a connection was refused or cut, or bytes were lost."""
