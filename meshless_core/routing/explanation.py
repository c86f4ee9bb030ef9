"""Why a connection goes where it goes: the whole chain of a decision as a value.

Everything `meshless explain` prints comes from here, and from the same tables, facts and health the connection path uses, so
that the explanation cannot drift from what happens. Explaining changes nothing: no trial is started, no random number drawn.
This module must not format for a terminal, and must not ask authorizers: their decisions come in.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

import attrs

from meshless_core.routing.authorization import Side, authorization_request, combine
from meshless_core.routing.balancer import Balancer, EndpointHealth
from meshless_core.routing.resolution import Refusal, resolve
from meshless_core.routing.table import ExclusionCause, Route, RoutingTable
from meshless_core.types import (
    AuthorizationRequest,
    Decision,
    Endpoint,
    MeshletRef,
    PodRef,
    ReplyCode,
    ServiceId,
    Verdict,
    VersionShare,
)

__all__ = ["Candidate", "Explanation", "Row", "ShareOutcome", "explain"]

_ALLOWED: Final = "allowed; the code of a real connection also depends on limits and on what the endpoints answer"


@attrs.frozen
class ShareOutcome:
    """What became of a version's declared weight.

    Attributes:
        version: the version, None for pods without a label or for all pods together.
        weight: declared; without a strategy what makes all pods equal.
        ready: usable endpoints.
        declared: share by the declaration, 0 to 1.
        effective: share of new connections now, 0 to 1, after what is missing was divided among the others.
        note: why declared and effective differ, empty if they do not.
    """

    version: str | None
    weight: int
    ready: int
    declared: float
    effective: float
    note: str


@attrs.frozen
class Candidate:
    """An endpoint, and its place or why it has none.

    Attributes:
        endpoint: the endpoint.
        rank: 1 is tried first among the endpoints of its version; 0 is never tried.
        local: whether it is on this node.
        health: what the balancer knows, None for endpoints that are never tried.
        reason: why this rank.
    """

    endpoint: Endpoint
    rank: int
    local: bool
    health: EndpointHealth | None
    reason: str


@attrs.frozen
class Row:
    """One line for people.

    Attributes:
        step: "facts", "policy", "decision", "canary", "version", "endpoint" or "verdict".
        subject: what it is about.
        outcome: one or two words.
        reason: why.
    """

    step: str
    subject: str
    outcome: str
    reason: str


@attrs.frozen
class Explanation:
    """The chain of one decision.

    Attributes:
        node: whose agent explains.
        source: who wants to connect, None if the pod belongs to no meshlet.
        source_pod: the pod asked for.
        target: the service.
        request: the facts the authorizers were asked about, None without a source.
        decisions: each authorizer's answer, in the order asked.
        decision: what they come to, None without a source.
        code: OK if routing lets it through, otherwise the refusal.
        policy: who refused, "routing" if allowed.
        reason: why this code.
        selector: name of the canary selector.
        shares: what became of each version's weight; empty if the connection is not allowed.
        candidates: the endpoints, by version in the order of `shares`, then those never tried.
    """

    node: str
    source: MeshletRef | None
    source_pod: PodRef | None
    target: ServiceId
    request: AuthorizationRequest | None
    decisions: tuple[Decision, ...]
    decision: Decision | None
    code: ReplyCode
    policy: str
    reason: str
    selector: str
    shares: tuple[ShareOutcome, ...]
    candidates: tuple[Candidate, ...]

    def rows(self) -> tuple[Row, ...]:
        """The chain from top to bottom, for a table."""
        rows = [*self._request_rows(), *self._selector_rows()]
        rows += (
            Row(
                "version",
                _name(share.version),
                f"{share.effective:.1%}",
                f"weight {share.weight}, {share.ready} ready{_and(share.note)}",
            )
            for share in self.shares
        )
        rows += (
            Row(
                "endpoint",
                str(candidate.endpoint.pod),
                f"{candidate.rank}." if candidate.rank else "not tried",
                candidate.reason,
            )
            for candidate in self.candidates
        )
        rows.append(Row("verdict", str(self.target), self.code.name, self.reason))
        return tuple(rows)

    def _request_rows(self) -> Iterable[Row]:
        if self.request is not None:
            yield Row("facts", "service known here", _yes(self.request.exists), f"documents of node {self.node}")
            lists = "lists" if self.request.declared else "does not list"
            yield Row(
                "facts", "declared", _yes(self.request.declared), f"{self.source} {lists} {self.target} under spec.client"
            )
            match self.request.consent:
                case None:
                    yield Row("facts", "consent", "no list", f"{self.target} has no allow list")
                case True:
                    yield Row("facts", "consent", "yes", f"{self.source} is on the allow list of {self.target}")
                case False:
                    yield Row("facts", "consent", "no", f"{self.source} is not on the allow list of {self.target}")
        for decision in self.decisions:
            yield Row("policy", decision.policy, decision.verdict.value, decision.reason)
        if self.decision is not None:
            yield Row("decision", self.decision.policy, self.decision.verdict.value, self.decision.reason)

    def _selector_rows(self) -> Iterable[Row]:
        offered = sum(1 for share in self.shares if share.effective)
        if offered > 1:
            yield Row(
                "canary", self.selector, "chooses", "among the versions below, which have these shares by the Meshlet's weights"
            )
        elif offered:
            yield Row("canary", self.selector, "not asked", "there is nothing to choose from")

    def to_dict(self) -> dict[str, object]:
        """The chain as plain JSON values. Durations in seconds, shares from 0 to 1."""
        request = self.request
        return {
            "node": self.node,
            "source": None if self.source is None else str(self.source),
            "sourcePod": None if self.source_pod is None else str(self.source_pod),
            "target": str(self.target),
            "facts": None
            if request is None
            else {"exists": request.exists, "declared": request.declared, "consent": request.consent, "side": request.side},
            "decisions": [_decision_dict(decision) for decision in self.decisions],
            "decision": None if self.decision is None else _decision_dict(self.decision),
            "selector": self.selector,
            "shares": [attrs.asdict(share) for share in self.shares],
            "candidates": [_candidate_dict(candidate) for candidate in self.candidates],
            "code": int(self.code),
            "codeName": self.code.name,
            "policy": self.policy,
            "reason": self.reason,
        }


def explain(
    table: RoutingTable,
    source: MeshletRef | None,
    source_pod: PodRef | None,
    target: ServiceId,
    decisions: Iterable[Decision],
    balancer: Balancer,
    now: float,
    side: Side = "client",
    *,
    selector: str,
) -> Explanation:
    """Explain what would become of a connection.

    Args:
        table: what this agent knows.
        source: the pod's meshlet, None if it belongs to none.
        source_pod: the pod asked for, None if only a meshlet was named.
        target: the service.
        decisions: what the active authorizers answered to `authorization_request(...)`, in their order.
        balancer: the service's balancer.
        now: seconds, on the balancer's clock.
        side: which side's decision is explained.
        selector: name of the active canary selector, which is not asked.
    """
    answers = tuple(decisions)
    request = None if source is None else authorization_request(table, source, source_pod, target, side)
    decision = None if source is None else combine(answers)
    outcome = resolve(table, source, target, decision, side)
    # What a client may not see is not shown as a route, here as little as on the wire; a missing endpoint is explained.
    denied = decision is None or decision.verdict is not Verdict.ALLOW
    route = None if denied else table.route(target)
    return Explanation(
        node=table.node,
        source=source,
        source_pod=source_pod,
        target=target,
        request=request,
        decisions=answers,
        decision=decision,
        code=outcome.code if isinstance(outcome, Refusal) else ReplyCode.OK,
        policy=outcome.policy if isinstance(outcome, Refusal) else "routing",
        reason=outcome.reason if isinstance(outcome, Refusal) else _ALLOWED,
        selector=selector,
        shares=() if route is None else _share_outcomes(route, balancer, now),
        candidates=() if route is None else _candidates(route, table.node, balancer, now),
    )


def _share_outcomes(route: Route, balancer: Balancer, now: float) -> tuple[ShareOutcome, ...]:
    offered: Mapping[str | None, VersionShare] = {share.version: share for share in route.shares}
    total_now = sum(share.weight for share in route.shares)
    if route.canary is None:
        return tuple(
            ShareOutcome(version, share.weight, share.ready, 1.0, 1.0, "no spec.server.canary: all ready pods are equal")
            for version, share in offered.items()
        )
    total = sum(route.canary.values())
    outcomes = []
    for version, weight in route.canary.items():
        share = offered.get(version)
        effective = 0.0 if share is None else share.weight / total_now
        if weight < 1:
            note = "weight 0: no new connections"
        elif share is None:
            note = (
                "no ready pod: its share goes to the other versions"
                if offered
                else "no ready pod, and no other version has one"
            )
        elif balancer.is_down(route.groups[version], now):
            note = "nobody can be reached: the other versions are tried first"
        elif total_now != total:
            note = "takes over from versions without ready pods"
        else:
            note = ""
        ready = sum(1 for endpoint in route.endpoints if endpoint.version == version and endpoint.ready)
        outcomes.append(ShareOutcome(version, weight, ready, weight / total if total else 0.0, effective, note))
    return tuple(outcomes)


def _candidates(route: Route, node: str, balancer: Balancer, now: float) -> tuple[Candidate, ...]:
    candidates: list[Candidate] = []
    for share in route.shares:
        for rank, endpoint in enumerate(balancer.ranking(route.groups[share.version], now), 1):
            health = balancer.health(endpoint, now)
            candidates.append(Candidate(endpoint, rank, endpoint.node == node, health, _why(endpoint, health, node)))
    candidates += (
        Candidate(exclusion.endpoint, 0, exclusion.endpoint.node == node, None, exclusion.detail)
        for exclusion in route.excluded
        if exclusion.endpoint is not None and exclusion.cause is not ExclusionCause.NO_READY_POD
    )
    return tuple(candidates)


def _why(endpoint: Endpoint, health: EndpointHealth, node: str) -> str:
    place = "same node" if endpoint.node == node else f"node {endpoint.node}"
    measured = "not measured yet" if health.latency is None else f"connects in {health.latency * 1000:.2f} ms"
    text = f"version {_name(endpoint.version)}, {place}, {measured}, {health.open} open"
    if health.on_trial:
        return f"{text}, on trial, failures in a row: {health.failures}; tried last until a connection got through"
    if health.ejected_for > 0:
        return f"{text}, ejected for {health.ejected_for:.1f} s more, failures in a row: {health.failures}; tried last"
    return f"{text}, the better of two random ones is taken"


def _decision_dict(decision: Decision) -> dict[str, object]:
    return {"verdict": decision.verdict.value, "policy": decision.policy, "reason": decision.reason}


def _candidate_dict(candidate: Candidate) -> dict[str, object]:
    endpoint, health = candidate.endpoint, candidate.health
    return {
        "pod": str(endpoint.pod),
        "uid": endpoint.uid,
        "node": endpoint.node,
        "address": endpoint.address,
        "version": endpoint.version,
        "ready": endpoint.ready,
        "rank": candidate.rank,
        "local": candidate.local,
        "health": None if health is None else attrs.asdict(health),
        "reason": candidate.reason,
    }


def _name(version: str | None) -> str:
    return "(any)" if version is None else version


def _yes(fact: bool) -> str:
    return "yes" if fact else "no"


def _and(note: str) -> str:
    return f"; {note}" if note else ""
