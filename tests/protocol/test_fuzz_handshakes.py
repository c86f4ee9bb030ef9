"""A bounded, repeatable run of the fuzzer over every installed handshake; the long run is a program of its own."""

from __future__ import annotations

import re

import pytest
from meshless_handshake_http import head, requests
from meshless_handshake_v2 import ServerHandshake

from meshless_core import HandshakeRequest, RemoteProtocolError, ServiceId
from tests.protocol import fuzz_handshakes
from tests.protocol.fuzz_handshakes import BrokenPromiseError, installed, main, run


@pytest.mark.slow
def test_no_bytes_break_any_handshake() -> None:
    kinds = run(seed=7, count=15_000)
    for claimed in ("0x01", "0x02", "0x05", "text"):
        for outcome in ("request", "more", "error"):
            assert kinds[f"{claimed} {outcome}"] > 20, f"the inputs are one-sided: {kinds}"


def test_every_installed_handshake_is_fuzzed() -> None:
    assert {1, 2, 5, ord("C"), ord("G")} <= set(installed())


class _Crashing(ServerHandshake):
    def receive_data(self, data: bytes) -> HandshakeRequest | None:
        raise IndexError("a bug")


class _Impatient(ServerHandshake):
    """Judges what is not complete: the verdict depends on how the bytes were split."""

    def receive_data(self, data: bytes) -> HandshakeRequest | None:
        if len(data) < 4:
            raise RemoteProtocolError("too short", code=2)
        return super().receive_data(data)


class _Endless(ServerHandshake):
    def receive_data(self, data: bytes) -> HandshakeRequest | None:
        while True:
            pass


def test_the_fuzzer_finds_a_handshake_that_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fuzz_handshakes, "installed", lambda: {2: _Endless})
    monkeypatch.setattr(fuzz_handshakes, "_HANG_SECONDS", 0.2)
    with pytest.raises(BrokenPromiseError, match=r"input [0-9a-f]+ \(seed 3, number 0\): .*no verdict"):
        fuzz_handshakes._batch((3, 10))


class _Generous(ServerHandshake):
    def receive_data(self, data: bytes) -> HandshakeRequest | None:
        return HandshakeRequest(ServiceId("tls", "bank", "shop"))


@pytest.mark.parametrize("broken", [_Crashing, _Impatient, _Generous])
def test_the_fuzzer_finds_a_broken_handshake_and_names_the_input(
    broken: type[ServerHandshake], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fuzz_handshakes, "installed", lambda: {2: broken})
    with pytest.raises(BrokenPromiseError, match=r"input [0-9a-f]+ \(seed 3, number \d+\)"):
        run(seed=3, count=2_000)


LOOSENED = {
    "folded lines and bare line feeds": (head, "_AMBIGUOUS_LINES", re.compile(rb"(?!)")),
    "two lengths": (head, "_content_length", lambda _raw: None),
    "trailers": (requests, "check_trailers", lambda _event, _raw: None),
}


@pytest.mark.slow
@pytest.mark.parametrize("what", LOOSENED)
def test_the_fuzzer_finds_what_http_servers_would_read_differently(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(*LOOSENED[what])
    with pytest.raises(BrokenPromiseError, match="let through"):
        run(seed=1, count=60_000)


@pytest.mark.slow
def test_the_program_says_how_many_inputs_held(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--count", "300", "--jobs", "1"]) == 0
    assert "everything held" in capsys.readouterr().out
