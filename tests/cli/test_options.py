from __future__ import annotations

import click
from click.testing import CliRunner

from meshless_core.cli.options import config_option, output_option


@click.command()
@config_option
@output_option
def command(config_path: str | None, output: str) -> None:
    click.echo(f"{config_path} {output}")


def test_options_have_defaults_and_short_names() -> None:
    assert CliRunner().invoke(command, []).output == "None table\n"
    assert CliRunner().invoke(command, ["-c", "m.yaml", "-o", "json"]).output == "m.yaml json\n"


def test_the_configuration_may_come_from_the_environment() -> None:
    assert CliRunner(env={"MESHLESS_CONFIG": "e.yaml"}).invoke(command, []).output == "e.yaml table\n"


def test_an_unknown_form_is_refused() -> None:
    assert CliRunner().invoke(command, ["-o", "xml"]).exit_code == 2
