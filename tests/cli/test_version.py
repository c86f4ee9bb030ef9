from __future__ import annotations

from click.testing import CliRunner

from meshless_core.cli.main import main


def test_the_versions_a_bug_report_needs_are_printed() -> None:
    result = CliRunner().invoke(main, ["version"])
    assert result.exit_code == 0
    assert [line.split()[0] for line in result.stdout.splitlines()] == ["meshless", "plugin", "python", "linux"]
