from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from meshless_core.cli.addresses import Address
from meshless_core.cli.agents import ask_agents, find_agents, require_answers, warn_of_silent
from meshless_core.cli.exit_codes import CommandError, ExitCode


def test_all_nodes_of_a_run_directory_are_found_in_order(admin: Any) -> None:
    for node in ("node-b", "node-a"):
        admin.serve(node, {})
    assert [agent.name for agent in find_agents(str(admin.run), ())] == ["node-a", "node-b"]


def test_admin_addresses_take_the_place_of_the_run_directory(tmp_path: Path) -> None:
    found = find_agents(str(tmp_path / "none"), [Address.parse("tcp:[::1]:9000"), Address.parse("unix:/run/a.sock")])
    assert [agent.admin.address for agent in found] == ["tcp:[::1]:9000", "unix:/run/a.sock"]


@pytest.mark.parametrize(("made", "said"), [(True, "holds no mesh"), (False, "does not exist")])
def test_no_mesh_is_unreachable_and_says_how_to_start_one(tmp_path: Path, made: bool, said: str) -> None:
    folder = tmp_path / "run"
    if made:
        folder.mkdir()
    with pytest.raises(CommandError, match=f"{said}: start one with 'meshless dev") as caught:
        find_agents(str(folder), ())
    assert caught.value.exit_code is ExitCode.UNREACHABLE


async def test_a_silent_agent_is_an_answer_beside_the_others(admin: Any, capsys: pytest.CaptureFixture[str]) -> None:
    admin.serve("node-a", {"/status": {"node": "node-a"}})
    admin.silent("node-b")
    one, other = await ask_agents(find_agents(str(admin.run), ()), "/status")
    assert (one.value, one.error) == ({"node": "node-a"}, None)
    assert "no agent answers" in str(other.error)
    require_answers([one, other])
    warn_of_silent([one, other])
    assert capsys.readouterr().err.startswith("warning: without agent node-b: no agent answers")


async def test_nobody_who_answers_is_unreachable_and_names_each(admin: Any) -> None:
    admin.silent("node-a")
    admin.silent("node-b")
    with pytest.raises(CommandError, match=r"node-a(.|\n)*node-b") as caught:
        require_answers(await ask_agents(find_agents(str(admin.run), ()), "/status"))
    assert caught.value.exit_code is ExitCode.UNREACHABLE
