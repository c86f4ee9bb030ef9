"""The work every path does, and what is noted about it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs

from bench.load_program import Load
from bench.paths.base import Route
from bench.processes import cpu_seconds_of, tree_of

__all__ = ["ALL_WORKS", "Sample", "Work", "measure"]


@attrs.frozen
class Work:
    """A piece of work: a mode of the load generator with options.

    `per` is the amount CPU time is stated for (bytes, connections or messages), `per_name` what to call it.
    """

    name: str
    describes: str
    mode: str
    options: tuple[str, ...]
    unit: str
    per: float
    per_name: str
    counted: tuple[str, ...]

    def amount(self, result: Mapping[str, Any]) -> int:
        """How many units the measurement moved."""
        return sum(int(result[key]) for key in self.counted)


_BYTES = ("sent", "received")

ALL_WORKS: tuple[Work, ...] = (
    Work("echo-1", "64-byte ping-pong, 1 connection", "echo", (), "messages/s", 1e5, "100k messages", ("messages",)),
    Work(
        "echo-32",
        "64-byte ping-pong, 32 connections",
        "echo",
        ("--connections", "32"),
        "messages/s",
        1e5,
        "100k messages",
        ("messages",),
    ),
    Work("bulk", "bytes one way, 1 connection", "bulk", (), "bytes/s", 1e9, "GB", _BYTES),
    Work(
        "bulk-both",
        "bytes both ways at once, 4 connections",
        "bulk",
        ("--direction", "both", "--connections", "4"),
        "bytes/s",
        1e9,
        "GB",
        _BYTES,
    ),
    Work(
        "connect",
        "new connections, 8 at a time",
        "connect",
        ("--connections", "8"),
        "connections/s",
        1e3,
        "1000 connections",
        ("opened",),
    ),
)


@attrs.frozen
class Sample:
    """One measurement. Times in the unit the name says; `cpu_per` is CPU seconds of the proxies per the work's `per`."""

    path: str
    work: str
    round: int
    rate: float
    amount: int
    seconds: float
    cpu_seconds: float
    cpu_per: float
    load_cpu_seconds: float
    p50_us: float | None
    p99_us: float | None
    max_us: float | None


def measure(load: Load, work: Work, path: str, route: Route, number: int, seconds: float) -> Sample:
    """Let `route` do `work` for `seconds`.

    Raises:
        MeasurementError: a connection failed or bytes were lost.
    """
    pids = tree_of(route.roots)
    before = cpu_seconds_of(pids)
    result = load.run(work.mode, route.to, route.service, seconds, *work.options, *route.options)
    cpu = cpu_seconds_of(pids) - before
    latency = result.get("latency_ns")
    amount = work.amount(result)

    def microseconds(key: str) -> float | None:
        return None if latency is None else latency[key] / 1e3

    return Sample(
        path=path,
        work=work.name,
        round=number,
        rate=float(result["rate"]),
        amount=amount,
        seconds=float(result["seconds"]),
        cpu_seconds=cpu,
        cpu_per=cpu / amount * work.per if amount else 0.0,
        load_cpu_seconds=float(result["load_cpu_seconds"]),
        p50_us=microseconds("p50"),
        p99_us=microseconds("p99"),
        max_us=microseconds("max"),
    )
