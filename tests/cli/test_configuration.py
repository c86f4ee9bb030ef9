from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from meshless_core.cli.configuration import load_config_for
from meshless_core.cli.main import main
from meshless_core.config import load_config

WRONG = """\
agent: {max_connections: 0}
plugins:
  handshake_v1: {}
  policy_declared: {require_consent: "false"}
  policy_declard: {}
mesh: {trust_domain: A B}
"""

COMMANDS = {
    "plugins": [],
    "agent": ["--node=a", "--socketd=x", "--issuer=y"],
    "socketd": ["--node=a", "--pods-dir=pods", "--control=c"],
    "reconciler": ["--nodes=a=127.0.0.1:1"],
    "dev": ["shop.yaml"],
}


@pytest.mark.parametrize("command", COMMANDS)
def test_what_is_wrong_with_settings_and_plugins_is_told_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("wrong.yaml").write_text(WRONG)
    Path("shop.yaml").write_text("")
    result = CliRunner().invoke(main, [command, *COMMANDS[command], "--config", "wrong.yaml"])
    assert result.exit_code == 1
    lines = result.stderr.splitlines()
    assert [line.split(": ")[1] for line in lines] == ["wrong.yaml:1", "wrong.yaml:4", "wrong.yaml:5", "wrong.yaml:6"]
    assert "plugin policy_declared of meshless-policy-declared" in lines[1]
    assert "did you mean 'policy_declared'?" in lines[2]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["shop.yaml", "wrong.yaml"]


def test_a_plugin_whose_options_are_no_mapping_is_not_missed_besides(tmp_path: Path) -> None:
    (tmp_path / "m.yaml").write_text("plugins: {handshake_v1: true, policy_declared: , canary_weighted: , transport_tls: }\n")
    result = CliRunner().invoke(main, ["plugins", "--role", "agent", "--config", str(tmp_path / "m.yaml")])
    assert "$.plugins.handshake_v1: must be a mapping of options, not the boolean true" in result.stderr
    assert "no bus plugin is enabled" in result.stderr
    assert "no handshake plugin" not in result.stderr


def test_a_file_that_cannot_be_read_is_told_once_and_is_wrong_usage(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["plugins", "--config", str(tmp_path / "none.yaml")])
    assert result.exit_code == 2
    assert result.stderr.count("\n") == 1


def test_plugins_of_a_configuration_made_from_another_have_their_places_there(tmp_path: Path) -> None:
    written, made = tmp_path / "meshless.yaml", tmp_path / "run.yaml"
    written.write_text("# mine\nplugins:\n  handshake_v1: {}\n  policy_declared:\n    require_consent: true\n")
    made.write_text("plugins: {handshake_v1: {}, policy_declared: {require_consent: true}, bus_directory: {path: run}}\n")
    config = load_config_for(str(made), frozenset(), made_from=str(written))
    assert config == load_config(made)
    places = [(one.source, one.line) for one in config.plugins]
    assert places == [(str(written), 3), (str(written), 4), (str(made), 1)]
    assert config.plugins[1].marks is not None
    assert config.plugins[1].marks.line_of(("require_consent",)) == 5
    written.unlink()
    config = load_config_for(str(made), frozenset(), made_from=str(written))
    assert {one.source for one in config.plugins} == {str(made)}, "it may be gone or half edited by now"
