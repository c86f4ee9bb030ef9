from __future__ import annotations

import attrs
import pytest

from bench.errors import BenchError, PathUnavailableError
from bench.load_program import Load
from bench.paths import ALL_PATHS, Group, Path, Route, Stage
from bench.programs import HAPROXY, NGINX, STUNNEL
from bench.results import Results
from bench.runner import Plan, Reporter, run
from bench.works import ALL_WORKS

PATHS = {path.name: path for path in ALL_PATHS}


def measured(load: Load, *paths: Path) -> tuple[Results, list[str]]:
    results, steps = Results({}, {}), list[str]()
    plan = Plan(paths, ALL_WORKS, rounds=2, seconds=0.05, warmup_seconds=0.05, idle_connections=20, install=False)
    run(plan, load, results, Reporter(lambda _: None, steps.append))
    return results, steps


@attrs.frozen
class MissingPath:
    name: str = "missing"
    group: Group = Group.SAME_NODE
    describes: str = "nothing"
    in_quick: bool = True

    def start(self, stage: Stage) -> Route:
        stage.start_server(f"unix:{stage.folder}/server")
        raise PathUnavailableError("missing is missing: install it")


@attrs.frozen
class NobodyPath(MissingPath):
    def start(self, stage: Stage) -> Route:
        return Route(f"unix:{stage.folder}/nobody", None, (), {})


def test_paths_take_turns_and_every_other_round_goes_backwards(load: Load) -> None:
    results, steps = measured(load, PATHS["direct-unix"], PATHS["direct-tcp"])
    assert results.failures == []
    assert [(one.round, one.work, one.path) for one in results.samples][:4] == [
        (0, "echo-1", "direct-unix"),
        (0, "echo-1", "direct-tcp"),
        (0, "echo-32", "direct-unix"),
        (0, "echo-32", "direct-tcp"),
    ]
    assert [one.path for one in results.samples if one.round == 1][:2] == ["direct-tcp", "direct-unix"]
    assert len(results.samples) == 2 * 2 * len(ALL_WORKS)
    assert all(one.amount > 0 for one in results.samples)
    assert len(steps) == 2 * (3 * len(ALL_WORKS) + 1)


def test_a_path_that_cannot_be_set_up_is_noted_and_the_others_go_on(load: Load) -> None:
    results, _ = measured(load, MissingPath(), PATHS["direct-unix"])
    assert [(one.path, one.work, one.message) for one in results.failures] == [
        ("missing", None, "missing is missing: install it")
    ]
    assert {one.path for one in results.samples} == {"direct-unix"}


def test_a_work_that_fails_in_the_warm_up_is_noted_once_and_left_out(load: Load) -> None:
    results, _ = measured(load, NobodyPath(), PATHS["direct-unix"])
    assert [(one.path, one.work) for one in results.failures] == [("missing", work.name) for work in ALL_WORKS]
    assert {one.path for one in results.samples} == {"direct-unix"}


def test_no_path_at_all_is_an_error_with_the_reasons(load: Load) -> None:
    with pytest.raises(BenchError, match="no path could be set up: missing is missing: install it"):
        measured(load, MissingPath())


PEERS = {"haproxy": HAPROXY, "nginx": NGINX, "haproxy-tls": HAPROXY, "stunnel-tls": STUNNEL}


@pytest.mark.parametrize("name", PEERS)
def test_a_peer_carries_every_work_and_its_cost_is_found(load: Load, name: str) -> None:
    program = PEERS[name]
    if program.find() is None:
        pytest.skip(f"{program.name} is missing: apt-get install {' '.join(program.packages)}")
    results, _ = measured(load, PATHS[name])
    assert results.failures == []
    assert {one.work for one in results.samples} == {work.name for work in ALL_WORKS}
    finding = results.memory_of(name)
    assert finding is not None
    assert min(finding.resident_at_start.values()) > 0
    assert finding.per_connection is not None


@pytest.mark.slow
@pytest.mark.parametrize(("name", "agents"), [("meshless", 1), ("meshless-handoff", 1), ("meshless-tls", 2)])
def test_meshless_carries_every_work_through_real_agents(load: Load, name: str, agents: int) -> None:
    results, _ = measured(load, PATHS[name])
    assert results.failures == []
    assert {one.work for one in results.samples} == {work.name for work in ALL_WORKS}
    finding = results.memory_of(name)
    assert finding is not None
    assert len(finding.resident_at_start) == agents
    assert min(finding.resident_at_start.values()) > 0
