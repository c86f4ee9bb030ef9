"""Draws the handshake's state tables for the documentation, so that the pictures cannot disagree with the code.

Called by the docs generator and by tests; nothing at run time needs it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from meshless_core.handshake.states import CLIENT, REJECTIONS, SERVER, State, Step

__all__ = ["states_page", "transition_table", "transitions_as_mermaid"]

_INTRODUCTION: Final = """\
Generated from the tables in `meshless_core/handshake/states.py`, which the code runs on. The bytes are described in
`protocol/handshake-v1.md`. A step that a state does not list is a mistake of the calling code, never of the peer."""


def transitions_as_mermaid(table: Mapping[State, Mapping[Step, State]]) -> str:
    """The table as a Mermaid state diagram; the first state of the table is where it starts, states without a step end."""
    names = {state: state.name for state in table}
    lines = ["stateDiagram-v2", f"    [*] --> {names[next(iter(table))]}"]
    for state, steps in table.items():
        # One arrow per pair of states, with all its steps: parallel arrows make the drawing unreadable.
        arrows: dict[State, list[str]] = {}
        for step, following in steps.items():
            arrows.setdefault(following, []).append(step.value)
        lines += [f"    {names[state]} --> {names[following]}: {', '.join(labels)}" for following, labels in arrows.items()]
        if not steps:
            lines.append(f"    {names[state]} --> [*]")
    return "\n".join(lines)


def transition_table(table: Mapping[State, Mapping[Step, State]]) -> str:
    """The table as Markdown: state, step, next state and, where a step is a peer's mistake, the code that answers it."""
    lines = ["| state | step | next state | answered with |", "|---|---|---|---|"]
    for state, steps in table.items():
        for step, following in steps.items():
            code = f"`{REJECTIONS[step].name}`" if following is State.REJECTED else ""
            lines.append(f"| `{state.name}` | {step.value} | `{following.name}` | {code} |")
        if not steps:
            lines.append(f"| `{state.name}` | | | |")
    return "\n".join(lines)


def states_page() -> str:
    """The whole page `docs/reference/handshake-states.md`, ending with a newline."""
    parts = [
        "# States of the client handshake",
        _INTRODUCTION,
        "## The agent's side",
        f"```mermaid\n{transitions_as_mermaid(SERVER)}\n```",
        transition_table(SERVER),
        "`code 0` and `another code` are the reply that the agent sends; all other steps are read from the client.",
        "## The client's side",
        f"```mermaid\n{transitions_as_mermaid(CLIENT)}\n```",
        transition_table(CLIENT),
    ]
    return "\n\n".join(parts) + "\n"
