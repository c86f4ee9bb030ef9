"""File discovery: complete snapshots of real files that are edited the way people and tools edit them."""

import asyncio
import os
from collections.abc import AsyncGenerator
from pathlib import Path

import meshless_discovery_file.discovery as module
import pytest
from meshless_discovery_file.discovery import FileDiscovery

from meshless_core import DiscoveryError, DiscoverySnapshot
from meshless_core.testing.discovery import check_discovery

NODES = ("node-a", "node-b")


def pods(*names: str) -> str:
    return "".join(f"---\napiVersion: v1\nkind: Pod\nmetadata: {{namespace: shop, name: {name}}}\n" for name in names)


def names(snapshot: DiscoverySnapshot) -> list[str]:
    return [one["metadata"]["name"] for one in snapshot.objects]


class Watched:
    """A discovery that is being watched, with a deadline on each wait."""

    def __init__(self, *paths: Path, settle: float = 0.03) -> None:
        self.discovery = FileDiscovery([str(path) for path in paths], NODES, settle=settle)
        self._snapshots: AsyncGenerator[DiscoverySnapshot, None] = self.discovery.watch()
        self._next: asyncio.Future[DiscoverySnapshot] | None = None

    async def __aenter__(self) -> "Watched":
        self.first = await asyncio.wait_for(anext(self._snapshots), 10)
        self._next = asyncio.ensure_future(anext(self._snapshots))
        await asyncio.sleep(0.05)  # the kernel's watch is armed by then; if not, the slow look finds the change
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._next is not None
        self._next.cancel()
        await asyncio.gather(self._next, return_exceptions=True)
        await self._snapshots.aclose()

    async def next(self) -> DiscoverySnapshot:
        assert self._next is not None
        snapshot = await asyncio.wait_for(self._next, 10)
        self._next = asyncio.ensure_future(anext(self._snapshots))
        return snapshot


async def test_keeps_the_contract_of_discovery(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_LOOK_ANYWAY_MS", 50)  # a change may come before the kernel's watch is armed
    path, said = tmp_path / "mesh.yaml", ["a"]
    path.write_text(pods(*said))

    async def change() -> None:
        said.append(f"p{len(said)}")
        path.write_text(pods(*said))

    async def spoil() -> None:
        path.write_text("a: [")

    await check_discovery(lambda: FileDiscovery([str(tmp_path)], NODES, settle=0.01), change, spoil)


async def test_a_file_is_read_at_once_and_followed(tmp_path: Path) -> None:
    path = tmp_path / "mesh.yaml"
    path.write_text(pods("a"))
    async with Watched(path) as watched:
        assert names(watched.first) == ["a"]
        assert watched.first.origin == [f"{path}:2"] or watched.first.origin == (f"{path}:2",)
        path.write_text(pods("a", "b"))
        assert names(await watched.next()) == ["a", "b"]
        (tmp_path / "new").write_text(pods("c"))
        (tmp_path / "new").rename(path)
        assert names(await watched.next()) == ["c"]
        path.unlink()
        gone = await watched.next()
        assert names(gone) == ["c"]
        assert "cannot be read: No such file" in str(gone.problems[0])
        path.write_text(pods("d"))
        back = await watched.next()
        assert names(back) == ["d"]
        assert back.problems == ()


async def test_a_folder_is_its_yaml_and_json_files_and_nothing_hidden(tmp_path: Path) -> None:
    (tmp_path / "b.yml").write_text(pods("b"))
    (tmp_path / "a.yaml").write_text(pods("a"))
    (tmp_path / "c.json").write_text('{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "c"}}')
    (tmp_path / ".hidden.yaml").write_text("not: [yaml")
    (tmp_path / "notes.txt").write_text("not: [yaml")
    (tmp_path / "sub.yaml").mkdir()
    async with Watched(tmp_path) as watched:
        assert names(watched.first) == ["a", "b", "c"]
        (tmp_path / "b.yml").unlink()
        assert names(await watched.next()) == ["a", "c"]
        (tmp_path / "d.yaml").write_text(pods("d"))
        assert names(await watched.next()) == ["a", "c", "d"]


async def test_a_mounted_config_map_is_followed_through_its_links(tmp_path: Path) -> None:
    for version, name in (("..v1", "a"), ("..v2", "b")):
        (tmp_path / version).mkdir()
        (tmp_path / version / "mesh.yaml").write_text(pods(name))
    (tmp_path / "..data").symlink_to("..v1")
    (tmp_path / "mesh.yaml").symlink_to("..data/mesh.yaml")
    async with Watched(tmp_path) as folder, Watched(tmp_path / "mesh.yaml") as file:
        assert names(folder.first) == names(file.first) == ["a"]
        (tmp_path / "..data_tmp").symlink_to("..v2")
        (tmp_path / "..data_tmp").rename(tmp_path / "..data")
        assert names(await folder.next()) == names(await file.next()) == ["b"]


async def test_a_link_to_elsewhere_is_followed_when_the_target_is_edited(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real/mesh.yaml").write_text(pods("a"))
    (tmp_path / "link.yaml").symlink_to(tmp_path / "real/mesh.yaml")
    async with Watched(tmp_path / "link.yaml") as watched:
        (tmp_path / "real/mesh.yaml").write_text(pods("b"))
        assert names(await watched.next()) == ["b"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a: [", "not valid yaml"),
        (pods("a") + "kind: [", "mesh.yaml"),
        ("kind: Pod\nkind: Pod\n", "duplicate key"),
        ("", "is empty, which looks half-written"),
        ("# nothing\n", "is empty, which looks half-written"),
        (pods("a", "a"), "declared at"),
    ],
)
async def test_a_half_written_or_wrong_file_is_kept_out_and_the_error_shown(tmp_path: Path, content: str, message: str) -> None:
    path, other = tmp_path / "mesh.yaml", tmp_path / "other.yaml"
    path.write_text(pods("a"))
    other.write_text(pods("o"))
    async with Watched(tmp_path) as watched:
        path.write_text(content)
        kept = await watched.next()
        assert names(kept) == ["a", "o"]
        assert message in str(kept.problems[0])
        assert watched.discovery.problems == kept.problems
        path.write_text(pods("b"))
        good = await watched.next()
        assert names(good) == ["b", "o"]
        assert good.problems == watched.discovery.problems == ()


async def test_an_empty_list_removes_everything_on_purpose(tmp_path: Path) -> None:
    path = tmp_path / "mesh.yaml"
    path.write_text(pods("a"))
    async with Watched(path) as watched:
        path.write_text("kind: List\nitems: []\n")
        snapshot = await watched.next()
        assert names(snapshot) == []
        assert snapshot.problems == ()


async def test_a_file_that_is_written_slowly_is_read_when_it_rests(tmp_path: Path) -> None:
    path = tmp_path / "mesh.yaml"
    path.write_text(pods("a"))
    async with Watched(path, settle=0.3) as watched:
        with open(path, "w", encoding="utf-8") as file:
            for name in ("b", "c", "d", "e"):
                file.write(pods(name))
                file.flush()
                await asyncio.sleep(0.05)
        assert names(await watched.next()) == ["b", "c", "d", "e"]


async def test_touching_a_file_is_no_change(tmp_path: Path) -> None:
    path = tmp_path / "mesh.yaml"
    path.write_text(pods("a"))
    async with Watched(path) as watched:
        os.utime(path)
        path.write_text(pods("a"))
        (tmp_path / "unrelated").write_text("")
        path.write_text(pods("b"))
        assert names(await watched.next()) == ["b"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be read: No such file or directory; check that it is there"),
        (b"a: [", "not valid yaml"),
        (b"\xff", "is not UTF-8 at byte 0"),
    ],
)
async def test_a_first_reading_with_problems_is_an_error_naming_the_file_as_the_user_did(
    tmp_path: Path, content: bytes | None, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    if content is not None:
        (tmp_path / "mesh.yaml").write_bytes(content)
    with pytest.raises(DiscoveryError) as caught:
        await anext(FileDiscovery(["mesh.yaml"], NODES).watch())
    assert str(caught.value).startswith("mesh.yaml:")
    assert message in str(caught.value)


async def test_a_bad_node_name_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DiscoveryError, match="not a DNS label: Node_A"):
        await anext(FileDiscovery([str(tmp_path)], ["Node_A"]).watch())


async def test_files_that_are_too_large_together_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MAX_BYTES", 100)
    (tmp_path / "a.yaml").write_text("#" * 60)
    (tmp_path / "b.yaml").write_text("#" * 60)
    with pytest.raises(DiscoveryError, match=r"b\.yaml: more than 100 bytes in all files"):
        await anext(FileDiscovery([str(tmp_path)], NODES).watch())


async def test_a_kind_that_means_nothing_is_warned_about_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "mesh.yaml"
    service = "---\napiVersion: v1\nkind: Service\nmetadata: {name: s}\n"
    path.write_text(pods("a") + service)
    async with Watched(path) as watched:
        path.write_text(pods("b") + service * 2)
        await watched.next()
    assert caplog.text.count("kind Service means nothing to the mesh") == 1


async def test_without_change_notices_it_looks_by_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def no_notices(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("watchfiles.awatch", no_notices)
    monkeypatch.setattr(module, "_LOOK_ANYWAY_MS", 10)
    path = tmp_path / "mesh.yaml"
    path.write_text(pods("a"))
    async with Watched(path) as watched:
        path.write_text(pods("b"))
        assert names(await watched.next()) == ["b"]
    assert "no change notices" in caplog.text
