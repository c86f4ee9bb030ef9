"""Options that several commands share, so that they are spelt and explained the same everywhere."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from meshless_core.types import is_dns_label

__all__ = ["config_option", "node_option", "output_option"]

_F = TypeVar("_F", bound=Callable[..., Any])


def output_option(function: _F) -> _F:
    """Add `--output`; the command gets it as `output`, for `meshless_core.cli.output.emit`."""
    return click.option(
        "-o",
        "--output",
        type=click.Choice(["table", "json", "yaml"]),
        default="table",
        show_default=True,
        help="Form of the result; table is for people and may change, json and yaml are for programs.",
    )(function)


def config_option(function: _F) -> _F:
    """Add `--config`; the command gets it as `config_path`, for `meshless_core.config.load_config`."""
    return click.option(
        "-c",
        "--config",
        "config_path",
        type=click.Path(dir_okay=False),
        default=None,
        envvar="MESHLESS_CONFIG",
        show_envvar=True,
        metavar="FILE",
        help="Configuration, usually meshless.yaml; without it every setting has its default.",
    )(function)


def node_option(function: _F) -> _F:
    """Add `--node`, the name of the node a process runs on."""
    return click.option("--node", required=True, callback=_dns_label, metavar="NAME", help="Name of this node, a DNS label.")(
        function
    )


def _dns_label(_context: click.Context, _parameter: click.Parameter, value: str) -> str:
    if not is_dns_label(value):
        raise click.BadParameter(f"{value!r} is not a DNS label: use 1 to 63 of a-z, 0-9 and '-', no '-' at the ends")
    return value
