"""What a command's exit status means. One table, so that scripts can rely on it and the help text shows it."""

from __future__ import annotations

import enum

from meshless_core.errors import (
    BusError,
    InvalidNameError,
    MeshlessError,
    PluginError,
    SocketDirectoryError,
    TransportError,
)

__all__ = ["CommandError", "ExitCode", "exit_code_of"]


class ExitCode(enum.IntEnum):
    """Exit statuses of `meshless`."""

    OK = 0
    NO = 1
    USAGE = 2
    UNREACHABLE = 3
    INTERNAL = 70
    INTERRUPTED = 130

    @property
    def meaning(self) -> str:
        """One line for people."""
        return _MEANINGS[self]


_MEANINGS = {
    ExitCode.OK: "done, or the answer is yes",
    ExitCode.NO: "the answer is no, or the input is invalid",
    ExitCode.USAGE: "wrong usage, or an input that cannot be read",
    ExitCode.UNREACHABLE: "the mesh cannot be reached",
    ExitCode.INTERNAL: "a bug in meshless",
    ExitCode.INTERRUPTED: "interrupted from the keyboard",
}


class CommandError(MeshlessError):
    """A command cannot do what was asked; carries its exit status.

    Attributes:
        exit_code: status to leave with.
    """

    def __init__(self, message: str, exit_code: ExitCode = ExitCode.NO) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def exit_code_of(error: MeshlessError) -> ExitCode:
    """Exit status for an error that reached the top of a command.

    An error caused by a file that cannot be read is `USAGE`, whatever its type: the raiser chains the `OSError`.
    """
    match error:
        case CommandError():
            return error.exit_code
        case BusError() | TransportError() | SocketDirectoryError():
            return ExitCode.UNREACHABLE
        case PluginError():  # whatever the plugin raised
            return ExitCode.NO
        case InvalidNameError():
            return ExitCode.USAGE
        case _ if isinstance(error.__cause__, OSError | UnicodeDecodeError):
            return ExitCode.USAGE
        case _:
            return ExitCode.NO
