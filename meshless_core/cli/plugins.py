"""`meshless plugins`: what is loaded, where it comes from, in which order, with which options."""

from __future__ import annotations

import enum
import os
from collections.abc import Mapping
from typing import Any

import attrs
import click

from meshless_core.cli.configuration import load_config_for
from meshless_core.cli.options import config_option, output_option
from meshless_core.cli.output import emit
from meshless_core.plugins import AGENT_NEEDS, RECONCILER_NEEDS, Kind, Registration, installed_plugins, load_plugins

__all__ = ["command"]

_NEEDS = {
    "agent": AGENT_NEEDS,
    "reconciler": RECONCILER_NEEDS,
    "all": AGENT_NEEDS | RECONCILER_NEEDS,
    "none": frozenset[Kind](),
}


@click.command()
@config_option
@click.option(
    "--role",
    type=click.Choice(list(_NEEDS)),
    default="all",
    show_default=True,
    help="Process whose needs have to be met: an agent needs no discovery, a reconciler no transport.",
)
@click.option("--installed", is_flag=True, help="List every installed plugin instead, enabled or not, without importing any.")
@output_option
def command(config_path: str | None, role: str, installed: bool, output: str) -> None:
    """List the active plugins: kind, name, distribution, version, order and effective options.

    Loads and checks them exactly as an agent does at its start, and reports every problem at once, but creates and starts none.

    \b
    Examples:
      meshless plugins --config meshless.yaml
      meshless plugins --installed --output json
    """
    if installed:
        rows: list[Mapping[str, Any]] = [
            {
                "name": entry.name,
                "distribution": entry.dist.name if entry.dist is not None else None,
                "version": entry.dist.version if entry.dist is not None else None,
                "module": entry.value,
            }
            for entry in sorted(installed_plugins(), key=lambda entry: entry.name)
        ]
        emit(rows, ["name", "distribution", "version", "module"], output)
        return
    loaded = load_plugins(load_config_for(config_path, _NEEDS[role]), needs=_NEEDS[role])
    columns = ["kind", "name", "distribution", "version", "order", "options"]
    emit([_row(registration) for registration in loaded.registrations], columns, output)


def _row(registration: Registration) -> dict[str, Any]:
    return {
        "kind": registration.kind.value,
        "name": registration.name,
        "distribution": registration.distribution,
        "version": registration.version,
        "order": registration.order,
        "options": {
            field.alias: _shown(getattr(registration.options, field.name))
            for field in attrs.fields(type(registration.options))
            if field.init
        },
    }


def _shown(value: Any) -> Any:
    """An option as plain JSON values; options are configuration, never key material, so all are shown."""
    match value:
        case None | bool() | str() | int() | float() if not isinstance(value, enum.Enum):
            return value
        case enum.Enum():
            return value.value
        case os.PathLike():
            return os.fspath(value)
        case Mapping():
            return {str(key): _shown(item) for key, item in value.items()}
        case list() | tuple():
            return [_shown(item) for item in value]
        case set() | frozenset():
            return sorted(map(_shown, value), key=str)
        case _ if attrs.has(type(value)):
            return {field.alias: _shown(getattr(value, field.name)) for field in attrs.fields(type(value))}
        case _:
            return str(value)
