"""What a child process says, line by line, to the last byte.

Read by hand rather than through a stream, because a stream ends with the pipe, and a pipe ends with the last process that holds
it, which may be another user's by now: after the child has ended we want what it has written so far, now, and wait for nobody.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
from collections.abc import Callable
from typing import Final

__all__ = ["OutputLines"]

_MAX_LINE: Final = 64 * 1024  # bytes; a longer one is passed on in pieces
_READ_SIZE: Final = 64 * 1024


class OutputLines:
    """The lines that come out of a pipe, passed on as they come.

    Args:
        descriptor: the pipe's read end; stays the caller's, who closes it after `finish`.
        write: takes one line, decoded and without its end.
    """

    def __init__(self, descriptor: int, write: Callable[[str], object]) -> None:
        self._descriptor = descriptor
        self._write = write
        self._begun = b""
        os.set_blocking(descriptor, False)
        asyncio.get_running_loop().add_reader(descriptor, self._read)

    def finish(self) -> None:
        """Pass on what is in the pipe, whoever else holds it open, and read no more."""
        # No more than fits at once: who holds the pipe may go on writing faster than we read.
        left = fcntl.fcntl(self._descriptor, fcntl.F_GETPIPE_SZ)
        while left > 0 and (taken := self._read()) > 0:
            left -= taken
        asyncio.get_running_loop().remove_reader(self._descriptor)
        if self._begun:
            self._pass_on(self._begun)
            self._begun = b""

    def _read(self) -> int:
        try:
            data = os.read(self._descriptor, _READ_SIZE)
        except BlockingIOError:
            return 0
        if not data:
            asyncio.get_running_loop().remove_reader(self._descriptor)  # at its end it would be readable for ever
        *lines, rest = (self._begun + data).split(b"\n")
        for line in lines:
            self._pass_on(line)
        if len(rest) >= _MAX_LINE:
            self._pass_on(rest)
            rest = b""
        self._begun = rest
        return len(data)

    def _pass_on(self, line: bytes) -> None:
        self._write(line.decode(errors="replace").rstrip())
