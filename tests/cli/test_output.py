from __future__ import annotations

import io
import json
import sys

import pytest
import yaml

from meshless_core.cli.output import emit

ROWS = [
    {"name": "a", "ready": True, "tags": ["x", "y"], "hidden": 1},
    {"name": "longer", "ready": False, "tags": [], "options": {"k": 1, "w": None}},
]
COLUMNS = ["name", "ready", "tags", "options"]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_pipe_gets_plain_aligned_text(capsys: pytest.CaptureFixture[str]) -> None:
    emit(ROWS, COLUMNS)
    assert capsys.readouterr().out == ("NAME    READY  TAGS  OPTIONS\na       yes    x, y  -\nlonger  no     -     k=1, w=-\n")


def test_json_and_yaml_hold_everything(capsys: pytest.CaptureFixture[str]) -> None:
    emit(ROWS, COLUMNS, "json")
    assert json.loads(capsys.readouterr().out) == ROWS
    emit(tuple(ROWS), COLUMNS, "yaml")
    assert yaml.safe_load(capsys.readouterr().out) == ROWS


def test_one_object_is_a_table_of_its_fields(capsys: pytest.CaptureFixture[str]) -> None:
    emit({"a": 1, "long": "x"}, [])
    assert capsys.readouterr().out == "a     1\nlong  x\n"
    emit({"a": 1, "long": "x"}, ["long"])
    assert capsys.readouterr().out == "long  x\n"


def test_no_rows_still_have_their_titles(capsys: pytest.CaptureFixture[str]) -> None:
    emit([], ["name", "age"])
    assert capsys.readouterr().out == "NAME  AGE\n"


def test_a_terminal_gets_a_drawn_table(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    emit(ROWS, COLUMNS)
    assert "\x1b[" in terminal.getvalue()
    assert "longer" in terminal.getvalue()


@pytest.mark.parametrize("stream", [io.StringIO, Terminal])
def test_control_characters_and_markup_never_act(monkeypatch: pytest.MonkeyPatch, stream: type[io.StringIO]) -> None:
    out = stream()
    monkeypatch.setattr(sys, "stdout", out)
    emit([{"name": "\x1b[2Jevil\nline [bold]b[/bold]"}], ["name"])
    assert "\x1b[2J" not in out.getvalue()
    assert r"\x1b[2Jevil\x0aline [bold]b[/bold]" in out.getvalue()
