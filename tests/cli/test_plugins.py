# ruff: noqa: E501 - messages are asserted whole, so that they can be searched for
from __future__ import annotations

import json
from pathlib import Path

from click.testing import CliRunner, Result

from meshless_core.cli.main import main


def plugins(tmp_path: Path, text: str, *more: str) -> Result:
    (tmp_path / "m.yaml").write_text(text)
    return CliRunner().invoke(main, ["plugins", "--config", str(tmp_path / "m.yaml"), *more])


def test_the_active_plugins_are_listed_in_order_with_their_effective_options(tmp_path: Path) -> None:
    result = plugins(tmp_path, "plugins: {bus_directory: {fsync: true}, handshake_v1: {}}", "--role", "none", "-o", "json")
    assert result.exit_code == 0, result.stderr
    bus, handshake = json.loads(result.stdout)
    assert (bus["kind"], bus["name"], bus["distribution"], bus["order"]) == ("bus", "bus_directory", "meshless", 1)
    assert bus["options"]["fsync"] is True
    assert "path" in bus["options"], "defaults are shown too"
    assert (handshake["kind"], handshake["order"], handshake["options"]) == ("handshake", 2, {})


def test_a_table_has_the_promised_columns(tmp_path: Path) -> None:
    result = plugins(tmp_path, "plugins: {handshake_v1: {}}", "--role", "none")
    title, row = result.stdout.splitlines()
    assert title.split() == ["KIND", "NAME", "DISTRIBUTION", "VERSION", "ORDER", "OPTIONS"]
    assert row.split() == ["handshake", "handshake_v1", "meshless", "0.1.0", "1", "-"]


def test_what_a_role_needs_is_checked(tmp_path: Path) -> None:
    result = plugins(tmp_path, "plugins: {handshake_v1: {}}", "--role", "reconciler")
    assert result.exit_code == 1
    assert result.stderr == (
        f"error: {tmp_path / 'm.yaml'}: $.plugins: no discovery plugin is enabled, but this command needs one: add one, for example `discovery_file: {{}}`\n"
        f"error: {tmp_path / 'm.yaml'}: $.plugins: no bus plugin is enabled, but this command needs one: add one, for example `bus_directory: {{}}`\n"
    )


def test_problems_are_told_and_nothing_is_listed(tmp_path: Path) -> None:
    result = plugins(tmp_path, "plugins:\n  handshake_v9: {}\n  bus_directory: {pth: x}\n", "--role", "none")
    assert result.exit_code == 1
    assert result.stdout == ""
    first, second = result.stderr.splitlines()
    assert "m.yaml:2: $.plugins.handshake_v9: no installed distribution provides a plugin 'handshake_v9'" in first
    assert "did you mean 'handshake_v" in first
    assert "m.yaml:3: $.plugins.bus_directory.pth: plugin bus_directory of meshless 0.1.0: unknown setting" in second


def test_installed_plugins_are_listed_without_importing_them() -> None:
    result = CliRunner().invoke(main, ["plugins", "--installed", "--output", "json"])
    assert result.exit_code == 0
    names = {row["name"]: row["module"] for row in json.loads(result.stdout)}
    assert names["handshake_v1"] == "meshless_core.handshake.plugin"


def test_an_unreadable_configuration_is_a_usage_error(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["plugins", "--config", str(tmp_path / "absent.yaml")])
    assert result.exit_code == 2
    assert result.stderr.endswith("absent.yaml: cannot be read: No such file or directory\n")
