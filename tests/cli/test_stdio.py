from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator

import pytest

from meshless_core.cli.exit_codes import CommandError
from meshless_core.cli.stdio import converse


class Talk:
    """`converse` in a thread, with pipes as its standard streams and a service at the other end."""

    def __init__(self) -> None:
        self.service, self.connection = socket.socketpair()
        self.service.settimeout(10)
        self.source, self.keyboard = os.pipe()
        self.screen, self.sink = os.pipe()
        self.errors: list[BaseException] = []
        self.thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        try:
            with self.connection:
                converse(self.connection, self.source, self.sink)
        except BaseException as error:  # noqa: BLE001 - looked at by the test
            self.errors.append(error)

    def ends(self) -> None:
        self.thread.join(10)
        assert not self.thread.is_alive()


@pytest.fixture
def talk() -> Iterator[Talk]:
    both = Talk()
    both.thread.start()
    yield both
    both.service.close()
    for descriptor in (both.source, both.keyboard, both.screen, both.sink):
        try:
            os.close(descriptor)
        except OSError:
            assert descriptor == both.keyboard or descriptor == both.screen  # the test closed it
    both.ends()


def read_all(descriptor: int) -> bytes:
    parts = []
    while data := os.read(descriptor, 65536):
        parts.append(data)
    return b"".join(parts)


def test_end_of_input_becomes_a_half_close_and_the_answer_still_comes(talk: Talk) -> None:
    os.write(talk.keyboard, b"question")
    os.close(talk.keyboard)
    assert talk.service.makefile("rb").read() == b"question"
    talk.service.sendall(b"answer")
    talk.service.shutdown(socket.SHUT_WR)
    assert read_all(talk.screen) == b"answer"
    talk.ends()
    assert talk.errors == []


def test_a_half_close_of_the_service_ends_the_output_and_input_goes_on(talk: Talk) -> None:
    talk.service.sendall(b"that is all")
    talk.service.shutdown(socket.SHUT_WR)
    assert read_all(talk.screen) == b"that is all"
    os.write(talk.keyboard, b"but I am not done")
    assert talk.service.recv(100) == b"but I am not done"
    os.close(talk.keyboard)
    assert talk.service.recv(100) == b""
    talk.ends()
    assert talk.errors == []


def test_a_service_that_is_gone_ends_it_though_input_is_still_open(talk: Talk) -> None:
    talk.service.sendall(b"bye")
    talk.service.close()
    assert read_all(talk.screen) == b"bye"
    talk.ends()
    assert talk.errors == []


def test_a_reset_is_told(talk: Talk) -> None:
    os.write(talk.keyboard, b"unread by the service")
    assert talk.service.recv(1, socket.MSG_PEEK) == b"u"
    talk.service.close()
    talk.ends()
    (error,) = talk.errors
    assert isinstance(error, CommandError)
    assert str(error) == "the connection broke: Connection reset by peer"


def test_output_that_nobody_reads_ends_it(talk: Talk) -> None:
    os.close(talk.screen)
    talk.service.sendall(b"hello?")
    talk.ends()
    (error,) = talk.errors
    assert isinstance(error, BrokenPipeError)


def test_neither_direction_holds_up_the_other(talk: Talk) -> None:
    flood = bytes(4 * 2**20)
    feeding = threading.Thread(target=lambda: talk.service.sendall(flood))
    feeding.start()  # and nobody reads the screen yet
    os.write(talk.keyboard, b"still heard")
    assert talk.service.recv(100) == b"still heard"
    heard = 0
    while heard < len(flood):
        heard += len(os.read(talk.screen, 2**20))
    feeding.join()
    os.close(talk.keyboard)
    talk.service.shutdown(socket.SHUT_WR)
    assert read_all(talk.screen) == b""
    talk.ends()
    assert talk.errors == []


def test_bulk_in_both_directions_arrives_whole(talk: Talk) -> None:
    there, back = os.urandom(3 * 2**20), os.urandom(3 * 2**20)

    def type_it() -> None:
        with os.fdopen(os.dup(talk.keyboard), "wb") as keyboard:
            keyboard.write(there)
        os.close(talk.keyboard)

    def serve() -> None:
        talk.service.sendall(back)
        talk.service.shutdown(socket.SHUT_WR)

    typing, serving = threading.Thread(target=type_it), threading.Thread(target=serve)
    reading = threading.Thread(target=lambda: shown.append(read_all(talk.screen)))
    shown: list[bytes] = []
    for thread in (typing, serving, reading):
        thread.start()
    assert talk.service.makefile("rb").read() == there
    for thread in (typing, serving, reading):
        thread.join()
    assert shown == [back]
    talk.ends()
    assert talk.errors == []
