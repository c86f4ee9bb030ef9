"""A clock tests turn by hand, and an issuer in the same process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from meshless_core.errors import IdentityError
from meshless_core.identity import CertificateAuthority, Issued
from meshless_core.types import Identity

TRUST_DOMAIN = "mesh.test"


class Clock:
    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


class NearIssuer:
    """A LeafIssuer without a socket; `broken` makes it fail."""

    def __init__(self, authority: CertificateAuthority) -> None:
        self.authority = authority
        self.broken = False
        self.asked: list[Identity] = []
        self.changed = asyncio.Event()

    async def issue(self, identity: Identity, request_pem: str) -> Issued:
        self.asked.append(identity)
        if self.broken:
            raise IdentityError("the issuer is away")
        return Issued(self.authority.issue(request_pem, identity), self.authority.bundle_pem)

    async def watch_bundle(self) -> AsyncGenerator[str, None]:
        while True:
            self.changed.clear()
            yield self.authority.bundle_pem
            await self.changed.wait()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def authority(tmp_path: Path, clock: Clock) -> CertificateAuthority:
    return CertificateAuthority.create(tmp_path / "ca", TRUST_DOMAIN, clock=clock)


@pytest.fixture
def issuer(authority: CertificateAuthority) -> NearIssuer:
    return NearIssuer(authority)
