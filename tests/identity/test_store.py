from __future__ import annotations

import asyncio
import os
import stat
from pathlib import Path
from typing import Any

import attrs
import pytest
from cryptography import x509

from meshless_core.hookspecs import CredentialsSource
from meshless_core.identity import CertificateAuthority, LeafStore
from meshless_core.types import Identity, MeshletRef

CART, DB = MeshletRef("shop", "cart"), MeshletRef("shop", "db")
CART_ID = Identity("mesh.test", "shop", "cart")
HOUR = 3600.0


class Fixture:
    """A store whose time is turned by hand: its tasks are not started, `step` is called instead."""

    def __init__(self, directory: Path, issuer: Any, clock: Any) -> None:
        self.directory, self.issuer, self.clock = directory, issuer, clock
        self.rotated: list[Identity] = []
        self.drawn = 0.5
        self.store = self.open()

    def open(self) -> LeafStore:
        store = LeafStore(
            self.directory, "mesh.test", self.issuer, on_rotated=self.rotated.append, clock=self.clock, rng=lambda: self.drawn
        )
        os.makedirs(self.directory / "leaves", mode=0o700, exist_ok=True)
        store._load_bundle()
        return store

    def files(self) -> set[str]:
        return {
            str(path.relative_to(self.directory / "leaves"))
            for path in (self.directory / "leaves").rglob("*")
            if path.is_file()
        }


@pytest.fixture
def held(tmp_path: Path, issuer: Any, clock: Any) -> Fixture:
    return Fixture(tmp_path / "state", issuer, clock)


def credentials(held: Fixture) -> Any:
    found = held.store.get(CART_ID)
    assert found is not None
    return found


async def test_it_gets_a_leaf_for_each_required_meshlet_and_no_other(held: Fixture) -> None:
    source: CredentialsSource = held.store
    held.store.require({CART})
    assert source.expects(CART_ID)
    assert source.get(CART_ID) is None
    await held.store.step()
    found = credentials(held)
    assert found.identity == CART_ID
    assert source.expects(CART_ID)
    assert not source.expects(Identity("mesh.test", "shop", "db"))
    assert not source.expects(Identity("other.test", "shop", "cart"))
    assert source.get(Identity("mesh.test", "shop", "db")) is None
    assert source.get(Identity("other.test", "shop", "cart")) is None
    assert held.issuer.asked == [CART_ID]
    assert stat.S_IMODE(os.stat(found.private_key_path).st_mode) == 0o600
    assert found.trust_bundle_pem == held.issuer.authority.bundle_pem
    assert "key" not in repr(found).lower()


async def test_a_leaf_is_renewed_at_half_of_its_life(held: Fixture) -> None:
    held.store.require({CART})
    await held.store.step()
    first = credentials(held)
    held.clock.now += 11.5 * HOUR
    assert await held.store.step() > 0
    assert credentials(held) == first
    held.clock.now += 1 * HOUR
    await held.store.step()
    second = credentials(held)
    assert second.serial != first.serial
    assert held.rotated == [CART_ID]
    assert len([name for name in held.files() if name.endswith(".key")]) == 1


@pytest.mark.parametrize(("drawn", "not_yet", "renewed"), [(0.0, 10.5, 11.0), (0.999, 12.9, 13.4)])
async def test_agents_renew_at_different_times_around_the_half(
    held: Fixture, drawn: float, not_yet: float, renewed: float
) -> None:
    held.drawn = drawn
    held.store.require({CART})
    await held.store.step()
    began, first = held.clock.now, credentials(held)
    held.clock.now = began + not_yet * HOUR
    await held.store.step()
    assert credentials(held) == first
    held.clock.now = began + renewed * HOUR
    await held.store.step()
    assert credentials(held).serial != first.serial


async def test_a_failing_issuer_leaves_the_valid_leaf_in_force_and_is_asked_again_ever_less_often(held: Fixture) -> None:
    held.store.require({CART})
    await held.store.step()
    first = credentials(held)
    held.issuer.broken = True
    held.clock.now += 13 * HOUR
    delays = []
    for _ in range(10):
        delay = await held.store.step()
        delays.append(delay)
        held.clock.now += delay
    assert delays == sorted(delays)
    assert (delays[0], delays[-1]) == (0.5, 60.0)
    assert credentials(held) == first
    assert "away" in held.store.problems()[CART_ID]
    held.issuer.broken = False
    await held.store.step()
    assert credentials(held) != first
    assert not held.store.problems()


async def test_an_expired_leaf_is_not_handed_out(held: Fixture) -> None:
    held.store.require({CART})
    await held.store.step()
    held.clock.now += 24 * HOUR
    assert held.store.get(CART_ID) is None


async def test_keys_of_meshlets_that_leave_are_deleted(held: Fixture) -> None:
    held.store.require({CART, DB})
    await held.store.step()
    held.store.require({DB})
    assert held.store.get(CART_ID) is None
    assert not any(name.startswith("cart") for name in held.files())
    assert held.rotated == [CART_ID]


async def test_a_restart_takes_over_what_is_valid_and_deletes_the_rest(held: Fixture) -> None:
    held.store.require({CART, DB})
    await held.store.step()
    before = credentials(held)
    held.issuer.asked.clear()
    held.store = held.open()
    held.store.require({CART})
    assert credentials(held) == before
    assert not any(name.startswith("db") for name in held.files())
    await held.store.step()
    assert not held.issuer.asked


@pytest.mark.parametrize("damage", ["expired", "wrong key", "open key", "no bundle", "garbage"])
async def test_a_restart_does_not_take_over_what_is_unusable(held: Fixture, damage: str) -> None:
    held.store.require({CART})
    await held.store.step()
    before = credentials(held)
    match damage:
        case "expired":
            held.clock.now += 24 * HOUR
        case "wrong key":
            Path(before.private_key_path).write_text("nothing")
        case "open key":
            Path(before.private_key_path).chmod(0o644)
        case "no bundle":
            (held.directory / "leaves" / "bundle.pem").unlink()
        case "garbage":
            Path(before.certificate_chain_path).write_text("nothing")
    held.store = held.open()
    held.store.require({CART})
    assert held.store.get(CART_ID) is None
    held.issuer.asked.clear()
    if damage != "no bundle":
        await held.store.step()
        assert held.issuer.asked == [CART_ID]
        assert credentials(held) != before


async def test_a_rotation_changes_the_serial_at_once_and_the_leaf_soon(held: Fixture) -> None:
    held.store.require({CART})
    await held.store.step()
    first = credentials(held)
    held.issuer.authority.rotate()
    held.store.replace_bundle(held.issuer.authority.bundle_pem)
    second = credentials(held)
    assert second.serial != first.serial
    assert second.certificate_chain_path == first.certificate_chain_path
    delay = await held.store.step()
    assert 0 < delay <= 30
    held.clock.now += delay
    await held.store.step()
    third = credentials(held)
    assert third.certificate_chain_path != first.certificate_chain_path
    assert len(x509.load_pem_x509_certificates(Path(third.certificate_chain_path).read_bytes())) == 2
    assert held.rotated == [CART_ID, CART_ID]


async def test_a_leaf_of_a_root_no_longer_trusted_is_dropped_and_replaced(held: Fixture) -> None:
    held.store.require({CART})
    await held.store.step()
    held.issuer.authority.rotate()
    held.issuer.authority.finish_rotation(force=True)
    held.store.replace_bundle(held.issuer.authority.bundle_pem)
    assert held.store.get(CART_ID) is None
    await held.store.step()
    assert credentials(held)


async def test_a_leaf_without_a_trusted_root_is_kept_until_another_takes_its_place(held: Fixture, tmp_path: Path) -> None:
    held.store.require({CART})
    await held.store.step()
    first, files = credentials(held), held.files()
    stranger = CertificateAuthority.create(tmp_path / "stranger", "mesh.test", clock=held.clock)
    held.store.replace_bundle(stranger.bundle_pem)
    assert held.store.get(CART_ID) is None
    held.issuer.broken = True
    await held.store.step()
    assert held.files() == files
    held.store.replace_bundle(held.issuer.authority.bundle_pem)
    assert credentials(held) == first


async def test_a_bundle_of_another_trust_domain_is_refused(held: Fixture, tmp_path: Path, clock: Any) -> None:
    held.store.require({CART})
    await held.store.step()
    stranger = CertificateAuthority.create(tmp_path / "stranger", "other.test", clock=clock)
    with pytest.raises(Exception, match=r"other\.test"):
        held.store.replace_bundle(stranger.bundle_pem)
    assert credentials(held).trust_bundle_pem == held.issuer.authority.bundle_pem


async def test_an_answer_for_a_meshlet_that_has_left_meanwhile_leaves_no_key(held: Fixture) -> None:
    held.store.require({CART})
    issue = held.issuer.issue

    async def leave_meanwhile(identity: Identity, request: str) -> Any:
        held.store.require(set())
        return await issue(identity, request)

    held.issuer.issue = leave_meanwhile
    await held.store.step()
    assert not any(name.endswith(".key") for name in held.files())


async def test_a_leaf_for_somebody_else_is_refused(held: Fixture) -> None:
    issue = held.issuer.issue

    async def swap(identity: Identity, request: str) -> Any:
        return await issue(Identity("mesh.test", "shop", "db"), request)

    held.issuer.issue = swap
    held.store.require({CART})
    await held.store.step()
    assert held.store.get(CART_ID) is None
    assert "not spiffe://mesh.test/ns/shop/meshlet/cart" in held.store.problems()[CART_ID]


async def test_leaves_that_lead_to_no_trusted_root_do_not_pile_up(held: Fixture, tmp_path: Path) -> None:
    stranger = CertificateAuthority.create(tmp_path / "stranger", "mesh.test", clock=held.clock)
    issue = held.issuer.issue

    async def of_a_stranger(identity: Identity, request: str) -> Any:
        return attrs.evolve(await issue(identity, request), chain_pem=stranger.issue(request, identity))

    held.store.require({CART})
    await held.store.step()
    good = held.files()
    held.issuer.issue = of_a_stranger
    held.clock.now += 13 * HOUR
    for _ in range(3):
        await held.store.step()
        held.clock.now += 120
    assert "does not lead to a trusted root" in held.store.problems()[CART_ID]
    assert held.files() == good
    assert credentials(held)


async def test_a_failing_callback_stops_nothing(held: Fixture, caplog: pytest.LogCaptureFixture) -> None:
    def fail(identity: Identity) -> None:
        raise RuntimeError("oops")

    held.store._on_rotated = fail
    held.store.require({CART})
    await held.store.step()
    held.store.require(set())
    assert "oops" in caplog.text


async def test_started_it_works_by_itself(tmp_path: Path, issuer: Any, clock: Any) -> None:
    rotated = asyncio.Event()
    store = LeafStore(
        tmp_path / "state", "mesh.test", issuer, clock=clock, renew_spread=0.0, on_rotated=lambda _: rotated.set()
    )
    await store.start()
    store.require({CART})
    await asyncio.wait_for(store.ready(), 20)
    before = store.get(CART_ID)
    issuer.authority.rotate()
    issuer.changed.set()
    await asyncio.wait_for(rotated.wait(), 20)
    assert store.get(CART_ID) != before
    await store.stop()
    await store.stop()


async def test_stop_copes_with_a_store_never_started(tmp_path: Path, issuer: Any) -> None:
    await LeafStore(tmp_path / "state", "mesh.test", issuer).stop()
