"""What the agent tells at its admin endpoint."""

from __future__ import annotations

import asyncio
import resource
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from meshless_core.agent.admin import Answer, Handler
from meshless_core.agent.gauges import provided_services
from meshless_core.errors import InvalidNameError
from meshless_core.routing import Balancer, authorization_request, explain
from meshless_core.types import Decision, Identity, MeshletRef, PodRef, ServiceId

if TYPE_CHECKING:
    from meshless_core.agent.agent import Agent

__all__ = ["AgentReport"]


class AgentReport:
    """Answers the admin endpoint's questions about one agent.

    Args:
        agent: the agent.
        plugins: rows of the loaded plugins.
    """

    def __init__(self, agent: Agent, plugins: Sequence[Mapping[str, object]]) -> None:
        self._agent = agent
        self._plugins = list(plugins)

    def handlers(self) -> dict[str, Handler]:
        """Path -> handler."""
        return {
            "/healthz": self._healthz,
            "/readyz": self._readyz,
            "/metrics": self._metrics,
            "/connections": self._connections,
            "/status": self._status,
            "/explain": self._explain,
        }

    def not_ready(self) -> list[str]:
        """Reasons why connections cannot be made yet; empty when they can."""
        agent = self._agent
        reasons = []
        if agent.runtime.draining:
            reasons.append("draining: this agent is shutting down")
        if agent.runtime.table is None:
            reasons.append("documents: none yet; is the reconciler running and the bus reachable")
        if not agent.serving:
            reasons.append("socketd: no snapshot of the pods yet; is socketd running")
        reasons += [
            f"identity: no valid leaf for meshlet {ref} yet; is the issuer running"
            for ref in sorted(agent.meshlets())
            if agent.leaves.get(Identity(agent.runtime.trust_domain, ref.namespace, ref.name)) is None
        ]
        return reasons

    async def _healthz(self, _query: Mapping[str, str]) -> Answer:
        return Answer.text("ok")

    async def _readyz(self, _query: Mapping[str, str]) -> Answer:
        reasons = self.not_ready()
        return Answer.text("\n".join(reasons), 503) if reasons else Answer.text("ok")

    async def _metrics(self, _query: Mapping[str, str]) -> Answer:
        return Answer(200, self._agent.runtime.metrics.text(), "text/plain; version=0.0.4; charset=utf-8")

    async def _connections(self, _query: Mapping[str, str]) -> Answer:
        now, monotonic = time.time(), time.monotonic()
        return Answer.json([connection.to_dict(now, monotonic) for connection in self._agent.runtime.connections])

    async def _status(self, _query: Mapping[str, str]) -> Answer:
        agent, runtime = self._agent, self._agent.runtime
        services = provided_services(agent)
        return Answer.json(
            {
                "node": agent.node,
                "trust_domain": runtime.trust_domain,
                "tunnel_address": agent.tunnel_address,
                "ready": not self.not_ready(),
                "not_ready": self.not_ready(),
                "draining": runtime.draining,
                "socketd_connected": agent.socketd.connected,
                "connections": len(runtime.connections),
                "tasks": len(asyncio.all_tasks()),
                "documents": {
                    "source": agent.documents.source,
                    "connected": agent.documents.connected,
                    "age_seconds": agent.documents.age_seconds(),
                    "topics": len(agent.documents.documents),
                    "behind": sorted(agent.documents.behind),
                    "rejected": dict(agent.documents.rejected),
                },
                "pods": [
                    {
                        "namespace": pod.placement.pod.namespace,
                        "name": pod.placement.pod.name,
                        "uid": uid,
                        "meshlet": pod.placement.meshlet.name if pod.placement.meshlet else None,
                        "version": pod.placement.version,
                        "services": services.get(uid, []),
                    }
                    for uid, pod in runtime.pods.items()
                ],
                "identities": [
                    {
                        "identity": identity.uri,
                        "held": agent.leaves.get(identity) is not None,
                        "expires_at": agent.leaves.expiries().get(identity),
                        "problem": agent.leaves.problems().get(identity),
                    }
                    for ref in sorted(agent.meshlets())
                    for identity in (Identity(runtime.trust_domain, ref.namespace, ref.name),)
                ],
                "limits": {
                    "max_connections": runtime.settings.max_connections,
                    "open_files": resource.getrlimit(resource.RLIMIT_NOFILE)[0],
                },
                "plugins": self._plugins,
            }
        )

    async def _explain(self, query: Mapping[str, str]) -> Answer:
        runtime = self._agent.runtime
        try:
            target = ServiceId.parse(query.get("service", ""))
        except InvalidNameError as error:
            return Answer.text(str(error), 400)
        namespace, _, name = query.get("client", "").partition("/")
        pod = next((p.placement for p in runtime.pods.values() if p.placement.pod == PodRef(namespace, name)), None)
        if pod is None:
            return Answer.text(f"pod {namespace}/{name} is not on node {self._agent.node}", 404)
        table = runtime.table
        if table is None:
            return Answer.text("this agent has no documents yet", 503)
        source: MeshletRef | None = pod.meshlet
        answers: tuple[Decision, ...] = ()
        if source is not None:
            answers = (await runtime.panel.ask(authorization_request(table, source, pod.pod, target, "client"))).answers
        route = table.route(target)
        balancer = runtime.balancers.of(route) if route is not None else Balancer(lambda: 0.0)
        explanation = explain(table, source, pod.pod, target, answers, balancer, time.monotonic(), selector=runtime.canary.name)
        rows = [
            {"step": row.step, "subject": row.subject, "outcome": row.outcome, "reason": row.reason}
            for row in explanation.rows()
        ]
        return Answer.json({**explanation.to_dict(), "rows": rows})
