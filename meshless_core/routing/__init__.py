"""From documents to a decision per connection: policy facts, version shares, endpoints, and why.

Pure functions and plain objects: no I/O, no clock, no randomness of its own, no logging. A connection goes through it in this
order: `RoutingTable.route_for`, `not_served` (at the pod's agent), `authorization_request`, `combine`, `resolve`,
`Route.for_wishes`, the canary selector on `Route.shares`, `attempts`.
"""

from meshless_core.routing.attempts import Attempt, Attempts, attempts
from meshless_core.routing.authorization import DEFAULT_DENY, Side, authorization_request, combine
from meshless_core.routing.balancer import Balancer, Balancers, BalancerSettings, EndpointHealth
from meshless_core.routing.explanation import Candidate, Explanation, Row, ShareOutcome, explain
from meshless_core.routing.resolution import Refusal, not_served, resolve
from meshless_core.routing.table import (
    Exclusion,
    ExclusionCause,
    Revision,
    Route,
    RoutingTable,
    VersionGroup,
    compile_routes,
)

__all__ = [
    "DEFAULT_DENY",
    "Attempt",
    "Attempts",
    "Balancer",
    "BalancerSettings",
    "Balancers",
    "Candidate",
    "EndpointHealth",
    "Exclusion",
    "ExclusionCause",
    "Explanation",
    "Refusal",
    "Revision",
    "Route",
    "RoutingTable",
    "Row",
    "ShareOutcome",
    "Side",
    "VersionGroup",
    "attempts",
    "authorization_request",
    "combine",
    "compile_routes",
    "explain",
    "not_served",
    "resolve",
]
