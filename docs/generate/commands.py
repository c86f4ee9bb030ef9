"""The page of the command line: the help of every command, as `--help` prints it."""

from __future__ import annotations

from collections.abc import Iterator

import click

from docs.generate.page import GenerationError, Page, fenced, titled
from meshless_core.cli.exit_codes import ExitCode
from meshless_core.cli.main import main

__all__ = ["PAGE", "commands"]

_WIDTH = 100
_Found = tuple[str, click.Command, click.Context]


def commands() -> Iterator[_Found]:
    """Every command with its full name, groups before what is in them.

    Raises:
        GenerationError: a registered command cannot be imported.
    """
    yield from _walk("meshless", main, None)


def _walk(name: str, command: click.Command, parent: click.Context | None) -> Iterator[_Found]:
    context = click.Context(
        command,
        info_name=name.rsplit(" ", 1)[-1],
        parent=parent,
        terminal_width=_WIDTH,
        max_content_width=_WIDTH,
        help_option_names=["-h", "--help"],
    )
    yield name, command, context
    if isinstance(command, click.Group):
        for child in command.list_commands(context):
            try:
                found = command.get_command(context, child)
            except ImportError as error:
                raise GenerationError(f"command '{name} {child}' cannot be imported: {error}") from error
            if found is None:
                raise GenerationError(f"command '{name} {child}' is listed and is not there")
            if not found.hidden:
                yield from _walk(f"{name} {child}", found, context)


def _render() -> str:
    parts = []
    for name, command, context in commands():
        if not command.help:
            raise GenerationError(f"command '{name}' has no help text")
        parts.append(f"## {name}\n\n{fenced(command.get_help(context), 'text')}")
    codes = ", ".join(f"{int(code)} {code.meaning}" for code in ExitCode)
    introduction = f"The command is `meshless`; after `make setup` it is `.venv/bin/meshless`. Exit codes: {codes}."
    return titled("Command line", "meshless_core/cli", introduction, parts)


PAGE = Page("command-line.md", _render)
