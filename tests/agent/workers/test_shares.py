"""What one worker gets of the agent's settings and state folder."""

from __future__ import annotations

from pathlib import Path

import attrs
import pytest

from meshless_core.agent.workers.shares import pods_socket, tidy_state, worker_directory, worker_settings
from meshless_core.config import AgentSettings


def test_bounds_of_the_agent_are_divided_and_rounded_up() -> None:
    settings = attrs.evolve(
        AgentSettings(), workers=3, max_connections=10, max_handshakes_per_pod=3, state_dir="/s", admin="unix:/a"
    )
    one = worker_settings(settings, 2)
    assert (one.max_connections, one.max_handshakes_per_pod) == (4, 1)
    assert one.max_tunnels_unauthenticated == 86
    assert one.state_dir == "/s/worker-2"
    assert one.admin is None, "the supervisor answers at the agent's own address"
    assert one.tunnel_pool_size == settings.tunnel_pool_size


def test_all_other_settings_are_the_agents() -> None:
    settings = attrs.evolve(AgentSettings(), workers=2)
    changed = {
        field.name
        for field in attrs.fields(AgentSettings)
        if getattr(settings, field.name) != getattr(worker_settings(settings, 0), field.name)
    }
    assert changed == {
        "max_connections",
        "max_handshakes_per_pod",
        "max_tunnels_unauthenticated",
        "max_tunnels_idle",
        "state_dir",
    }


def test_a_workers_files_are_in_its_own_folder() -> None:
    assert worker_directory("/s", 1) == Path("/s/worker-1")
    assert pods_socket("/s", 1) == Path("/s/worker-1/socketd.sock")


@pytest.mark.parametrize(
    ("workers", "left"),
    [
        (1, {"leaves", "documents", "worker-x", "other", "worker-link"}),
        (2, {"worker-0", "worker-1", "worker-x", "other", "worker-link"}),
        (9, {"worker-0", "worker-1", "worker-2", "worker-x", "other", "worker-link"}),
    ],
)
def test_keys_of_another_number_of_workers_are_removed_and_nothing_else(tmp_path: Path, workers: int, left: set[str]) -> None:
    state = tmp_path / "state"
    for name in ("leaves", "documents", "worker-0", "worker-1", "worker-2", "worker-x", "other"):
        (state / name / "sub").mkdir(parents=True)
        (state / name / "sub" / "key.pem").write_text("key")
    (tmp_path / "elsewhere").mkdir()
    (state / "worker-link").symlink_to(tmp_path / "elsewhere")
    tidy_state(state, workers)
    assert {entry.name for entry in state.iterdir()} == left
    assert (tmp_path / "elsewhere").is_dir()


def test_a_folder_that_is_not_there_yet_is_fine(tmp_path: Path) -> None:
    tidy_state(tmp_path / "none", 2)
    assert not (tmp_path / "none").exists()
