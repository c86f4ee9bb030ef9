from __future__ import annotations

import re
from pathlib import Path

import pytest
from meshless_handshake_v2.states import CLIENT, REJECTIONS, SERVER, State, Step

TABLES = {"server": SERVER, "client": CLIENT}
PAGE = Path(__file__).parents[3] / "protocol" / "handshake-v2.md"


@pytest.mark.parametrize("side", TABLES)
def test_every_state_is_reachable_and_every_next_state_is_in_the_table(side: str) -> None:
    table = TABLES[side]
    first = next(iter(table))
    reached, todo = {first}, [first]
    while todo:
        for following in table[todo.pop()].values():
            if following not in reached:
                reached.add(following)
                todo.append(following)
    assert reached == set(table)


def test_every_step_and_state_is_used() -> None:
    assert {step for table in TABLES.values() for steps in table.values() for step in steps} == set(Step)
    assert set(SERVER) | set(CLIENT) == set(State)


def test_every_mistake_of_a_client_has_its_code_and_nothing_else_has() -> None:
    mistakes = {step for steps in SERVER.values() for step, following in steps.items() if following is State.REJECTED}
    assert mistakes == set(REJECTIONS)


def test_only_a_complete_request_can_be_answered_with_ok() -> None:
    yes = {Step.CODE_OK, Step.CODE_OK_DESCRIPTOR}
    assert [state for state, steps in SERVER.items() if yes & steps.keys()] == [State.REQUESTED]


def test_a_refusal_can_be_said_in_every_state_before_ok() -> None:
    after_ok = {State.ESTABLISHED, State.LEASED, State.REVOKED, State.ENDED, State.VIOLATED}
    assert {state for state, steps in SERVER.items() if Step.CODE_REFUSAL not in steps} == after_ok


@pytest.mark.parametrize(("heading", "side"), [("The agent's side", "server"), ("The client's side", "client")])
def test_the_specification_has_a_row_for_every_pair_of_states(heading: str, side: str) -> None:
    section = PAGE.read_text("utf-8").split("### States")[1].split(heading)[1].split("\n\n")[1]
    groups = {
        "any of these three": ["awaiting version", "awaiting length", "awaiting body"],
        "any of these five": [state.value for state in CLIENT if state.value.startswith("awaiting")],
        "any before `OK`": [state.value for state, steps in SERVER.items() if Step.CODE_REFUSAL in steps],
        "leased, revoked": ["leased", "revoked"],
    }
    drawn = set()
    for sources, _, target in re.findall(r"^\| (?!state |---)([^|]+) \| ([^|]+) \| ([^|]+) \|$", section, re.MULTILINE):
        for source in groups.get(sources, [sources]):
            drawn.add((source, re.sub(r" \(.*\)", "", target).replace("unchanged", source)))
    table = TABLES[side]
    written = {(state.value, following.value) for state, steps in table.items() for following in steps.values()}
    assert drawn == written
