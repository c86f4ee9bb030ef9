"""The files an agent process writes: the access log in whole lines, wherever it is moved, and the pid file."""

from __future__ import annotations

import os
from pathlib import Path

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshless_core.cli.agent import _AccessLogFile, _pid_file, _whole_lines


@given(st.lists(st.binary(max_size=40).map(lambda line: line.replace(b"\n", b"") + b"\n"), max_size=20), st.integers(1, 60))
def test_pieces_end_where_lines_do_and_nothing_is_lost(lines: list[bytes], size: int) -> None:
    pieces = list(_whole_lines(b"".join(lines), size))
    assert b"".join(pieces) == b"".join(lines)
    for piece in pieces:
        assert piece.endswith(b"\n")
        assert len(piece) <= size or piece.count(b"\n") == 1


def test_a_file_is_appended_to_and_opened_again_after_it_was_moved(tmp_path: Path) -> None:
    path = tmp_path / "access.log"
    path.write_text("before\n")
    log = _AccessLogFile(str(path))
    log.write("one\n" * 50_000)
    path.rename(tmp_path / "moved")
    log.write("still there\n")
    log.reopen()
    log.write("new\n")
    log.close()
    assert (tmp_path / "moved").read_text() == "before\n" + "one\n" * 50_000 + "still there\n"
    assert path.read_text() == "new\n"


def test_a_path_that_cannot_be_opened_again_leaves_the_old_file(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = tmp_path / "logs"
    folder.mkdir()
    log = _AccessLogFile(str(folder / "access.log"))
    folder.rename(tmp_path / "away")
    log.reopen()
    log.write("kept\n")
    log.close()
    assert (tmp_path / "away" / "access.log").read_text() == "kept\n"
    assert "access log stays in the file it had" in caplog.text


def test_a_path_that_cannot_be_opened_is_an_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(click.FileError, match="No such file"):
        _AccessLogFile(str(tmp_path / "none" / "access.log"))


def test_a_pid_file_is_whole_from_its_first_moment_and_taken_away(tmp_path: Path) -> None:
    path = tmp_path / "agent.pid"
    path.write_text("1\n")
    old = path.stat().st_ino
    with _pid_file(str(path)):
        assert path.read_text() == f"{os.getpid()}\n"
        assert path.stat().st_ino != old, "replaced, not written over: nobody finds it empty"
        assert [entry.name for entry in tmp_path.iterdir()] == ["agent.pid"]
    assert not path.exists()


def test_a_pid_file_that_the_next_agent_has_written_is_left_to_it(tmp_path: Path) -> None:
    path = tmp_path / "agent.pid"
    with _pid_file(str(path)):
        path.write_text("1\n")
    assert path.read_text() == "1\n"
    path.unlink()
    with _pid_file(str(path)):
        path.unlink()
    with _pid_file(None):
        pass
