"""`meshless`: the entry point of the command line.

Each command lives in a file of its own in this package, exposes `command: click.Command`, and is imported only when it is
called (or its own help is asked for), so that `meshless --help` and `meshless connect` start fast. This module must not import
anything heavy: no rich, no cryptography, no asyncio.
"""

from __future__ import annotations

import importlib
import os
import sys
import traceback
from collections.abc import Callable, Mapping
from typing import Any, Final, NoReturn

import click

from meshless_core.cli.exit_codes import ExitCode, exit_code_of
from meshless_core.errors import MeshlessError

__all__ = ["COMMANDS", "main"]

COMMANDS: Final[Mapping[str, tuple[str, str]]] = {
    "agent": ("meshless_core.cli.agent", "Run the node agent."),
    "ca": ("meshless_core.cli.ca", "Make, rotate and show the mesh's certificates."),
    "check": ("meshless_core.cli.check", "Say whether everything is in order, and if not what to do."),
    "connect": ("meshless_core.cli.connect", "Connect standard input and output to a service."),
    "connections": ("meshless_core.cli.connections", "List live connections."),
    "dev": ("meshless_core.cli.dev", "Run a whole mesh on this machine from one YAML file."),
    "explain": ("meshless_core.cli.explain", "Say who decides what about a connection, and why."),
    "forward": ("meshless_core.cli.forward", "Make a service reachable at a local port or socket."),
    "listen": ("meshless_core.cli.listen", "Provide a service from standard input and output or a local server."),
    "plugins": ("meshless_core.cli.plugins", "List the active plugins, where they come from and their options."),
    "proxy": ("meshless_core.cli.proxy", "Offer the mesh as a SOCKS5 and HTTP proxy at a local port."),
    "reconciler": ("meshless_core.cli.reconciler", "Run the reconciler."),
    "socketd": ("meshless_core.cli.socketd", "Run the owner of the pods' sockets."),
    "validate": ("meshless_core.cli.validate", "Check resource files."),
    "version": ("meshless_core.cli.version", "Print the versions in use."),
}
"""Every command: the module that exposes `command`, and its line in `meshless --help` (which must not import the module)."""

_EPILOG: Final = "\b\nExit codes:\n" + "\n".join(f"  {int(code):<4} {code.meaning}" for code in ExitCode)


class _LazyGroup(click.Group):
    """A group that knows its commands by name and imports one when it is needed."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        entry = COMMANDS.get(cmd_name)
        if entry is None:
            return None
        command = importlib.import_module(entry[0]).command
        assert isinstance(command, click.Command), entry[0]
        return command

    def resolve_command(self, ctx: click.Context, args: list[str]) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        if name not in COMMANDS and not name.startswith("-"):
            from difflib import get_close_matches  # only needed on the way to an error

            near = get_close_matches(name, COMMANDS, n=1)
            hint = f"did you mean {near[0]!r}?" if near else "see 'meshless --help'"
            raise click.UsageError(f"no such command {name!r}, {hint}", ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, summary) for name, (_, summary) in sorted(COMMANDS.items())])

    def main(self, *args: Any, **extra: Any) -> NoReturn:
        """Run the command line and leave the process: the one place where errors become messages and exit codes."""
        extra["standalone_mode"] = False
        sys.exit(_exit_code_of(lambda: super(_LazyGroup, self).main(*args, **extra)))


def _exit_code_of(run: Callable[[], object]) -> int:
    """Run the command line, tell what went wrong, and return the exit code."""
    try:
        result = run()
    except MeshlessError as error:
        for line in str(error).splitlines():
            click.echo(f"error: {line}", err=True)
        return exit_code_of(error)
    except click.exceptions.Exit as stop:
        return stop.exit_code
    except click.UsageError as error:
        if error.ctx is not None:
            click.echo(f"{error.ctx.get_usage()}\nTry '{error.ctx.command_path} --help' for help.\n", err=True)
        click.echo(f"error: {error.format_message()}", err=True)
        return ExitCode.USAGE
    except click.ClickException as error:
        click.echo(f"error: {error.format_message()}", err=True)
        return ExitCode.USAGE if isinstance(error, click.FileError) else error.exit_code
    except (click.Abort, KeyboardInterrupt):
        click.echo("interrupted", err=True)
        return ExitCode.INTERRUPTED
    except BrokenPipeError:
        # The reader of our output is gone (`meshless plugins | head -1`): nobody is left to tell. Whatever is still buffered
        # must go somewhere when the interpreter flushes it at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return ExitCode.NO
    except Exception as error:  # noqa: BLE001 - the top of the process: all else is a bug, shown as one
        click.echo(traceback.format_exc(), err=True, nl=False)
        click.echo(f"error: internal error, please report it with the lines above: {error!r}", err=True)
        return ExitCode.INTERNAL
    return result if isinstance(result, int) else ExitCode.OK


@click.group(cls=_LazyGroup, epilog=_EPILOG, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.option(
    "--log-level",
    type=click.Choice(["debug", "info", "warning", "error"], case_sensitive=False),
    default="info",
    show_default=True,
    envvar="MESHLESS_LOG_LEVEL",
    help="Least severity that is logged.",
)
@click.option(
    "--log-format",
    type=click.Choice(["auto", "pretty", "json"]),
    default="auto",
    show_default=True,
    envvar="MESHLESS_LOG_FORMAT",
    help="Form of the log on standard error; auto is pretty on a terminal and json otherwise.",
)
def main(log_level: str, log_format: str) -> None:
    """Meshless: a sidecarless L4 service mesh.

    \b
    Example: a whole mesh on this machine, and a connection through it
      meshless dev examples/01-demo/shop.yaml
      meshless connect --pod-dir .meshless/pods/shop/web http.cart.shop      (in another terminal)
    """
    from meshless_core.cli.logging import configure_logging  # `--help` must not pay for it

    configure_logging(level=log_level, form=log_format)
