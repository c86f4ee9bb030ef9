from __future__ import annotations

import pytest

from meshless_core.cli.exit_codes import CommandError, ExitCode, exit_code_of
from meshless_core.errors import (
    BusError,
    ConfigError,
    InvalidNameError,
    MeshlessError,
    PluginError,
    SocketDirectoryError,
    TransportError,
    ValidationError,
)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (MeshlessError("x"), 1),
        (ValidationError([]), 1),
        (ConfigError([]), 1),
        (PluginError([]), 1),
        (InvalidNameError("x"), 2),
        (BusError("x"), 3),
        (SocketDirectoryError("x"), 3),
        (TransportError("x", reason="timeout"), 3),
        (CommandError("x"), 1),
        (CommandError("x", ExitCode.UNREACHABLE), 3),
    ],
)
def test_each_error_has_its_exit_code(error: MeshlessError, code: int) -> None:
    assert exit_code_of(error) == code


def test_an_error_caused_by_an_unreadable_file_is_a_usage_error() -> None:
    error = ConfigError([])
    error.__cause__ = FileNotFoundError()
    assert exit_code_of(error) is ExitCode.USAGE


def test_every_exit_code_says_what_it_means() -> None:
    assert all(code.meaning for code in ExitCode)
