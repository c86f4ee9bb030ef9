"""Join a connection with standard input and output, like netcat.

One thread and `poll`: every descriptor is touched only when it is ready, so neither direction can hold up the other, and
nothing is read from standard input that could not be sent. Standard input and output keep their mode: they are shared with the
shell, and making them non-blocking would break other programs.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import socket
import stat
from typing import Final

from meshless_core.cli.exit_codes import CommandError

__all__ = ["converse"]

_BUFFER_BYTES: Final = 64 * 1024
_READABLE: Final = select.POLLIN | select.POLLHUP | select.POLLERR | select.POLLNVAL


def converse(connection: socket.socket, source: int = 0, sink: int = 1, *, end_sink: bool = True) -> None:
    """Copy `source` to the connection and the connection to `sink` until both directions ended.

    End-of-file of `source` becomes a half-close. After the peer's end-of-file, `source` is copied on until it ends or the peer
    is gone altogether.

    Args:
        connection: connected; is made non-blocking and stays open.
        source: descriptor to read.
        sink: descriptor to write.
        end_sink: pass the peer's end-of-file on at once if `sink` is a pipe or socket, by pointing the descriptor elsewhere.

    Raises:
        CommandError: the connection broke; what was on its way is lost.
        BrokenPipeError: nobody reads `sink` any more.
    """
    connection.setblocking(False)
    _Conversation(connection, source, sink, end_sink).run()


class _SinkGone(Exception):  # noqa: N818 - an outcome, never leaves this module
    """Nobody reads the output any more."""


class _Conversation:
    def __init__(self, connection: socket.socket, source: int, sink: int, end_sink: bool) -> None:
        self._connection = connection
        self._source = source
        self._sink = sink
        self._end_sink = end_sink
        mode = os.fstat(sink).st_mode
        self._sink_is_stream = stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)
        # A pipe that polls writable takes this much without blocking; files and terminals are always written whole.
        self._sink_bytes = select.PIPE_BUF if self._sink_is_stream else _BUFFER_BYTES
        self._outgoing = memoryview(b"")
        self._incoming = memoryview(b"")
        self._source_ended = False
        self._peer_ended = False

    def run(self) -> None:
        number = self._connection.fileno()
        while not (self._source_ended and self._peer_ended and not self._outgoing and not self._incoming):
            ready = self._wait(number)
            if self._peer_ended and not self._incoming and ready.get(number, 0) & (select.POLLHUP | select.POLLERR):
                if self._outgoing:
                    raise CommandError("the connection broke: the service closed it before it took all input")
                return
            try:
                self._move(ready, number)
            except _SinkGone as error:
                raise BrokenPipeError(errno.EPIPE, "nobody reads the output any more") from error
            except (ConnectionResetError, BrokenPipeError) as error:
                raise CommandError(f"the connection broke: {error.strerror}") from error

    def _wait(self, number: int) -> dict[int, int]:
        """Poll for exactly what can be done next."""
        poll = select.poll()
        if not self._source_ended and not self._outgoing:
            poll.register(self._source, select.POLLIN)
        if self._incoming:
            poll.register(self._sink, select.POLLOUT)
        wanted = select.POLLOUT if self._outgoing else 0
        if not self._peer_ended and not self._incoming:
            wanted |= select.POLLIN
        if wanted or (self._peer_ended and not self._incoming):
            poll.register(number, wanted)  # 0 still tells when the peer is gone
        return dict(poll.poll())

    def _move(self, ready: dict[int, int], number: int) -> None:
        events = ready.get(number, 0)
        if self._outgoing and events & (select.POLLOUT | select.POLLERR | select.POLLHUP):
            self._send()
        if not self._peer_ended and not self._incoming and events & _READABLE:
            self._receive()
        if self._sink in ready and self._incoming:
            self._write()
        if self._source in ready and not self._outgoing and not self._source_ended:
            self._read()

    def _send(self) -> None:
        try:
            self._outgoing = self._outgoing[self._connection.send(self._outgoing) :]
        except BlockingIOError:
            return
        self._pass_on_end_of_source()

    def _receive(self) -> None:
        try:
            data = self._connection.recv(_BUFFER_BYTES)
        except BlockingIOError:
            return
        self._incoming = memoryview(data)
        if not data:
            self._peer_ended = True
            self._pass_on_end_of_peer()

    def _write(self) -> None:
        try:
            self._incoming = self._incoming[os.write(self._sink, self._incoming[: self._sink_bytes]) :]
        except BlockingIOError:
            return  # somebody else made it non-blocking
        except (BrokenPipeError, ConnectionResetError) as error:
            raise _SinkGone from error

    def _read(self) -> None:
        try:
            data = os.read(self._source, _BUFFER_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""  # closed, or a terminal that is gone: nothing more will come
        self._outgoing = memoryview(data)
        if not data:
            self._source_ended = True
            self._pass_on_end_of_source()

    def _pass_on_end_of_source(self) -> None:
        if self._source_ended and not self._outgoing:
            with contextlib.suppress(OSError):  # the peer is gone: reading will tell
                self._connection.shutdown(socket.SHUT_WR)

    def _pass_on_end_of_peer(self) -> None:
        if self._end_sink and self._sink_is_stream:
            nowhere = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
            os.dup2(nowhere, self._sink)
            os.close(nowhere)
