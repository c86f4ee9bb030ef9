"""The access log on standard output must not be able to stop the agent."""

from __future__ import annotations

import os
import sys
import threading

import pytest

from meshless_core.cli.agent import _AccessLogFile


def test_a_pipe_that_nobody_reads_fails_at_once_and_recovers(monkeypatch: pytest.MonkeyPatch) -> None:
    reading, writing = os.pipe()
    failed: list[OSError] = []

    def write() -> None:
        try:
            log.write("a line of the log\n" * 10_000)
        except OSError as error:
            failed.append(error)

    with os.fdopen(reading, "rb", buffering=0) as reader, os.fdopen(writing, "w") as stdout:
        monkeypatch.setattr(sys, "stdout", stdout)
        log = _AccessLogFile(None)
        writer = threading.Thread(target=write, daemon=True)
        writer.start()
        writer.join(5)
        blocked = writer.is_alive()
        got = b""
        while not got.endswith(b"line of the log\n") or len(got) < 32 * 1024:
            got += reader.read(1 << 16)
        assert not blocked, "the agent would stand still"
        assert [type(error) for error in failed] == [BlockingIOError]
        assert set(got.splitlines()) == {b"a line of the log"}, "whole lines only"
        log.write("again\n")
        assert reader.read(1 << 16).endswith(b"again\n")
