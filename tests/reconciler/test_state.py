"""The reconciler's own folder: an epoch that only grows, a lock, last good objects; losing it is no disaster."""

import json
import os
from pathlib import Path

import pytest

from meshless_core.errors import ConfigError
from meshless_core.reconciler.state import StateFolder, replace_file


def test_the_epoch_grows_with_every_start_and_beats_the_bus_and_the_clock(tmp_path: Path) -> None:
    now = 1000.0
    state = StateFolder(tmp_path, lambda: now)
    assert state.next_epoch(0) == 1000
    assert state.next_epoch(0) == 1001
    assert state.next_epoch(5000) == 5001
    now = 10.0  # the clock was set back
    assert StateFolder(tmp_path, lambda: now).next_epoch(0) == 5002


def test_a_lost_folder_is_made_up_for_by_the_clock(tmp_path: Path) -> None:
    first = StateFolder(tmp_path / "a", lambda: 1000.0).next_epoch(0)
    assert StateFolder(tmp_path / "b", lambda: 1060.0).next_epoch(0) > first


@pytest.mark.parametrize("content", ["", "{", "[]", '{"epoch": "5"}', '{"epoch": true}', '{"epoch": -1}', '{"epoch": 1e99}'])
def test_a_torn_epoch_is_left_aside(tmp_path: Path, content: str) -> None:
    (tmp_path / "epoch.json").write_text(content)
    assert StateFolder(tmp_path, lambda: 7.0).next_epoch(3) == 7


def test_an_epoch_that_cannot_be_kept_is_not_used(tmp_path: Path) -> None:
    (tmp_path / "epoch.json").mkdir()
    (tmp_path / "epoch.json" / "x").write_text("")
    with pytest.raises(ConfigError, match=f"the epoch cannot be written to {tmp_path}"):
        StateFolder(tmp_path, lambda: 1.0).next_epoch(0)


def test_only_one_reconciler_uses_a_folder(tmp_path: Path) -> None:
    first, second = (StateFolder(tmp_path / "state", lambda: 1.0) for _ in range(2))
    first.lock()
    with pytest.raises(ConfigError, match=rf"in use by another reconciler \(process {os.getpid()}\): stop it"):
        second.lock()
    first.unlock()
    first.unlock()
    second.lock()
    second.unlock()


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=f"state folder {tmp_path}/file cannot be used"):
        StateFolder(tmp_path / "file", lambda: 1.0).lock()


def test_last_good_objects_come_back_and_are_written_only_when_they_change(tmp_path: Path) -> None:
    state = StateFolder(tmp_path, lambda: 1.0)
    assert state.load_good() == []
    state.save_good([{"kind": "Meshlet"}])
    before = os.stat(tmp_path / "last-good.json").st_ino
    state.save_good([{"kind": "Meshlet"}])
    assert os.stat(tmp_path / "last-good.json").st_ino == before
    assert StateFolder(tmp_path, lambda: 1.0).load_good() == [{"kind": "Meshlet"}]


def test_last_good_objects_that_cannot_be_kept_are_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("")
    StateFolder(tmp_path / "file", lambda: 1.0).save_good([])
    assert "last good Meshlets not saved" in caplog.text


def test_a_failed_replacement_keeps_the_old_file_and_leaves_no_litter(tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "y").write_text("")
    with pytest.raises(OSError):
        replace_file(str(tmp_path / "x"), b"1")
    assert [path.name for path in tmp_path.iterdir()] == ["x"]
    replace_file(str(tmp_path / "deep" / "new"), json.dumps(1).encode())
    assert (tmp_path / "deep" / "new").read_text() == "1"
