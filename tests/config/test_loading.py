# ruff: noqa: E501 - messages are asserted whole, so that they can be searched for
from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshless_core.config import (
    DEFAULT_PLUGINS,
    Config,
    PluginSetting,
    config_to_data,
    config_to_yaml,
    load_config,
    parse_config,
)
from meshless_core.errors import ConfigError

FULL = """\
mesh:
  trust_domain: prod.example
agent:
  handshake_timeout: 2s
  connect_timeout: 1m30s
  endpoint_timeout: 250ms
  max_connections: 5
  tunnel_pool_size: 0
  tunnel_address: "[::]:15008"
  admin: tcp:127.0.0.1:9100
  state_dir: /tmp/state
reconciler: {resync: 1h}
plugins:
  zeta: {b: 1, a: [x]}
  alpha:
  mid: {}
"""


def problems(text: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        parse_config(text, "m.yaml")
    return [str(problem) for problem in caught.value]


def test_no_file_and_an_empty_file_mean_the_defaults(tmp_path: Path) -> None:
    path = tmp_path / "m.yaml"
    path.write_text("# nothing yet\n")
    assert load_config(None) == load_config(path) == load_config(str(path)) == Config()


def test_every_section_is_read_and_durations_become_seconds() -> None:
    config = parse_config(FULL, "m.yaml")
    assert config.mesh.trust_domain == "prod.example"
    agent = config.agent
    assert (agent.handshake_timeout, agent.connect_timeout, agent.endpoint_timeout) == (2.0, 90.0, 0.25)
    assert (agent.max_connections, agent.tunnel_pool_size, agent.tunnel_address) == (5, 0, "[::]:15008")
    assert (agent.admin, agent.state_dir, agent.authorize_timeout) == ("tcp:127.0.0.1:9100", "/tmp/state", 1.0)
    assert config.reconciler.resync == 3600.0


def test_plugins_replace_the_default_set_in_the_written_order_and_know_their_lines() -> None:
    plugins = parse_config(FULL, "m.yaml").plugins
    assert plugins == (PluginSetting("zeta", {"b": 1, "a": ["x"]}), PluginSetting("alpha"), PluginSetting("mid"))
    assert [(plugin.source, plugin.line) for plugin in plugins] == [("m.yaml", 14), ("m.yaml", 15), ("m.yaml", 16)]


def test_an_empty_mapping_of_plugins_means_none() -> None:
    assert parse_config("plugins: {}\n", "m.yaml").plugins == ()


def test_all_problems_are_told_at_once_with_file_line_path_and_fix() -> None:
    text = """\
mesh: {trust_domain: A_b}
agent:
  handshake_timout: 5s
  connect_timeout: 5
  max_connections: "5"
  workers: 0
reconciler: []
plugns: {}
plugins:
  a: 5
  b: {}
  b: {}
  1: {}
"""
    assert problems(text) == [
        "m.yaml:1: $.mesh.trust_domain: 'A_b' is not a trust domain: use DNS labels joined by dots, such as mesh.local",
        "m.yaml:3: $.agent.handshake_timout: unknown setting, did you mean 'handshake_timeout'?",
        "m.yaml:4: $.agent.connect_timeout: must be a duration with a unit, not the number 5: write for example 5s",
        "m.yaml:5: $.agent.max_connections: must be an integer, not the string '5': write it without quotes",
        "m.yaml:6: $.agent.workers: workers must be at least 1, not 0",
        "m.yaml:7: $.reconciler: must be a mapping, not a sequence",
        "m.yaml:8: $.plugns: unknown field, did you mean 'plugins'?",
        "m.yaml:10: $.plugins.a: must be a mapping of options, not the number 5: write {} for the defaults",
        "m.yaml:12: $.plugins.b: duplicate key, first written on line 11: keep one",
        "m.yaml:13: $.plugins: key '1' is read as a number: put it in quotes",
    ]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (
            "agent: {ejection_base: 2m}",
            "m.yaml:1: $.agent.ejection_max: must be at least ejection_base: raise it, or lower ejection_base",
        ),
        (
            "agent: {connect_timeout: 1s}",
            "m.yaml:1: $.agent.endpoint_timeout: must be at most connect_timeout: lower it, or raise connect_timeout",
        ),
        ("agent: {connect_timeout: 0s}", "m.yaml:1: $.agent.connect_timeout: connect_timeout must be longer than 0"),
        ("agent:", "m.yaml:1: $.agent: must be a mapping, not nothing (null): give it a value or remove it"),
        (
            "plugins:",
            "m.yaml:1: $.plugins: must be a mapping from plugin name to options, not nothing (null): give it a value or remove it",
        ),
        (
            "plugins: [a]",
            "m.yaml:1: $.plugins: must be a mapping from plugin name to options, not a sequence: write `<name>: {}`",
        ),
        ("- 1", "m.yaml:1: $: must be a mapping with string keys, not a sequence"),
        ("mesh: {}\n---\nagent: {}", "m.yaml:3: a second document starts here: a configuration is one document"),
        ("mesh: {}}", "m.yaml:1: not valid yaml: "),
    ],
)
def test_a_mistake_is_named_with_its_cure(text: str, problem: str) -> None:
    (found,) = problems(text)
    assert found.startswith(problem)


def test_a_file_that_cannot_be_read_is_an_error_chained_to_its_cause(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"absent.yaml: cannot be read: No such file or directory$") as caught:
        load_config(tmp_path / "absent.yaml")
    assert isinstance(caught.value.__cause__, FileNotFoundError)
    (tmp_path / "latin.yaml").write_bytes(b"mesh: \xe4")
    with pytest.raises(ConfigError, match=r"latin.yaml: is not utf-8 text: save it as utf-8$"):
        load_config(tmp_path / "latin.yaml")


@pytest.mark.parametrize("text", ["{}", FULL])
def test_the_effective_configuration_is_printable_and_reads_back_equal(text: str) -> None:
    config = parse_config(text, "m.yaml")
    printed = config_to_yaml(config)
    assert parse_config(printed, "printed.yaml") == config
    assert "endpoint_timeout: " in printed


def test_the_printed_configuration_spells_out_every_default() -> None:
    data = config_to_data(Config())
    assert data["agent"]["handshake_timeout"] == "5s"
    assert list(data["plugins"]) == [plugin.name for plugin in Config().plugins]
    assert list(data) == ["mesh", "agent", "reconciler", "plugins"]


@given(st.text("agent:\n {}[]wmeshplugins5'\"-&*#", max_size=60))
def test_any_text_gives_a_configuration_or_problems(text: str) -> None:
    found: Config | ConfigError
    try:
        found = parse_config(text, "m.yaml")
    except ConfigError as error:
        found = error
    assert isinstance(found, Config) or found.problems


def test_the_guides_example_is_a_configuration() -> None:
    guide = (Path(__file__).parents[2] / "docs" / "how-to" / "configure.md").read_text()
    config = parse_config(guide.split('```yaml title="meshless.yaml"\n')[1].split("```")[0], "guide.yaml")
    assert config.agent.drain_timeout == 60.0
    assert [plugin.name for plugin in config.plugins] == list(DEFAULT_PLUGINS)
