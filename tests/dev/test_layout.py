from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import pytest

from meshless_core.dev import RunLayout
from meshless_core.errors import ConfigError


def test_a_new_folder_is_made_marked_and_removed_again(tmp_path: Path) -> None:
    run = RunLayout(tmp_path / "deep" / "run")
    run.acquire()
    assert [entry.name for entry in run.directory.iterdir()] == ["meshless-dev.json"]
    assert json.loads((run.directory / "meshless-dev.json").read_text()) == {"pid": os.getpid()}
    assert stat.S_IMODE(run.directory.stat().st_mode) == 0o700, "who reaches a pod's socket is that pod"
    run.bus.mkdir()
    (run.bus / "document.json").write_text("{}")
    run.release()
    assert not run.directory.exists()


def test_an_empty_folder_that_was_there_stays_there_empty(tmp_path: Path) -> None:
    run = RunLayout(tmp_path)
    run.acquire()
    run.config.write_text("")
    run.release()
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_mesh_left_is_cleared(tmp_path: Path) -> None:
    (tmp_path / "meshless-dev.json").write_text('{"pid": 1}')
    (tmp_path / "pods" / "shop").mkdir(parents=True)
    (tmp_path / "elsewhere").symlink_to(tmp_path.parent)
    run = RunLayout(tmp_path)
    run.acquire()
    assert [entry.name for entry in tmp_path.iterdir()] == ["meshless-dev.json"]
    assert tmp_path.parent.is_dir()
    run.release()


def test_a_folder_with_something_else_is_refused_and_untouched(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    run = RunLayout(tmp_path)
    with pytest.raises(ConfigError, match=r"is not empty and no run directory.*choose another --run-dir"):
        run.acquire()
    run.release()
    assert [entry.name for entry in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_folder_in_use_is_refused_and_free_after_release(tmp_path: Path) -> None:
    first, second = RunLayout(tmp_path / "run"), RunLayout(tmp_path / "run")
    first.acquire()
    first.bus.mkdir()
    with pytest.raises(ConfigError, match="is in use by another mesh"):
        second.acquire()
    second.release()
    assert first.bus.is_dir(), "the refused one must not clear what is not its own"
    first.release()
    second.acquire()
    second.release()


def test_a_file_in_the_way_is_an_error_with_the_reason(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("")
    with pytest.raises(ConfigError, match=r"run cannot be used: (Not a directory|File exists)"):
        RunLayout(tmp_path / "run").acquire()


def test_every_path_is_below_the_folder_and_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run = RunLayout("run")
    node = run.node("node-a")
    assert node.name == "node-a"
    paths = [run.config, run.authority, run.bus, run.reconciler_state, run.status, run.pods]
    paths += [node.agent_pid, node.admin, node.socketd, node.issuer, node.access_log, node.state]
    assert len(set(paths)) == 12
    assert all(path.is_relative_to(tmp_path / "run") for path in paths)


def test_nodes_are_those_on_disk_in_order(tmp_path: Path) -> None:
    run = RunLayout(tmp_path)
    assert list(run.nodes()) == []
    for name in ("node-b", "node-a"):
        (tmp_path / "nodes" / name).mkdir(parents=True)
    assert [node.name for node in run.nodes()] == ["node-a", "node-b"]
