"""The folder watcher tells which entries changed, and says "anything" when it cannot."""

import os
import select
from collections.abc import Iterator
from pathlib import Path

import pytest

from meshless_core.bus.inotify import FolderChange, FolderWatcher


@pytest.fixture
def watcher() -> Iterator[FolderWatcher]:
    watcher = FolderWatcher()
    yield watcher
    watcher.close()


def test_nothing_changed_is_an_empty_list_and_does_not_block(watcher: FolderWatcher, tmp_path: Path) -> None:
    watcher.watch(str(tmp_path))
    assert watcher.changes() == []


def test_write_rename_and_delete_name_the_entry(watcher: FolderWatcher, tmp_path: Path) -> None:
    watcher.watch(str(tmp_path))
    (tmp_path / "new").write_text("1")
    (tmp_path / "new").rename(tmp_path / "moved")
    (tmp_path / "moved").unlink()
    assert select.select([watcher.fileno()], [], [], 5)[0]
    assert {change.name for change in watcher.changes()} == {"new", "moved"}


def test_a_removed_or_renamed_folder_is_no_longer_watched_and_means_anything(watcher: FolderWatcher, tmp_path: Path) -> None:
    for name in ("gone", "away"):
        (tmp_path / name).mkdir()
        watcher.watch(str(tmp_path / name))
    (tmp_path / "gone").rmdir()
    (tmp_path / "away").rename(tmp_path / "elsewhere")
    assert FolderChange(None, "") in watcher.changes()
    assert watcher.folders == frozenset()
    (tmp_path / "elsewhere" / "x").write_text("")
    assert watcher.changes() == []


def test_watching_again_after_the_folder_was_replaced_watches_the_new_one(watcher: FolderWatcher, tmp_path: Path) -> None:
    folder = tmp_path / "a"
    folder.mkdir()
    watcher.watch(str(folder))
    folder.rename(tmp_path / "old")
    folder.mkdir()
    watcher.watch(str(folder))
    watcher.changes()
    watcher.watch(str(folder))
    (folder / "x").write_text("")
    assert FolderChange(str(folder), "x") in watcher.changes()


def test_unwatch_is_silent(watcher: FolderWatcher, tmp_path: Path) -> None:
    watcher.watch(str(tmp_path))
    watcher.unwatch(str(tmp_path))
    watcher.unwatch(str(tmp_path))
    (tmp_path / "x").write_text("")
    assert watcher.changes() == []


def test_a_folder_that_is_missing_or_a_file_is_an_error_with_its_name(watcher: FolderWatcher, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as missing:
        watcher.watch(str(tmp_path / "no"))
    assert missing.value.filename == str(tmp_path / "no")
    (tmp_path / "file").write_text("")
    with pytest.raises(NotADirectoryError):
        watcher.watch(str(tmp_path / "file"))


def test_close_releases_the_descriptor_and_may_be_repeated(tmp_path: Path) -> None:
    watcher = FolderWatcher()
    descriptor = watcher.fileno()
    watcher.close()
    watcher.close()
    with pytest.raises(OSError):
        os.fstat(descriptor)
