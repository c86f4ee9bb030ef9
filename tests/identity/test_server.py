from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import resource
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from meshless_core.errors import IdentityError
from meshless_core.identity import CertificateAuthority, IssuerClient, IssuerServer, LeafStore, bind_issuer_socket, certificates
from meshless_core.identity.sockets import short_path
from meshless_core.types import Identity, MeshletRef

CART, DB = Identity("mesh.test", "shop", "cart"), Identity("mesh.test", "shop", "db")


class House:
    def __init__(self, directory: Path) -> None:
        self.authority = CertificateAuthority.create(directory / "ca", "mesh.test")
        self.path = directory / "node-a.sock"
        self.homes: dict[str, frozenset[MeshletRef]] = {"node-a": frozenset({CART.ref})}
        self.server = IssuerServer(self.authority, self.homes.__getitem__, request_timeout=0.2, max_connections=2)
        self.client = IssuerClient(self.path, deadline=5)

    async def raw(self, data: bytes) -> bytes:
        with short_path(str(self.path)) as short:
            reader, writer = await asyncio.open_unix_connection(short)
        writer.write(data)
        try:
            return await reader.read()
        finally:
            writer.close()


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    made = House(tmp_path)
    await made.server.start()
    made.server.add_node("node-a", bind_issuer_socket(made.path))
    yield made
    await made.server.stop()


def request() -> str:
    return certificates.build_request(certificates.generate_key())


async def test_a_node_gets_a_leaf_for_a_meshlet_that_lives_there(house: House) -> None:
    issued = await house.client.issue(CART, request())
    assert certificates.identity_of(certificates.load_certificates(issued.chain_pem, "test")[0]) == CART
    assert issued.bundle_pem == house.authority.bundle_pem


async def test_a_node_gets_no_leaf_for_a_meshlet_that_lives_elsewhere(house: House) -> None:
    with pytest.raises(IdentityError, match=r"denied.*shop/db has no pod on node node-a"):
        await house.client.issue(DB, request())
    house.homes["node-a"] = frozenset({DB.ref})
    await house.client.issue(DB, request())
    with pytest.raises(IdentityError, match="denied"):
        await house.client.issue(CART, request())


async def test_a_meshlet_of_another_trust_domain_is_refused(house: House) -> None:
    with pytest.raises(IdentityError, match="not of trust domain"):
        await house.client.issue(Identity("other.test", "shop", "cart"), request())


async def test_not_knowing_who_lives_where_means_no(house: House) -> None:
    house.homes.clear()
    with pytest.raises(IdentityError, match="internal"):
        await house.client.issue(CART, request())


async def test_a_bad_request_is_answered_with_the_reason(house: House) -> None:
    with pytest.raises(IdentityError, match="PKCS #10"):
        await house.client.issue(CART, "nothing")
    assert b"not JSON" in await house.raw(b"\0\0\0\x03xyz")
    assert b"was announced" in await house.raw(b"\xff\xff\xff\xff")


async def test_a_stalled_request_is_cut_at_the_deadline(house: House) -> None:
    assert b'"code": 5' in await house.raw(b"\0\0")


async def test_connections_of_a_node_are_bounded(house: House) -> None:
    watches = [house.client.watch_bundle() for _ in range(2)]
    for watch in watches:
        await anext(watch)
    with pytest.raises(IdentityError, match="busy"):
        await house.client.issue(CART, request())
    for watch in watches:
        await watch.aclose()
    async with asyncio.timeout(20):
        while True:
            try:
                await house.client.issue(CART, request())
            except IdentityError:
                await asyncio.sleep(0)
            else:
                break


async def test_watching_agents_get_a_rotation_pushed(house: House, tmp_path: Path) -> None:
    watch = house.client.watch_bundle()
    assert await anext(watch) == house.authority.bundle_pem
    CertificateAuthority.load(tmp_path / "ca").rotate()
    house.server.publish()
    bundle = await asyncio.wait_for(anext(watch), 20)
    assert bundle.count("BEGIN CERTIFICATE") == 2
    await watch.aclose()


async def test_a_removed_node_is_served_no_more(house: House) -> None:
    watch = house.client.watch_bundle()
    await anext(watch)
    await house.server.remove_node("node-a")
    with pytest.raises(IdentityError, match="closed"):
        await anext(watch)
    with pytest.raises(IdentityError, match="cannot reach"):
        await house.client.issue(CART, request())
    await house.server.remove_node("node-a")


async def test_a_node_cannot_be_added_twice(house: House, tmp_path: Path) -> None:
    with bind_issuer_socket(tmp_path / "second.sock") as listener, pytest.raises(IdentityError, match="already"):
        house.server.add_node("node-a", listener)


async def test_an_issuer_that_is_away_is_said(tmp_path: Path) -> None:
    client = IssuerClient(tmp_path / "nobody.sock")
    with pytest.raises(IdentityError, match="control plane running"):
        await client.issue(CART, request())
    with pytest.raises(IdentityError, match="control plane running"):
        await anext(client.watch_bundle())


async def test_an_issuer_that_never_answers_is_given_up(tmp_path: Path) -> None:
    with bind_issuer_socket(tmp_path / "mute.sock"), pytest.raises(IdentityError, match="did not answer within"):
        await IssuerClient(tmp_path / "mute.sock", deadline=0.05).issue(CART, request())


async def test_paths_longer_than_a_socket_address_work(tmp_path: Path) -> None:
    deep = tmp_path / ("d" * 100) / ("e" * 100)
    deep.mkdir(parents=True)
    house = House(deep)
    await house.server.start()
    house.server.add_node("node-a", bind_issuer_socket(house.path))
    await house.client.issue(CART, request())
    assert os.stat(house.path).st_mode & 0o777 == 0o600
    await house.server.stop()


async def test_no_key_is_ever_logged_or_sent(house: House, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    store = LeafStore(tmp_path / "state", "mesh.test", house.client)
    await store.start()
    store.require({CART.ref})
    await asyncio.wait_for(store.ready(), 20)
    await store.stop()
    found: Any = store.get(CART)
    key_lines = Path(found.private_key_path).read_text().splitlines()[1:-1]
    assert key_lines
    assert not any(line in caplog.text for line in key_lines)
    assert "PRIVATE" not in caplog.text


async def test_without_descriptors_it_looks_away_from_its_listener(house: House, caplog: pytest.LogCaptureFixture) -> None:
    loop = asyncio.get_running_loop()
    listener = bind_issuer_socket(house.path.with_name("node-b.sock"))
    house.server.add_node("node-b", listener)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with socket.socket(socket.AF_UNIX) as client, contextlib.ExitStack() as stack:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, 256), hard))
        stack.callback(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
        with contextlib.suppress(OSError):
            while True:
                stack.enter_context(open(os.devnull, "rb"))
        client.connect(str(house.path.with_name("node-b.sock")))
        async with asyncio.timeout(20):
            while "cannot accept leaf requests of node node-b" not in caplog.text:
                await asyncio.sleep(0)
        assert not loop.remove_reader(listener.fileno()), "it would wake the loop for as long as nobody can be accepted"
