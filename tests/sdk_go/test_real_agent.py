"""Go programs dial and serve through real agents: on one node, between two, refused, handed over."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


async def start(program: Path, mesh: object, pod: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        program,
        env={**os.environ, "MESHLESS_DIR": str(mesh.folder / "pods" / "shop" / pod)},  # type: ignore[attr-defined]  # by path
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )


async def line(process: asyncio.subprocess.Process) -> str:
    assert process.stdout is not None
    async with asyncio.timeout(20):
        return (await process.stdout.readline()).decode()


async def ended(process: asyncio.subprocess.Process) -> tuple[int | None, str, str]:
    async with asyncio.timeout(30):
        out, err = await process.communicate()
    return process.returncode, out.decode(), err.decode()


@pytest.mark.parametrize("node", ["node-a", "node-b"])
async def test_a_client_and_a_server_in_go_talk_and_the_server_stops_gracefully(make_mesh, programs: Path, node: str) -> None:
    mesh = await make_mesh(cart_on=node)
    server = await start(programs / "server", mesh, "cart-0")
    assert "listening at" in await line(server)
    code, out, err = await ended(await start(programs / "client", mesh, "web-0"))
    assert (code, err) == (0, "")
    hello, chosen, by_hand = out.splitlines()
    assert hello.startswith("hello from Go on connection ")
    assert chosen.startswith('version "v1" on shop/cart-0, handed over: ')
    if node == "node-b":
        assert chosen.endswith("false"), "nothing can be handed over to another node"
    assert int(by_hand.removesuffix(" bytes by hand")) > 50
    server.send_signal(signal.SIGTERM)
    assert await ended(server) == (0, "0 connections were cut\n", "")


async def test_on_one_node_the_agent_hands_the_service_over(make_mesh, programs: Path) -> None:
    mesh = await make_mesh(cart_on="node-a")
    server = await start(programs / "server", mesh, "cart-0")
    await line(server)
    code, out, err = await ended(await start(programs / "client", mesh, "web-0"))
    assert (code, err) == (0, "")
    assert "handed over: true" in out
    server.send_signal(signal.SIGTERM)
    await ended(server)


async def test_a_refusal_reaches_a_go_program_with_its_reason(make_mesh, programs: Path) -> None:
    mesh = await make_mesh(cart_on="node-a")
    code, out, err = await ended(await start(programs / "client", mesh, "cart-0"))
    assert (code, out) == (1, "")
    assert "ask the owner of cart to let us in" in err
    assert "ACCESS_DENIED" in err
    assert "(connection " in err
