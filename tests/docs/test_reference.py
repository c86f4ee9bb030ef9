"""The reference says what the code does: it is what the code generates, and nothing public is missing from it."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from docs.generate import commands, errors, hooks, metrics, settings, values
from meshless_core import ReplyCode, hookspecs
from meshless_core.agent.access_log_fields import FIELDS, Field
from meshless_core.agent.flags import CLOSED_FLAGS, REFUSED_REASONS
from meshless_core.agent.metric_table import METRICS, MetricInfo

ROOT = Path(__file__).resolve().parents[2]
REFERENCE = ROOT / "docs" / "reference"


def page(name: str) -> str:
    return (REFERENCE / name).read_text(encoding="utf-8")


def test_the_committed_pages_are_what_the_code_generates() -> None:
    result = subprocess.run(
        [sys.executable, "-m", "docs.generate", "--check"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize("hook", hooks.hook_names())
def test_every_hook_has_its_heading_and_exact_signature(hook: str) -> None:
    text = page("hooks.md")
    assert f"\n## {hook}\n" in text
    assert f"\ndef {hook}() -> " in text


def test_every_setting_is_in_the_reference() -> None:
    text = page("settings.md")
    core = [setting for _, found in settings.core_settings().values() for setting in found]
    plugins = [setting for _, _, found in settings.plugin_settings().values() for setting in found]
    assert core
    assert plugins
    missing = [setting.path for setting in core + plugins if f"| `{setting.path}` |" not in text]
    assert not missing


def test_every_command_is_in_the_reference_with_help_and_an_example() -> None:
    text = page("command-line.md")
    found = list(commands.commands())
    assert len(found) > 10
    for name, command, context in found:
        assert f"\n## {name}\n" in text, name
        assert command.get_help(context).strip() in text, name
    assert "\\b" not in text, "a raw docstring shows click's \\b instead of obeying it"
    without = [name for name, command, _ in found if "xample" not in (command.help or "") + (command.epilog or "")]
    assert not without, f"no example in the help of {', '.join(without)}"


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)
def test_every_metric_is_in_the_reference(metric: MetricInfo) -> None:
    line = next(line for line in page("metrics.md").splitlines() if f"`{metrics.exported_name(metric)}`" in line)
    assert f"| {metric.type} |" in line
    assert all(f"`{label}`" in line for label in metric.labels)


@pytest.mark.parametrize("word", [*CLOSED_FLAGS, *(code.name.lower() for code in REFUSED_REASONS)])
def test_every_word_of_flags_is_in_the_reference(word: str) -> None:
    assert f"`{word}` |" in page("metrics.md")


@pytest.mark.parametrize("field", FIELDS, ids=lambda field: field.name)
def test_every_field_of_the_access_log_is_in_the_reference(field: Field) -> None:
    assert f"| `{field.name}` | " in page("access-log.md")


@pytest.mark.parametrize("code", ReplyCode, ids=lambda code: code.name)
def test_every_reply_code_is_in_the_reference(code: ReplyCode) -> None:
    assert f"| {int(code)} | `{code.name}` | " in page("reply-codes.md")


@pytest.mark.parametrize("error", errors.error_classes(), ids=lambda error: error.__name__)
def test_every_error_is_in_the_reference(error: type[BaseException]) -> None:
    assert f"\n## {error.__name__}\n" in page("errors.md")


@pytest.mark.parametrize("name", [name for name in hookspecs.__all__ if isinstance(getattr(hookspecs, name), type)])
def test_every_public_type_of_the_hooks_is_in_the_reference(name: str) -> None:
    assert re.search(rf"^###? {name}$", page("hooks.md"), re.MULTILINE)


@pytest.mark.parametrize("name", values.value_names())
def test_every_value_is_in_the_reference(name: str) -> None:
    assert f"\n## {name}\n" in page("values.md")
