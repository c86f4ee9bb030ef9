"""A rotation seen from two real agents' transports: no order of arrival may break a handshake."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path
from typing import Any

import pytest
from meshless_transport_tls.options import Options
from meshless_transport_tls.transport import TlsTransport

from meshless_core.errors import TransportError
from meshless_core.identity import CertificateAuthority, certificates
from meshless_core.identity.leaf import LeafCredentials, TrustBundle, store_leaf
from meshless_core.types import Identity

WEB, CART = Identity("mesh.test", "shop", "web"), Identity("mesh.test", "shop", "cart")


class Agent:
    """Holds one leaf and one bundle, each of the moment it was last told."""

    trust_domain = "mesh.test"

    def __init__(self, directory: Path, authority: CertificateAuthority, identity: Identity) -> None:
        self.directory, self.authority, self.identity = directory, authority, identity
        self.transport = TlsTransport(Options(), self)
        self.learn_bundle()
        self.renew()

    def renew(self) -> None:
        key = certificates.generate_key()
        chain = self.authority.issue(certificates.build_request(key), self.identity)
        folder = str(self.directory / self.identity.meshlet)
        self.leaf = store_leaf(folder, self.identity, chain, certificates.key_to_pem(key), self.issuers_bundle())

    def issuers_bundle(self) -> TrustBundle:
        return TrustBundle.parse(self.authority.bundle_pem, self.trust_domain, "test")

    def learn_bundle(self) -> None:
        self.bundle = self.issuers_bundle()

    def get(self, identity: Identity) -> LeafCredentials | None:
        return LeafCredentials.of(self.leaf, self.bundle) if identity == self.identity else None

    def expects(self, identity: Identity) -> bool:
        return identity == self.identity


@pytest.fixture
def agents(tmp_path: Path) -> tuple[CertificateAuthority, Agent, Agent]:
    authority = CertificateAuthority.create(tmp_path / "ca", "mesh.test")
    return authority, Agent(tmp_path, authority, WEB), Agent(tmp_path, authority, CART)


async def meet(web: Agent, cart: Agent) -> None:
    """Connect both ways round the roles' checks; raises what either side raises."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"127.0.0.1:{listener.getsockname()[1]}"
        connecting = asyncio.create_task(web.transport.connect(address, source=WEB, target=CART))
        connection, _ = await asyncio.to_thread(listener.accept)
        outcomes: Any = await asyncio.gather(connecting, cart.transport.accept(connection), return_exceptions=True)
    for outcome in outcomes:
        if not isinstance(outcome, BaseException):
            outcome.close()
    for outcome in outcomes:
        if isinstance(outcome, BaseException):
            raise outcome


@pytest.mark.parametrize("web_steps", [(), ("learn_bundle",), ("renew",), ("learn_bundle", "renew")])
@pytest.mark.parametrize("cart_steps", [(), ("learn_bundle",), ("renew",), ("learn_bundle", "renew")])
async def test_no_order_of_arrival_breaks_a_handshake(
    agents: tuple[CertificateAuthority, Agent, Agent], web_steps: tuple[str, ...], cart_steps: tuple[str, ...]
) -> None:
    authority, web, cart = agents
    authority.rotate()
    for agent, steps in ((web, web_steps), (cart, cart_steps)):
        for step in steps:
            getattr(agent, step)()
    await meet(web, cart)


async def test_after_the_end_of_a_rotation_an_old_leaf_is_refused(agents: tuple[CertificateAuthority, Agent, Agent]) -> None:
    authority, web, cart = agents
    authority.rotate()
    cart.renew()
    authority.finish_rotation(force=True)
    cart.learn_bundle()
    with pytest.raises(TransportError) as caught:
        await meet(web, cart)
    assert caught.value.reason == "certificate_untrusted"
    web.renew()
    web.learn_bundle()
    await meet(web, cart)
