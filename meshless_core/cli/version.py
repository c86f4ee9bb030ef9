"""`meshless version`: what to put into a bug report."""

from __future__ import annotations

import importlib.metadata
import platform

import click

from meshless_core.hookspecs import PLUGIN_API

__all__ = ["command"]


@click.command()
def command() -> None:
    """Print the version of Meshless, its plugin API, Python and kernel.

    \b
    Example:
      meshless version
    """
    click.echo(f"meshless {importlib.metadata.version('meshless')}")
    click.echo(f"plugin api {PLUGIN_API}")
    click.echo(f"python {platform.python_version()}")
    click.echo(f"{platform.system().lower()} {platform.release()}")
