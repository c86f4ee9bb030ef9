"""What is read at a scrape: sockets that are there or not, and what came of the bus's messages."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from meshless_core.documents import meshlet_topic
from meshless_core.types import MeshletRef
from tests.agent.scraping import scrape, total, until, until_counted

MakeMesh = Callable[..., Awaitable[Any]]

RECEIVED = {"direction": "received"}


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
    writer.close()


async def sockets(mesh: Any, node: str = "node-a") -> dict[str, float]:
    samples = await scrape(mesh, node)
    return {
        f"{role} {state}": total(samples, "meshless_sockets", role=role, state=state)
        for role, state in (("client", "accepting"), ("client", "waiting"), ("server", "present"), ("server", "missing"))
    }


async def test_listeners_accept_and_wait_for_the_next_agent_when_this_one_drains(make_mesh: MakeMesh) -> None:
    mesh = await make_mesh()
    agent = mesh.agents["node-a"]

    async def accepting() -> bool:
        found = await sockets(mesh)
        return (found["client accepting"], found["client waiting"]) == (2, 0)

    await until(accepting, "the listeners of both pods")
    await agent.drain()
    found = await sockets(mesh)
    assert (found["client accepting"], found["client waiting"]) == (0, 2)


@pytest.mark.parametrize("obstacle", [None, "file", "symlink"])
async def test_a_service_is_missing_until_its_application_listens(make_mesh: MakeMesh, obstacle: str | None) -> None:
    mesh = await make_mesh()
    path = mesh.server_path()
    if obstacle == "file":
        path.touch()
    elif obstacle == "symlink":
        await mesh.serve(echo, service="elsewhere")
        path.symlink_to(mesh.server_path(service="elsewhere"))
    found = await sockets(mesh)
    assert (found["server present"], found["server missing"]) == (0, 1)
    path.unlink(missing_ok=True)
    await mesh.serve(echo)
    found = await sockets(mesh)
    assert (found["server present"], found["server missing"]) == (1, 0)
    assert (await sockets(mesh, "node-b"))["server present"] == 0, "the pod is not on that node"


async def test_messages_of_the_bus_are_counted_by_what_came_of_them(make_mesh: MakeMesh) -> None:
    mesh = await make_mesh()
    name = "meshless_bus_messages_total"
    samples = await scrape(mesh)
    assert total(samples, name, result="applied", **RECEIVED) >= 3, "the manifest, the meshlet, the service"
    for result in ("stale", "malformed", "conflict"):
        assert [s.value for s in samples if s.labels == {"result": result, **RECEIVED}] == [0], "known from the start"
    topic = meshlet_topic(MeshletRef("shop", "web"))
    await mesh.bus.publish(topic, b"{")
    await until_counted(mesh, 1, name, result="malformed", **RECEIVED)
    await mesh.bus.publish(topic, None)
    await until_counted(mesh, 1, name, result="stale", **RECEIVED)


async def test_a_scrape_of_many_pods_is_bounded_by_what_the_documents_say(make_mesh: MakeMesh) -> None:
    """Files a pod makes for services nobody declared cost nothing and count as nothing."""
    mesh = await make_mesh()
    for number in range(50):
        await mesh.serve(echo, service=f"invented-{number}")
    found = await asyncio.wait_for(sockets(mesh), 10)
    assert (found["server present"], found["server missing"]) == (0, 1)
