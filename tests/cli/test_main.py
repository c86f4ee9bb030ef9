from __future__ import annotations

import importlib
import os
import re
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from meshless_core.cli.exit_codes import CommandError, ExitCode
from meshless_core.cli.main import COMMANDS, main
from meshless_core.errors import BusError, MeshlessError, Problem, ValidationError

MESHLESS = str(Path(sys.executable).with_name("meshless"))


def call(monkeypatch: pytest.MonkeyPatch, error: BaseException | int | None) -> tuple[int, str]:
    """Run a command that ends in a certain way."""

    @click.command()
    def command() -> int | None:
        if isinstance(error, BaseException):
            raise error
        return error

    monkeypatch.setattr(importlib.import_module(COMMANDS["version"][0]), "command", command)
    result = CliRunner().invoke(main, ["version"])
    return result.exit_code, result.stderr


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (None, 0, ""),
        (1, 1, ""),
        (MeshlessError("pod shop/web is gone"), 1, "error: pod shop/web is gone\n"),
        (ValidationError([Problem("$", "one"), Problem("$", "two")]), 1, "error: $: one\nerror: $: two\n"),
        (CommandError("cannot read x", ExitCode.USAGE), 2, "error: cannot read x\n"),
        (BusError("no bus at x"), 3, "error: no bus at x\n"),
        (KeyboardInterrupt(), 130, "interrupted\n"),
    ],
)
def test_a_command_ends_with_its_exit_code_and_message(
    monkeypatch: pytest.MonkeyPatch, error: BaseException | int | None, code: int, text: str
) -> None:
    found_code, stderr = call(monkeypatch, error)
    assert (found_code, stderr.lstrip("\n")) == (code, text)


def test_a_bug_is_shown_as_one_with_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    code, stderr = call(monkeypatch, ZeroDivisionError("oops"))
    assert code == 70
    assert "Traceback" in stderr
    assert stderr.endswith("error: internal error, please report it with the lines above: ZeroDivisionError('oops')\n")


def test_a_misspelt_command_gets_a_suggestion() -> None:
    result = CliRunner().invoke(main, ["validte"])
    assert result.exit_code == 2
    assert result.stderr.endswith("error: no such command 'validte', did you mean 'validate'?\n")


def test_a_wrong_option_is_a_usage_error() -> None:
    result = CliRunner().invoke(main, ["version", "--nope"])
    assert result.exit_code == 2
    assert "error: No such option" in result.stderr


def test_help_lists_every_command_and_documents_every_exit_code() -> None:
    result = CliRunner().invoke(main, ["--help"])
    assert result.exit_code == 0
    for name in COMMANDS:
        assert re.search(rf"^  {name} ", result.output, re.MULTILINE), name
    for code in ExitCode:
        assert re.search(rf"^    {int(code)} +{code.meaning}$", result.output, re.MULTILINE), code


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_command_can_be_loaded_and_its_help_has_an_example(name: str) -> None:
    command = importlib.import_module(COMMANDS[name][0]).command
    assert isinstance(command, click.Command)
    assert "Example" in (command.help or ""), "a help text shows an example"


@pytest.mark.slow
def test_help_and_version_import_nothing_heavy() -> None:
    script = (
        "import sys\nfrom meshless_core.cli.main import main\n"
        "try:\n    main(['{}'])\nexcept SystemExit:\n    pass\n"
        "heavy = {{'rich', 'cryptography', 'asyncio', 'structlog', 'yaml', 'cattrs', 'prometheus_client', 'watchfiles'}}\n"
        "print(sorted(heavy & set(sys.modules)), file=sys.stderr)"
    )
    for argument in ("--help", "version"):
        done = subprocess.run([sys.executable, "-c", script.format(argument)], capture_output=True, text=True, timeout=30)
        assert done.stderr == "[]\n", argument


@pytest.mark.slow
def test_a_reader_that_goes_away_causes_no_traceback() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = subprocess.run([MESHLESS, "version"], stdout=writer, stderr=subprocess.PIPE, text=True, timeout=30)
    finally:
        os.close(writer)
    assert done.stderr == ""
    assert done.returncode == 1
