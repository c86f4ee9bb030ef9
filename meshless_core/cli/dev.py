"""`meshless dev`: a whole mesh on this machine, from one YAML file, without root."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import sys
from pathlib import Path

import click

from meshless_core.cli.configuration import load_config_for
from meshless_core.cli.exit_codes import ExitCode
from meshless_core.cli.options import config_option
from meshless_core.dev import DevMesh, RunLayout
from meshless_core.plugins import AGENT_NEEDS, RECONCILER_NEEDS

__all__ = ["command"]

logger = logging.getLogger(__name__)


@click.command("dev")
@click.argument("file", type=click.Path(exists=True))
@click.option(
    "--run-dir",
    default=".meshless",
    show_default=True,
    type=click.Path(file_okay=False),
    help="Folder for sockets and state; emptied at start and end.",
)
@config_option
@click.pass_context
def command(context: click.Context, file: str, run_dir: str, config_path: str | None) -> int:
    """Run a whole mesh on this machine from one YAML file or folder of Kubernetes objects.

    One process per node's agent; reconciler, issuer and socketd run here. Containers with a command are run as processes with
    MESHLESS_DIR, POD_NAME and POD_NAMESPACE; a pod without one is yours to play, in RUN_DIR/pods/<namespace>/<pod>. Edit the
    file while it runs: it applies. Prints "ready" when dialling works. Ctrl-C ends everything and leaves nothing behind.

    \b
    Example:
      meshless dev examples/01-demo/shop.yaml
      meshless connect --pod-dir .meshless/pods/shop/web http.cart.shop      (in another terminal)
    """
    root = context.find_root().params
    form = root.get("log_format", "auto")
    if form == "auto" and sys.stderr.isatty():
        form = "pretty"  # for agents too, who write into a pipe of ours
    log_options = [f"--log-level={root.get('log_level', 'info')}", f"--log-format={form}"]
    return asyncio.run(_run(Path(file), run_dir, config_path, log_options))


async def _run(file: Path, run_dir: str, config_path: str | None, log_options: list[str]) -> int:
    config = load_config_for(config_path, AGENT_NEEDS | RECONCILER_NEEDS)
    mesh = DevMesh(file, RunLayout(run_dir), config, write=_to_stderr, log_options=log_options)
    asked = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, asked.set)
    tasks: set[asyncio.Task[object]] = set()
    try:
        await mesh.start()
        ready = asyncio.create_task(mesh.wait_ready(_progress), name="ready")
        ended = asyncio.create_task(asked.wait(), name="asked to end")
        failed = asyncio.create_task(mesh.wait_failed(), name="failed")
        tasks = {ready, ended, failed}
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        if ready.done():
            ready.result()
            click.echo(f"pods     {mesh.run.pods}", err=True)
            click.echo(f"nodes    {', '.join(mesh.nodes) or f'none yet: no pod in {file} belongs to a meshlet'}", err=True)
            click.echo("ready")
            sys.stdout.flush()
            await asyncio.wait({ended, failed}, return_when=asyncio.FIRST_COMPLETED)
        if failed.done():
            failed.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)  # the first failure is on its way up, the others say the same
        await mesh.stop()
    return ExitCode.OK


def _to_stderr(text: str) -> None:
    with contextlib.suppress(BrokenPipeError):  # nobody reads any more and there is nowhere else to say it: the mesh goes on
        sys.stderr.write(text)
        sys.stderr.flush()


def _progress(text: str) -> None:
    logger.info("waiting: %s", text)
