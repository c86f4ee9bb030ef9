from __future__ import annotations

import os

import pytest

from bench.errors import BenchError
from bench.paths import ALL_PATHS
from bench.selection import cpus_apart, select
from bench.works import ALL_WORKS


def test_nothing_named_is_everything() -> None:
    paths, works = select([], quick=False)
    assert paths == list(ALL_PATHS)
    assert works == list(ALL_WORKS)


def test_naming_a_path_brings_its_baseline_and_all_works() -> None:
    paths, works = select(["meshless-tls"], quick=True)
    assert [path.name for path in paths] == ["haproxy-tls", "meshless-tls"]
    assert works == list(ALL_WORKS)


def test_meshless_brings_the_bare_socket_its_latency_is_counted_from() -> None:
    assert [path.name for path in select(["meshless"], quick=True)[0]] == ["direct-unix", "haproxy", "meshless"]


def test_hand_off_brings_what_it_has_to_equal_and_what_it_has_to_beat() -> None:
    names = [path.name for path in select(["meshless-handoff"], quick=True)[0]]
    assert names == ["direct-unix", "direct-tcp", "meshless-handoff"]


def test_naming_a_work_keeps_all_paths() -> None:
    paths, works = select(["bulk"], quick=False)
    assert paths == list(ALL_PATHS)
    assert [work.name for work in works] == ["bulk"]


def test_quick_leaves_out_the_variants_unless_they_are_named() -> None:
    assert "haproxy-splice" not in [path.name for path in select([], quick=True)[0]]
    assert "haproxy-splice" in [path.name for path in select(["haproxy-splice"], quick=True)[0]]


def test_an_unknown_name_is_an_error_that_lists_the_known_ones() -> None:
    with pytest.raises(BenchError, match=r"--only bulky: no such path or work; paths: direct-unix.*works: echo-1"):
        select(["bulky", "bulk"], quick=False)


def test_names_are_unique_across_paths_and_works() -> None:
    names = [thing.name for thing in ALL_PATHS] + [work.name for work in ALL_WORKS]
    assert len(names) == len(set(names))


def test_pinning_splits_the_cpus_without_overlap(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 3, 5})
    assert cpus_apart() == (frozenset({0}), frozenset({3, 5}))


def test_pinning_on_one_cpu_says_to_run_without(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0})
    with pytest.raises(BenchError, match="at least 2 CPUs"):
        cpus_apart()
