from __future__ import annotations

import click
import pytest
from click.testing import CliRunner

from meshless_core.cli.main import main
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


COMMANDS = {
    "plugins": [],
    "agent": ["--node=a", "--socketd=x", "--issuer=y"],
    "socketd": ["--node=a", "--pods-dir=pods", "--control=c"],
    "reconciler": ["--nodes=a=127.0.0.1:1"],
    "dev": ["."],
}


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_with_a_configuration_takes_it_from_the_environment(name: str) -> None:
    result = CliRunner(env={"MESHLESS_CONFIG": "/nowhere/m.yaml"}).invoke(main, [name, *COMMANDS[name]])
    assert (result.exit_code, result.stderr) == (2, "error: /nowhere/m.yaml: cannot be read: No such file or directory\n")


@pytest.mark.parametrize("name", ["agent", "socketd"])
def test_a_node_is_a_dns_label(name: str) -> None:
    result = CliRunner().invoke(main, [name, *COMMANDS[name], "--node=Node_A"])
    assert result.exit_code == 2
    assert "'Node_A' is not a DNS label: use 1 to 63 of a-z, 0-9 and '-'" in result.stderr
