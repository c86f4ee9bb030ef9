"""A small world to route in: `shop/web` uses `http.cart.shop`; builders for everything a document holds."""

from __future__ import annotations

from collections.abc import Callable

import attrs
import pytest

from meshless_core.documents import MeshletDocument, ServiceDocument, VersionWeight
from meshless_core.routing import RoutingTable, compile_routes
from meshless_core.types import Endpoint, MeshletRef, PodRef, ServiceId

WEB = MeshletRef("shop", "web")
HTTP = ServiceId("http", "cart", "shop")
HERE = "node-1"
THERE = "node-2"


@attrs.frozen
class World:
    """Builders; every argument has a sensible default."""

    web: MeshletRef = WEB
    http: ServiceId = HTTP
    here: str = HERE
    there: str = THERE

    def endpoint(
        self, name: str, version: str | None = None, *, node: str = HERE, ready: bool = True, uid: str = ""
    ) -> Endpoint:
        return Endpoint(PodRef("shop", name), uid or f"uid-{name}", node, f"{node}:4711", version, ready)

    def service(
        self,
        *endpoints: Endpoint,
        canary: dict[str, int] | None = None,
        declared_by: tuple[MeshletRef, ...] = (WEB,),
        allow: tuple[MeshletRef, ...] | None = None,
        max_conn: int | None = None,
        idle_timeout_ns: int | None = None,
        service: ServiceId = HTTP,
    ) -> ServiceDocument:
        weights = None if canary is None else tuple(VersionWeight(*line) for line in canary.items())
        return ServiceDocument(service, declared_by, allow, max_conn, idle_timeout_ns, None, weights, endpoints)

    def client(self, *uses: ServiceId) -> MeshletDocument:
        return MeshletDocument(WEB, uses or (HTTP,), ())

    def table(self, *documents: MeshletDocument | ServiceDocument) -> RoutingTable:
        return compile_routes(HERE, documents)


@pytest.fixture(scope="session")
def world() -> World:
    return World()


@pytest.fixture
def dice() -> Callable[..., Callable[[], float]]:
    """Make an rng that returns the given numbers over and over."""

    def make(*numbers: float) -> Callable[[], float]:
        position = -1

        def roll() -> float:
            nonlocal position
            position += 1
            return numbers[position % len(numbers)]

        return roll

    return make
