"""What a run found out, as plain values that go into the JSON file."""

from __future__ import annotations

import attrs

from bench.sdk_import import ImportSample
from bench.works import Sample

__all__ = ["Failure", "MemoryFinding", "Results", "as_document"]


@attrs.frozen
class Failure:
    """Something that was to be measured and was not. `work` is None if the whole path could not be set up."""

    path: str
    work: str | None
    round: int | None
    message: str


@attrs.frozen
class MemoryFinding:
    """Memory of a path, bytes: of each part before any traffic, and what one idle connection adds to their sum (PSS)."""

    path: str
    resident_at_start: dict[str, int]
    proportional_at_start: dict[str, int]
    after_rounds: int
    idle_connections: int
    per_connection: float | None


@attrs.define
class Results:
    """Everything, growing while the run goes on."""

    machine: dict[str, object]
    settings: dict[str, object]
    samples: list[Sample] = attrs.Factory(list)
    failures: list[Failure] = attrs.Factory(list)
    memory: list[MemoryFinding] = attrs.Factory(list)
    imports: list[ImportSample] = attrs.Factory(list)

    def memory_of(self, path: str) -> MemoryFinding | None:
        """What was found about a path's memory."""
        return next((finding for finding in self.memory if finding.path == path), None)


def as_document(results: Results) -> dict[str, object]:
    """The results as JSON-ready mapping."""
    return attrs.asdict(results)
