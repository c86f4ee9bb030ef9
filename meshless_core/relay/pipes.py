"""Pipes for `splice`, kept and handed out again.

Why a pool: a pipe costs four system calls to make, and the kernel limits how many large ones a user may own. The pool must
never hand out a pipe with bytes in it.
"""

from __future__ import annotations

import fcntl
import logging
import os
from typing import Final

__all__ = ["MAX_PIPES", "PIPE_BYTES", "Pipe", "PipePool"]

PIPE_BYTES: Final = 256 * 1024
"""Size of a pipe in bytes: within 5 % of 1 MiB in speed, a quarter of the memory (ADR-0061)."""

MAX_PIPES: Final = 64
"""Most pipes of one pool, in use and kept: a quarter of what the kernel allows an unprivileged user by default (64 MiB)."""

_log = logging.getLogger(__name__)


class Pipe:
    """A non-blocking pipe of `PIPE_BYTES`.

    Attributes:
        reader: descriptor of the reading end.
        writer: descriptor of the writing end.
        held: bytes in it, as counted by its user.
    """

    __slots__ = ("held", "reader", "writer")

    def __init__(self) -> None:
        """Make one.

        Raises:
            OSError: no descriptors left, or the user's limit of pipe memory is reached.
        """
        self.held = 0
        self.reader, self.writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            fcntl.fcntl(self.writer, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
        except OSError:
            self.close()
            raise

    def close(self) -> None:
        """Close both ends; what is in it is lost."""
        os.close(self.reader)
        os.close(self.writer)


class PipePool:
    """Hands out empty pipes, at most `MAX_PIPES` at a time."""

    def __init__(self, limit: int = MAX_PIPES) -> None:
        """Start without a pipe.

        Args:
            limit: most pipes, in use and kept.
        """
        self._limit = limit
        self._free: list[Pipe] = []
        self._in_use = 0

    @property
    def in_use(self) -> int:
        """Pipes handed out and not given back."""
        return self._in_use

    def take(self) -> Pipe | None:
        """An empty pipe; None if there is none to be had, in which case the caller copies instead."""
        if self._free:
            pipe = self._free.pop()
        elif self._in_use >= self._limit:
            return None
        else:
            try:
                pipe = Pipe()
            except OSError as error:
                _log.info("no pipe for splice, copying instead: %s", error)
                return None
        self._in_use += 1
        return pipe

    def give_back(self, pipe: Pipe) -> None:
        """Keep an empty pipe for the next one; close one that still holds bytes."""
        self._in_use -= 1
        if pipe.held:
            pipe.close()
        else:
            self._free.append(pipe)

    def close(self) -> None:
        """Close the pipes that are not in use."""
        while self._free:
            self._free.pop().close()
