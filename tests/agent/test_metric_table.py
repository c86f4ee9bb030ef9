"""Every metric of the table comes out of a running agent with a value, and no label lets a peer or a pod in."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from typing import Any

from meshless_core.agent.hook_times import HOOKS
from meshless_core.agent.metric_table import METRICS
from meshless_core.types import AuthorizationRequest, Decision, ReplyCode, Verdict
from tests.agent.handing_over import hand_over
from tests.agent.scraping import scrape, total, until_counted

MakeMesh = Callable[..., Awaitable[Any]]

DATABASE = """
---
apiVersion: meshless.dev/v1
kind: Meshlet
metadata: {namespace: shop, name: db}
spec:
  server:
    selector: {app: db}
    services: [{name: sql}]
    canary: [{version: v1, weight: 1}, {version: v2, weight: 1}]
---
apiVersion: v1
kind: Pod
metadata: {namespace: shop, name: db-0, uid: db-0-uid, labels: {meshless/meshlet: db, app: db, version: v1}}
spec: {nodeName: node-b}
---
apiVersion: v1
kind: Pod
metadata: {namespace: shop, name: db-1, uid: db-1-uid, labels: {meshless/meshlet: db, app: db, version: v2}}
spec: {nodeName: node-b}
"""
BOTH = "{client: [{namespace: shop, meshlet: cart, service: http}, {namespace: shop, meshlet: db, service: sql}]}"
CART_ONLY = "{client: [{namespace: shop, meshlet: cart, service: http}]}"
SQL = b"\x01\x0bsql.db.shop"

NEVER_MORE_THAN_ZERO = {"meshless_access_log_lost_lines_total"}
"""What this test does not make happen; the others are more than 0 in one of the two agents."""


class Declared:
    def authorize_inline(self, request: AuthorizationRequest) -> Decision:
        verdict = Verdict.ALLOW if request.declared or request.side == "server" else Verdict.DENY
        return Decision(verdict, "declared", "as declared")


class Moody:
    async def authorize(self, request: AuthorizationRequest) -> Decision:
        if request.target.service == "broken":
            raise RuntimeError("in a bad mood")
        return Decision(Verdict.ABSTAIN, "moody", "no opinion")


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
    writer.close()


async def live_through_everything(make_mesh: MakeMesh, shop: Callable[[str], str]) -> Any:
    """Two agents that have seen each thing that is counted; some connections are still open."""
    text = shop("node-a").replace(CART_ONLY, BOTH) + DATABASE
    mesh = await make_mesh(text, authorizers=[("declared", Declared()), ("moody", Moody())])
    for pod, service in (("cart-0", "http"), ("db-0", "sql"), ("db-1", "sql")):
        await mesh.serve(echo, pod=pod, service=service)
    for _ in range(3):  # one after the other, over tunnels; each chooses a version
        client = await mesh.open(request=SQL + b"hello")
        assert await mesh.verdict(client) is ReplyCode.OK
        assert await asyncio.get_running_loop().sock_recv(client, 5) == b"hello"
        client.close()
    assert await mesh.refusal(request=b"\x01\x10broken.cart.shop") is ReplyCode.ACCESS_DENIED
    handed = await hand_over(mesh)
    await mesh.apply(text.replace(BOTH, BOTH.replace("meshlet: cart, service: http", "meshlet: cart, service: none")))

    await until_counted(mesh, 1, "meshless_revocations_ignored_total")
    handed.close()
    mesh.held = [await mesh.open(request=SQL), await mesh.open(request=b"\x01")]
    assert await mesh.verdict(mesh.held[0]) is ReplyCode.OK

    await until_counted(mesh, 1, "meshless_handshakes_pending")
    return mesh


async def test_every_metric_comes_out_of_a_running_agent(make_mesh: MakeMesh, shop: Callable[[str], str]) -> None:
    mesh = await live_through_everything(make_mesh, shop)
    samples = [*await scrape(mesh, "node-a"), *await scrape(mesh, "node-b")]
    for metric in METRICS:
        name = {"histogram": f"{metric.name}_count", "info": f"{metric.name}_info"}.get(metric.type, metric.name)
        found = [sample for sample in samples if sample.name == name]
        assert found, f"{metric.name} is not exported"
        assert all(set(sample.labels) == set(metric.labels) for sample in found), metric.name
        assert any(sample.value > 0 for sample in found) or metric.name in NEVER_MORE_THAN_ZERO, f"{metric.name} stays 0"
    known = {metric.name.removesuffix("_total") for metric in METRICS}
    for sample in samples:
        family = re.sub(r"_(total|bucket|count|sum|info)$", "", sample.name)
        assert family in known, f"{sample.name} is not in the table"
    for client in mesh.held:
        client.close()


async def test_each_hook_that_was_called_is_there_under_its_plugins_name(
    make_mesh: MakeMesh, shop: Callable[[str], str]
) -> None:
    mesh = await live_through_everything(make_mesh, shop)
    client_side, server_side = await scrape(mesh, "node-a"), await scrape(mesh, "node-b")
    for plugin, hook in (
        ("declared", "authorize_inline"),
        ("moody", "authorize"),
        ("canary_weighted", "choose"),
        ("handshake_v1", "receive_data"),
        ("transport_tls", "connect"),
        ("bus", "subscribe"),
    ):
        assert total(client_side, "meshless_plugin_hook_seconds_count", plugin=plugin, hook=hook) > 0, (plugin, hook)
    assert total(server_side, "meshless_plugin_hook_seconds_count", plugin="transport_tls", hook="accept") > 0
    words = {s.labels["hook"] for s in [*client_side, *server_side] if s.name == "meshless_plugin_hook_seconds_count"}
    assert words == {hook.hook for hook in HOOKS}
    labels = {"plugin": "moody", "hook": "authorize", "reason": "raised"}
    assert total(client_side, "meshless_plugin_failures_total", **labels) == 1
    for client in mesh.held:
        client.close()


async def test_no_label_holds_a_pod_an_address_a_path_or_what_a_peer_said(
    make_mesh: MakeMesh, shop: Callable[[str], str]
) -> None:
    mesh = await live_through_everything(make_mesh, shop)
    before = len(await scrape(mesh, "node-a"))
    for number in range(20):  # names of services are the client's to choose, and the bytes too
        assert await mesh.refusal(request=b"\x01\x12secret%02d.cart.shop" % number) is ReplyCode.ACCESS_DENIED
        await mesh.refusal(request=bytes((number + 128,)))
    samples = [*await scrape(mesh, "node-a"), *await scrape(mesh, "node-b")]
    assert len(await scrape(mesh, "node-a")) - before <= 2, "one series for the unknown service, one for the unknown handshake"
    values = {value for sample in samples for name, value in sample.labels.items() if name != "le"}
    pods = {"web-0", "cart-0", "db-0", "db-1"}
    assert not [value for value in values if "/" in value or "uid" in value or value in pods or "secret" in value]
    assert not [value for value in values if re.search(r"\d+\.\d+\.\d+\.\d+", value)]
    for client in mesh.held:
        client.close()
