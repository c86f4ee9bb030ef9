from __future__ import annotations

import pickle

import pytest

from meshless_core.handshake.states import CLIENT, REJECTIONS, SERVER, State, Step

TABLES = {"server": SERVER, "client": CLIENT}


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
    assert [state for state, steps in SERVER.items() if Step.CODE_OK in steps] == [State.REQUESTED]


def test_states_and_steps_survive_pickling_as_keys() -> None:
    for member in [*State, *Step]:
        assert {member: 1}[pickle.loads(pickle.dumps(member))] == 1
