"""What becomes of connections when a meshlet's pods leave a node, and when the Meshlet itself is deleted."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from meshless_core.documents import NodeManifest
from meshless_core.routing import compile_routes
from meshless_core.types import AuthorizationRequest, Decision, ReplyCode, Verdict
from tests.agent.handing_over import echo
from tests.agent.scraping import until_counted

MakeMesh = Callable[..., Awaitable[Any]]
BOTH = pytest.mark.parametrize("node", ["node-a", "node-b"], ids=["same-node", "cross-node"])
INLINE = pytest.mark.parametrize("inline", [True, False], ids=["inline", "awaited"])


class _Declared:
    """The default policy as an authorizer that is awaited."""

    async def authorize(self, request: AuthorizationRequest) -> Decision:
        return Decision(Verdict.ALLOW if request.declared else Verdict.DENY, "declared", "by its Meshlet")


@INLINE
@BOTH
@pytest.mark.parametrize("leaving", ["web", "cart", "both"])
async def test_when_a_meshlets_last_pod_leaves_a_node_its_connections_go_on(
    make_mesh: MakeMesh, shop: Callable[[str], str], node: str, inline: bool, leaving: str
) -> None:
    mesh = await make_mesh(cart_on=node, authorizers=None if inline else [("declared", _Declared())])
    await mesh.serve(echo)
    reader, writer = await mesh.dial()
    writer.write(b"before")
    assert await reader.readexactly(6) == b"before"
    gone = ("web", "cart") if leaving == "both" else (leaving,)
    await mesh.apply("---".join(one for one in shop(node).split("---") if not any(f"name: {name}-0" in one for name in gone)))
    writer.write(b"after")
    writer.write_eof()
    assert await reader.read() == b"after"
    writer.close()


@INLINE
@BOTH
@pytest.mark.parametrize("deleted", ["web", "cart"])
async def test_when_a_meshlet_is_deleted_its_connections_are_cut_though_its_pods_stay(
    make_mesh: MakeMesh, shop: Callable[[str], str], node: str, inline: bool, deleted: str
) -> None:
    mesh = await make_mesh(cart_on=node, authorizers=None if inline else [("declared", _Declared())])
    await mesh.serve(echo)
    reader, writer = await mesh.dial()
    await mesh.apply("---".join(one for one in shop(node).split("---") if f"name: {deleted}}}" not in one))
    async with asyncio.timeout(20):
        with contextlib.suppress(ConnectionResetError):
            assert await reader.read() == b""
    writer.close()
    for agent in {"node-a", node}:
        await until_counted(mesh, 1, "meshless_connections_closed_total", agent, reason="aborted")


@INLINE
async def test_a_dial_behind_the_documents_is_not_denied_by_the_node_the_pod_has_left(
    make_mesh: MakeMesh, inline: bool
) -> None:
    mesh = await make_mesh(cart_on="node-b", authorizers=None if inline else [("declared", _Declared())])
    await mesh.serve(echo)
    mesh.agents["node-b"].runtime.table = compile_routes("node-b", [NodeManifest("node-b", (), {})])
    assert await mesh.refusal() is ReplyCode.NO_ENDPOINT
