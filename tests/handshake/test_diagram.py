from __future__ import annotations

import re

import pytest

from meshless_core.handshake.diagram import states_page, transition_table, transitions_as_mermaid
from meshless_core.handshake.states import CLIENT, REJECTIONS, SERVER, State


@pytest.mark.parametrize("table", [SERVER, CLIENT], ids=["server", "client"])
def test_the_drawing_has_every_step_of_the_table_and_no_other(table: dict) -> None:  # type: ignore[type-arg]  # either table
    drawn = {
        (source, label, target)
        for source, target, labels in re.findall(r"^    (\w+) --> (\w+): (.+)$", transitions_as_mermaid(table), re.MULTILINE)
        for label in labels.split(", ")
    }
    assert drawn == {(s.name, step.value, to.name) for s, steps in table.items() for step, to in steps.items()}


def test_the_drawing_starts_and_ends_where_the_table_does() -> None:
    lines = transitions_as_mermaid(SERVER).splitlines()
    assert lines[:2] == ["stateDiagram-v2", "    [*] --> AWAITING_VERSION"]
    assert [line for line in lines if line.endswith("--> [*]")] == ["    ESTABLISHED --> [*]"]


def test_the_table_names_the_code_that_answers_a_mistake() -> None:
    rows = transition_table(SERVER).splitlines()
    for state, steps in SERVER.items():
        for step, following in steps.items():
            code = f"`{REJECTIONS[step].name}`" if following is State.REJECTED else ""
            assert f"| `{state.name}` | {step.value} | `{following.name}` | {code} |" in rows


def test_the_page_holds_both_sides() -> None:
    page = states_page()
    assert page.startswith("# States of the client handshake\n")
    assert transition_table(SERVER) in page
    assert transition_table(CLIENT) in page
    assert page.endswith("|\n")
