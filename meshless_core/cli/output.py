"""Results on standard output: a table for people, JSON or YAML for programs.

A table is drawn with rich on a terminal and is plain aligned text in a pipe. rich and yaml are imported only when used.
Control characters never reach the terminal: results may hold text a peer sent.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeAlias

import click

__all__ = ["Output", "emit"]

Output: TypeAlias = Literal["table", "json", "yaml"]


def emit(
    value: Sequence[Mapping[str, Any]] | Mapping[str, Any], columns: Sequence[str], output: Output | str = "table"
) -> None:
    """Print a result.

    Args:
        value: rows, or one object; plain JSON values.
        columns: keys shown in a table, in this order; for one object, empty means all. JSON and YAML hold everything.
        output: table, json or yaml.
    """
    match output:
        case "json":
            click.echo(json.dumps(value, indent=2, ensure_ascii=False))
        case "yaml":
            import yaml  # only when asked for

            click.echo(yaml.safe_dump(_plain(value), sort_keys=False, allow_unicode=True, width=120), nl=False)
        case _:
            _emit_table(value, columns)


def _plain(value: Any) -> Any:
    """Lists and dicts only, as the YAML dumper wants them."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value


def _emit_table(value: Sequence[Mapping[str, Any]] | Mapping[str, Any], columns: Sequence[str]) -> None:
    if isinstance(value, Mapping):
        titles: Sequence[str] = ()
        rows = [[key, _cell(value.get(key))] for key in (columns or value)]
    else:
        titles = columns
        rows = [[_cell(row.get(column)) for column in columns] for row in value]
    if sys.stdout.isatty():
        _emit_rich(titles, rows)
    else:
        _emit_plain(titles, rows)


def _emit_plain(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    lines = [[title.upper() for title in titles], *rows] if titles else list(rows)
    if not lines:
        return
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def _emit_rich(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    from rich.console import Console  # some 60 ms, only for people
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, show_header=bool(titles), header_style="bold", pad_edge=False)
    for title in titles or ("", ""):
        table.add_column(title, overflow="fold")
    for row in rows:
        table.add_row(*map(Text, row))
    Console().print(table)


def _cell(value: object) -> str:
    match value:
        case None:
            return "-"
        case bool():
            return "yes" if value else "no"
        case Mapping():
            text = ", ".join(f"{key}={_cell(item)}" for key, item in value.items()) or "-"
        case list() | tuple():
            text = ", ".join(map(_cell, value)) or "-"
        case _:
            text = str(value)
    return "".join(char if char.isprintable() else f"\\x{ord(char):02x}" for char in text)
