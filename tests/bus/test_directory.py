"""The directory bus: the contract of every bus, between processes, with folders that come and go."""

import asyncio
import itertools
import os
import sys
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

import meshless_core.bus.directory as module
from meshless_core.bus import DirectoryBus
from meshless_core.bus.inotify import FolderWatcher
from meshless_core.errors import BusError
from meshless_core.hookspecs import Bus, BusUpdate
from meshless_core.testing.bus import check_bus

NEVER = 3600.0  # rescan interval of tests that must pass on change notices alone
CART = "service/shop/cart/http"


async def soon(updates: AsyncGenerator[BusUpdate, None]) -> BusUpdate:
    return await asyncio.wait_for(anext(updates), 10)


@pytest.mark.parametrize("fsync", [False, True])
async def test_it_keeps_the_contract_of_a_bus_on_change_notices_alone(tmp_path: Path, fsync: bool) -> None:
    numbers = itertools.count()

    async def make() -> Bus:
        return DirectoryBus(str(tmp_path / f"bus{next(numbers)}"), fsync=fsync, rescan=NEVER)

    await check_bus(make)


async def test_it_keeps_the_contract_without_change_notices(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def no_instance() -> None:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(module, "FolderWatcher", no_instance)
    monkeypatch.setattr(module, "_POLL_WITHOUT_NOTICES", 0.001)
    numbers = itertools.count()

    async def make() -> Bus:
        return DirectoryBus(str(tmp_path / f"bus{next(numbers)}"), rescan=NEVER)

    await check_bus(make)
    assert "fs.inotify.max_user_instances" in caplog.text


async def test_another_process_is_heard(tmp_path: Path) -> None:
    reader = DirectoryBus(str(tmp_path / "bus"), rescan=NEVER)
    updates = reader.subscribe(frozenset({CART}))
    waiting = asyncio.ensure_future(soon(updates))
    await asyncio.sleep(0)
    script = (
        "import asyncio, sys; from meshless_core.bus import DirectoryBus; "
        f"asyncio.run(DirectoryBus(sys.argv[1]).publish({CART!r}, b'from afar'))"
    )
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", script, str(tmp_path / "bus"))
    assert await waiting == BusUpdate(CART, b"from afar")
    assert await process.wait() == 0
    await updates.aclose()


async def test_two_writers_and_a_reader_never_see_a_torn_value(tmp_path: Path) -> None:
    bus = DirectoryBus(str(tmp_path), rescan=NEVER)
    script = (
        "import asyncio, sys\nfrom meshless_core.bus import DirectoryBus\n"
        "async def main():\n"
        "    bus = DirectoryBus(sys.argv[1])\n"
        "    for number in range(300):\n"
        f"        await bus.publish({CART!r}, sys.argv[2].encode() * (1 + number * 37 % 5000))\n"
        f"        if number % 7 == 0: await bus.publish({CART!r}, None)\n"
        f"    await bus.publish('done/' + sys.argv[2], b'')\n"
        "asyncio.run(main())"
    )
    updates = bus.subscribe(frozenset({CART, "done/a", "done/b"}))
    processes = [await asyncio.create_subprocess_exec(sys.executable, "-c", script, str(tmp_path), name) for name in "ab"]
    done: set[str] = set()
    values = 0
    while len(done) < 2:
        update = await asyncio.wait_for(anext(updates), 30)
        if update.topic != CART:
            done.add(update.topic)
        elif update.payload is not None:
            values += 1
            assert len(set(update.payload)) == 1, "a mix of two writers' values"
    assert [await process.wait() for process in processes] == [0, 0]
    assert values > 0
    await updates.aclose()
    assert not [name for _, _, names in os.walk(tmp_path) for name in names if name.endswith(".tmp")]


async def test_a_reader_waits_for_a_folder_that_is_missing_and_survives_its_removal(tmp_path: Path) -> None:
    root = tmp_path / "deep" / "er" / "bus"
    bus = DirectoryBus(str(root), rescan=NEVER)
    updates = bus.subscribe(frozenset({CART}))
    waiting = asyncio.ensure_future(soon(updates))
    await asyncio.sleep(0)
    await bus.publish(CART, b"1")
    assert (await waiting).payload == b"1"
    (tmp_path / "deep").rename(tmp_path / "elsewhere")
    # A rename of an ancestor gives no notice below it: this is what the slow rescan is for. Ask for it now.
    quick = DirectoryBus(str(root), rescan=0.01)
    again = quick.subscribe(frozenset({CART}))
    waiting = asyncio.ensure_future(soon(again))
    await asyncio.sleep(0)
    await bus.publish(CART, b"2")
    assert (await waiting).payload == b"2"
    for opened in (updates, again):
        await opened.aclose()


async def test_the_slow_rescan_finds_what_no_notice_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FolderWatcher, "changes", lambda self: [])  # a file system that tells nothing
    monkeypatch.setattr(FolderWatcher, "watch", lambda self, folder: None)
    bus = DirectoryBus(str(tmp_path), rescan=0.01)
    updates = bus.subscribe(frozenset({CART}))
    waiting = asyncio.ensure_future(soon(updates))
    await asyncio.sleep(0)
    await bus.publish(CART, b"1")
    assert (await waiting).payload == b"1"
    await bus.publish(CART, None)
    assert (await soon(updates)).payload is None
    await updates.aclose()


async def test_an_unreadable_file_is_logged_once_and_holds_up_no_other_topic(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "bad.json").symlink_to(tmp_path / "nowhere")
    bus = DirectoryBus(str(tmp_path), rescan=NEVER)
    await bus.publish("good", b"1")
    updates = bus.subscribe(frozenset({"bad", "good"}))
    assert await soon(updates) == BusUpdate("good", b"1")
    await updates.aclose()
    assert caplog.text.count("bad.json") == 1


async def test_a_folder_that_may_not_be_watched_is_a_bus_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(self: object, folder: str) -> None:
        raise PermissionError(13, "Permission denied", folder)

    monkeypatch.setattr(FolderWatcher, "watch", denied)
    with pytest.raises(BusError, match=rf"cannot watch {tmp_path}.*Permission denied; check owner and mode"):
        await anext(DirectoryBus(str(tmp_path)).subscribe(frozenset({CART})))


async def test_a_folder_that_may_no_longer_be_watched_ends_the_subscription(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bus = DirectoryBus(str(tmp_path), rescan=0.01)
    await bus.publish(CART, b"1")
    updates = bus.subscribe(frozenset({CART}))
    await soon(updates)

    def denied(self: object, folder: str) -> None:
        raise PermissionError(13, "Permission denied", folder)

    monkeypatch.setattr(FolderWatcher, "watch", denied)
    with pytest.raises(BusError, match="Permission denied"):
        await soon(updates)


async def test_closing_a_subscription_releases_its_descriptor(tmp_path: Path) -> None:
    bus = DirectoryBus(str(tmp_path))
    await bus.publish(CART, b"1")
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        updates = bus.subscribe(frozenset({CART}))
        await soon(updates)
        await updates.aclose()
    assert len(os.listdir("/proc/self/fd")) == before


async def test_an_unchanged_file_is_told_once_and_a_rewritten_one_again(tmp_path: Path) -> None:
    bus = DirectoryBus(str(tmp_path), rescan=NEVER)
    await bus.publish(CART, b"1")
    reader = module._Reader(bus._files, frozenset({CART}))
    assert reader.read(CART) == BusUpdate(CART, b"1")
    assert reader.read(CART) is None
    await bus.publish(CART, b"1")  # the same again: the reconciler says that it lives
    assert reader.read(CART) == BusUpdate(CART, b"1")
