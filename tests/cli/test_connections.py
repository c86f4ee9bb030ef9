from __future__ import annotations

import io
import json
import os
import pty
import signal
import subprocess
import sys
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from meshless_core.cli.connections import _duration, _short_id, _size, merge_reports
from meshless_core.cli.main import main

ID = "a3b627ee790604f52fd9"


def report(number: int = 1, **changed: Any) -> dict[str, Any]:
    return {
        "id": f"{ID}{number:012x}",
        "reporter": "source",
        "transport": "tunnel",
        "source": "shop/web",
        "source_pod": "shop/web-0",
        "service": "http.cart.shop",
        "version": "v1",
        "pod": "shop/cart-0",
        "node": "node-b",
        "peer": "127.0.0.1:4000",
        "policy": "policy_declared",
        "opened_at": 1.0,
        "age_seconds": 61.0,
        "idle_seconds": 0.5,
        "bytes_to_service": 2048,
        "bytes_to_client": 5,
        **changed,
    }


def connections(admin: Any, *arguments: str) -> tuple[int, str, str]:
    done = CliRunner().invoke(main, ["connections", *arguments, "--run-dir", str(admin.run)])
    return done.exit_code, done.stdout, done.stderr


@pytest.fixture
def two_nodes(admin: Any) -> Any:
    """One connection between the nodes, one within node-b; the first one's far end is reported first."""
    admin.serve(
        "node-a",
        {"/connections": [report(reporter="destination", source_pod=None), report(2, service="sql.db.shop", version=None)]},
    )
    admin.serve(
        "node-b", {"/connections": [report(), report(3, reporter="both", source="shop/other", source_pod="shop/other-0")]}
    )
    return admin


def test_a_connection_that_both_agents_report_is_one_row_as_its_client_sees_it(two_nodes: Any) -> None:
    code, out, err = connections(two_nodes, "--output", "json")
    rows = json.loads(out)
    assert (code, err) == (0, "")
    assert [(row["id"][-1], row["reporter"], row["source_pod"]) for row in rows] == [
        ("3", "both", "shop/other-0"),
        ("1", "source", "shop/web-0"),
        ("2", "source", "shop/web-0"),
    ]


def test_the_far_end_alone_is_shown_too() -> None:
    (row,) = merge_reports([report(reporter="destination")])
    assert row["reporter"] == "destination"
    assert merge_reports([report(), report(reporter="destination")]) == [report()]


def test_all_shows_both_reports(two_nodes: Any) -> None:
    _, out, _ = connections(two_nodes, "--all")
    assert out.splitlines()[0].split()[0] == "REPORTER"
    assert len(out.splitlines()) == 1 + 4


def test_the_table_is_for_people_and_goes_without_totals_into_a_pipe(two_nodes: Any) -> None:
    _, out, _ = connections(two_nodes, "--service", "sql.db.shop")
    header, row = out.splitlines()
    assert header.split("  ")[0] == "ID"
    assert row.split() == [
        "a3b627~2",
        "shop/web-0",
        "sql.db.shop",
        "-",
        "shop/cart-0",
        "tunnel",
        "node-b",
        "1m01s",
        "2.0",
        "KiB",
        "5",
        "B",
        "0.5s",
    ]


def test_of_a_handed_over_connection_no_bytes_are_shown_since_nobody_counts_them(admin: Any) -> None:
    handed_over = report(transport="handoff", reporter="both", bytes_to_service=0, bytes_to_client=0, revoked=False)
    admin.serve("node-a", {"/connections": [handed_over]})
    _, out, _ = connections(admin)
    assert out.splitlines()[1].split()[5:] == ["handoff", "node-b", "1m01s", "-", "-", "-"]


@pytest.mark.parametrize(
    ("options", "count"),
    [
        (("--service", "http.cart.shop"), 2),
        (("--service", "*.shop"), 3),
        (("--service", "http"), 0),
        (("--client", "shop/web"), 2),
        (("--client", "shop/web-?"), 2),
        (("--client", "shop/other-0", "--service", "http*"), 1),
    ],
)
def test_filters_name_one_thing_or_a_pattern(two_nodes: Any, options: tuple[str, ...], count: int) -> None:
    code, out, _ = connections(two_nodes, *options, "--output", "yaml")
    assert (code, len(yaml.safe_load(out))) == (0, count)


def test_a_silent_agent_is_a_warning_and_all_silent_is_3(admin: Any) -> None:
    admin.silent("node-b")
    assert connections(admin)[0] == 3
    admin.serve("node-a", {"/connections": [report()]})
    code, out, err = connections(admin)
    assert (code, len(out.splitlines())) == (0, 2)
    assert err.startswith("warning: without agent node-b")


def test_watch_in_a_pipe_prints_once(two_nodes: Any) -> None:
    code, out, _ = connections(two_nodes, "--watch")
    assert (code, out.count("IDLE")) == (0, 1)
    assert connections(two_nodes, "--watch", "0.001")[0] == 2


def test_watch_on_a_terminal_refreshes_until_ctrl_c(two_nodes: Any) -> None:
    near, far = pty.openpty()
    command = [sys.executable, "-m", "meshless_core.cli", "connections", "--watch", "0.1", "--run-dir", str(two_nodes.run)]
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "200", "LINES": "30"}
    process = subprocess.Popen(command, stdin=far, stdout=far, stderr=subprocess.PIPE, env=environment, start_new_session=True)
    os.close(far)
    try:
        with io.FileIO(near) as terminal:
            shown = b""
            while shown.count(b"3 connections to 2 services, 6.0 KiB to services, 15 B to clients") < 3:
                shown += terminal.read(65536)
            process.send_signal(signal.SIGINT)
            while True:  # a closed terminal ends a read with EIO; what is not read would keep the command from ending
                try:
                    terminal.read(65536)
                except OSError:
                    break
        assert process.wait(20) == 0
        assert b"http.cart.shop" in shown
    finally:
        process.kill()
        process.communicate()


def test_text_from_a_peer_cannot_move_the_cursor(admin: Any) -> None:
    admin.serve("node-a", {"/connections": [report(source_pod="shop/\x1b[2Jweb")]})
    assert "\x1b" not in connections(admin)[1]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.04, "0.0s"),
        (59.94, "59.9s"),
        (60, "1m00s"),
        (3599, "59m59s"),
        (3600, "1h00m"),
        (172_799, "47h59m"),
        (172_800, "2d00h"),
    ],
)
def test_ages_have_two_units(seconds: float, text: str) -> None:
    assert _duration(seconds) == text


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (200 * 1024, "200 KiB"), (1024**2, "1.0 MiB"), (3 * 1024**4, "3.0 TiB")],
)
def test_sizes_are_binary(count: int, text: str) -> None:
    assert _size(count) == text


def test_short_ids_tell_agents_and_their_connections_apart() -> None:
    assert _short_id(f"{ID}{0xABC:012x}") == "a3b627~abc"
