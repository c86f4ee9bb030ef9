"""Reads an agent's metrics as a scraper does."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from meshless_core.cli.admin_client import AdminClient


async def scrape(mesh: Any, node: str = "node-a") -> list[Sample]:
    """All samples of one node's agent."""
    status, body = await AdminClient(f"unix:{mesh.folder / node / 'admin.sock'}").get("/metrics")
    assert status == 200
    return [sample for family in text_string_to_metric_families(body.decode()) for sample in family.samples]


def total(samples: Iterable[Sample], name: str, **labels: str) -> float:
    """Sum over all series that have these labels."""
    return sum(sample.value for sample in samples if sample.name == name and labels.items() <= sample.labels.items())


async def until(holds: Callable[[], Awaitable[bool]], what: str) -> None:
    """Wait until it holds."""
    try:
        async with asyncio.timeout(10):
            while not await holds():
                await asyncio.sleep(0.005)
    except TimeoutError:
        pytest.fail(f"did not come: {what}")


async def until_counted(mesh: Any, count: float, name: str, node: str = "node-a", **labels: str) -> None:
    """Wait until a metric has reached this value."""

    async def reached() -> bool:
        return total(await scrape(mesh, node), name, **labels) >= count

    await until(reached, f"{count:g} of {name} {labels} on {node}")
