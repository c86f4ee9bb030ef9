from __future__ import annotations

import json
import math
import os
import random
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from bench.errors import BenchError, MeasurementError, PathUnavailableError
from bench.load_program import Load, build
from bench.processes import Process, wait_until_accepting
from tests.bench import stand_ins

SECONDS = 0.05
LONGER = 0.5  # for bytes that a proxy in Python passes on


def measured(load: Load, mode: str, to: str, service: str | None, *options: str) -> Mapping[str, Any]:
    """A measurement that saw something: a busy machine needs more time for that."""
    seconds = SECONDS
    while True:
        result = load.run(mode, to, service, seconds, *options)
        amounts = [result[one] for one in ("messages", "opened", "sent", "received") if one in result]
        if any(amounts) or seconds > 10:
            return result
        seconds *= 4


@pytest.mark.parametrize("connections", [1, 7])
@pytest.mark.parametrize("size", [1, 64, 65536])
def test_every_echoed_message_is_counted_once(load: Load, served: str, connections: int, size: int) -> None:
    result = measured(load, "echo", served, None, "--connections", str(connections), "--size", str(size))
    assert result["messages"] == result["latency_ns"]["count"] > 0
    assert result["rate"] == pytest.approx(result["messages"] / result["seconds"], rel=1e-3)
    assert result["connections"] == connections
    assert 0 < result["latency_ns"]["p50"] <= result["latency_ns"]["p99"] <= result["latency_ns"]["max"]


@pytest.mark.parametrize("verify", [(), ("--verify",)])
@pytest.mark.parametrize("connections", [1, 3])
@pytest.mark.parametrize(
    ("direction", "sends", "receives"), [("send", True, False), ("receive", False, True), ("both", True, True)]
)
def test_bulk_counts_agree_at_both_ends(
    load: Load, served: str, direction: str, sends: bool, receives: bool, connections: int, verify: tuple[str, ...]
) -> None:
    result = measured(load, "bulk", served, None, "--direction", direction, "--connections", str(connections), *verify)
    assert (result["sent"] > 0, result["received"] > 0) == (sends, receives)
    assert result["miscounted"] == result["corrupt"] == 0
    assert result["verified"] is bool(verify)
    assert result["rate"] == pytest.approx((result["sent"] + result["received"]) / result["seconds"], rel=1e-3)


def test_new_connections_are_counted_and_none_fails(load: Load, served: str) -> None:
    result = measured(load, "connect", served, None, "--connections", "5")
    assert result["opened"] == result["latency_ns"]["count"] > 0
    assert result["failed"] == 0


def test_idle_connections_are_held_until_closed(load: Load, served: str) -> None:
    with load.hold(served, None, 50) as held:
        assert held.dead == 0
    assert held.dead == 0


def test_idle_connections_that_are_cut_are_counted(load: Load, folder: Path) -> None:
    address = f"unix:{folder}/server"
    with Process("load serve", load.serve_command(address), folder / "log") as server:
        wait_until_accepting(address, server)
        held = load.hold(address, None, 4)
        server.stop()
        held.close()
    assert held.dead == 4


@pytest.mark.parametrize("mode", ["echo", "connect"])
def test_the_handshake_goes_out_byte_exact_before_anything_else(load: Load, folder: Path, mode: str) -> None:
    seen: list[bytes] = []
    service = "http.cart.shop"
    talk = stand_ins.handshake(service, 0, stand_ins.echo, seen)
    with stand_ins.listening(folder / "agent", talk) as address:
        result = measured(load, mode, address, service, "--plain")
    assert result["latency_ns"]["count"] > 0
    assert set(seen) == {b"\x01\x0ehttp.cart.shop"}


HAND_OFF_REQUEST = b"\x02\x00\x12\x0ehttp.cart.shop\x05\x00\x00"


@pytest.mark.parametrize("piece", [1, 5, 4096])
@pytest.mark.parametrize("mode", ["echo", "connect"])
def test_a_socket_that_is_handed_over_is_what_is_measured(load: Load, folder: Path, mode: str, piece: int) -> None:
    seen: list[bytes] = []
    talk = stand_ins.handing_over(HAND_OFF_REQUEST, piece, seen)
    with stand_ins.listening(folder / "agent", talk) as address:
        result = measured(load, mode, address, "http.cart.shop", "--plain", "--hand-off")
    assert result["latency_ns"]["count"] > 0
    assert result.get("failed", 0) == 0
    assert set(seen) == {HAND_OFF_REQUEST}


@pytest.mark.parametrize("mode", ["echo", "bulk", "connect"])
def test_a_relay_where_a_hand_off_is_measured_is_an_error(load: Load, folder: Path, mode: str) -> None:
    talk = stand_ins.relaying(HAND_OFF_REQUEST)
    with (
        stand_ins.listening(folder / "agent", talk) as address,
        pytest.raises(MeasurementError, match="relays instead of handing over"),
    ):
        load.run(mode, address, "http.cart.shop", SECONDS, "--hand-off")


@pytest.mark.parametrize("reply", [b"\x01\x05", b"\x02\x05\x00\x00"], ids=["version-1", "version-2"])
@pytest.mark.parametrize("mode", ["echo", "connect"])
def test_a_refusal_of_either_version_names_the_code(load: Load, folder: Path, mode: str, reply: bytes) -> None:
    talk = stand_ins.relaying(HAND_OFF_REQUEST, reply)
    with (
        stand_ins.listening(folder / "agent", talk) as address,
        pytest.raises(MeasurementError, match=r"code 5 \(NO_ENDPOINT\)"),
    ):
        load.run(mode, address, "http.cart.shop", SECONDS, "--hand-off")


@pytest.mark.parametrize("mode", ["echo", "bulk", "connect"])
def test_a_refused_handshake_names_the_code(load: Load, folder: Path, mode: str) -> None:
    talk = stand_ins.handshake("a.b.c", 5, stand_ins.echo, [])
    with (
        stand_ins.listening(folder / "agent", talk) as address,
        pytest.raises(MeasurementError, match=r"code 5 \(NO_ENDPOINT\)"),
    ):
        load.run(mode, address, "a.b.c", SECONDS)


def test_an_idle_connection_that_cannot_be_opened_is_an_error(load: Load, folder: Path) -> None:
    talk = stand_ins.handshake("a.b.c", 4, stand_ins.echo, [])
    with stand_ins.listening(folder / "agent", talk) as address, pytest.raises(MeasurementError, match="ACCESS_DENIED"):
        load.hold(address, "a.b.c", 3)


def test_verify_finds_one_changed_byte_in_a_bulk_stream(load: Load, folder: Path) -> None:
    address = f"unix:{folder}/server"
    with Process("load serve", load.serve_command(address), folder / "log") as server:
        wait_until_accepting(address, server)
        # behind the role byte and the first frame's header
        with stand_ins.listening(folder / "proxy", stand_ins.flipping(folder / "server", 5000)) as proxy:
            assert load.run("bulk", proxy, None, LONGER)["corrupt"] == 0
            with pytest.raises(MeasurementError, match="1 pieces arrived with other bytes"):
                load.run("bulk", proxy, None, LONGER, "--verify")


def test_an_echo_that_changes_a_byte_is_an_error(load: Load, folder: Path) -> None:
    address = f"unix:{folder}/server"
    with Process("load serve", load.serve_command(address), folder / "log") as server:
        wait_until_accepting(address, server)
        flipping = stand_ins.listening(folder / "proxy", stand_ins.flipping(folder / "server", 500))
        with flipping as proxy, pytest.raises(MeasurementError, match="sent back other bytes"):
            load.run("echo", proxy, None, 20)  # it ends with the first wrong byte


@pytest.mark.parametrize("mode", ["echo", "bulk", "connect"])
def test_nobody_listening_is_an_error_that_names_the_address(load: Load, folder: Path, mode: str) -> None:
    with pytest.raises(MeasurementError, match=f"unix:{folder}/nobody: No such file"):
        load.run(mode, f"unix:{folder}/nobody", None, SECONDS)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "name a mode"),
        (["fly", "--to", "unix:/x"], "unknown mode fly"),
        (["echo"], "--to is missing for echo"),
        (["echo", "--to", "unix:/x", "--size", "0"], "write a number from 1 to 65536"),
        (["echo", "--to", "unix:/x", "--connections", "many"], "write a number"),
        (["bulk", "--to", "unix:/x", "--direction", "up"], "unknown direction up"),
        (["serve"], "serve needs --at"),
        (["serve", "--at", "unix:/x", "--role", "cook"], "unknown role cook"),
        (["echo", "--to", "unix:/x", "more"], "unexpected argument more"),
    ],
)
def test_wrong_usage_exits_with_2_and_says_what_is_wrong(load: Load, arguments: list[str], says: str) -> None:
    done = subprocess.run([load.binary, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert says in done.stderr


@pytest.mark.parametrize(
    "address", ["/tmp/x", "tcp:localhost:1", "tcp:127.0.0.1:0", "tcp:127.0.0.1", "unix:", "unix:/" + "x" * 108]
)
def test_a_malformed_address_is_refused_with_the_form_to_write(load: Load, address: str) -> None:
    done = subprocess.run([load.binary, "echo", "--to", address], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "write unix:/path or tcp:" in done.stderr or "the path must have" in done.stderr


@pytest.mark.parametrize(
    "values",
    [
        [0],
        list(range(1, 1001)),
        [7] * 100 + [123_456_789],
        [round(math.exp(random.Random(4).gauss(11, 2))) for _ in range(3)],
        [round(math.exp(value)) for value in (random.Random(number).gauss(11, 2) for number in range(5000))],
    ],
    ids=["zero", "small", "outlier", "equal", "log-normal"],
)
def test_percentiles_are_within_a_64th_of_the_exact_ones(load: Load, values: list[int]) -> None:
    text = "\n".join(map(str, values))
    done = subprocess.run([load.binary, "histogram"], input=text, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    exact = sorted(values)
    assert found["count"] == len(values)
    assert found["max"] == exact[-1]
    assert found["mean"] == pytest.approx(sum(values) / len(values), abs=0.06)
    for name, share in (("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p999", 0.999)):
        assert found[name] == pytest.approx(exact[max(math.ceil(share * len(exact)), 1) - 1], rel=1 / 64), name


def test_values_beyond_the_table_keep_the_exact_maximum(load: Load) -> None:
    done = subprocess.run([load.binary, "histogram"], input="1 2000000000000000", capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["max"] == json.loads(done.stdout)["p999"] == 2_000_000_000_000_000


def test_the_program_is_compiled_again_only_when_a_source_is_newer(load: Load, tmp_path: Path) -> None:
    binary = tmp_path / "load"
    shutil.copy2(load.binary, binary)
    said: list[str] = []
    build(False, said.append, binary)
    assert said == []
    os.utime(binary, (0, 0))
    build(False, said.append, binary)
    assert said == ["compiling the load generator"]


def test_a_missing_compiler_names_the_packages(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(shutil, "which", lambda *_, **__: None)
    with pytest.raises(PathUnavailableError, match="apt-get install gcc libc6-dev"):
        build(False, lambda _: None, tmp_path / "load")
    assert issubclass(PathUnavailableError, BenchError)
