"""What differs from the page is noticed, and no section of the page is left out."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from tests.interop.conftest import Servers
from tests.interop.recipe import CLIENT, Block, Pod, sections
from tests.mesh.running_mesh import until

HERE = Path(__file__).parent


def commands(text: str, *, stays: bool = False) -> Block:
    return Block(CLIENT, None, None, stays, text)


def follow(pod: Pod, block: Block) -> None:
    for command, shown in block.commands:
        (pod._start if block.stays else pod._expect)(block, command, shown)


def test_output_that_is_not_the_page_s_fails(web: Pod) -> None:
    follow(web, commands("$ echo rye bread\nrye ...\n$ true\n"))
    with pytest.raises(AssertionError, match="but the page shows"):
        follow(web, commands("$ echo rye bread\nrye\n"))
    with pytest.raises(AssertionError, match="but the page shows"):
        follow(web, commands("$ echo complaint >&2\n"))


def test_a_server_that_ends_or_says_something_else_fails(web: Pod, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.interop.recipe.LONGEST", 0.3)
    with pytest.raises(AssertionError, match=r"ended with 3"):
        follow(web, commands("$ sh -c 'exit 3'\nready\n", stays=True))
    with pytest.raises(AssertionError, match="no such thing"):
        follow(web, commands("$ sleep 60\nno such thing\n", stays=True))


def test_one_client_shares_the_server_s_node_and_the_other_one_s_bytes_cross_a_tunnel(servers: Servers, web: Pod) -> None:
    servers.serve("chat", "WebSockets")
    web.follow("WebSockets")
    here = web.directory.name == CLIENT
    agent = servers.mesh.agent("node-a" if here else "node-b")

    def lines() -> list[dict[str, Any]]:
        mine = {"event": "closed", "service": "ws.chat.shop", "source_pod": f"shop/{web.directory.name}"}
        return [line for line in agent.access_log() if mine.items() <= line.items()]

    until(lambda: len(lines()) >= 2, lambda: f"two closed connections of {web.directory.name}: {lines()}")
    assert {line["reason"] for line in lines()} == {"closed"}
    assert {line["destination_node"] for line in lines()} == {"node-a"}
    assert {line["transport"] for line in lines()} == ({"local"} if here else {"tunnel"})


def test_every_section_of_the_page_is_followed_by_a_test() -> None:
    followed = set()
    for module in HERE.glob("test_*.py"):
        followed |= set(re.findall(r'(?:follow\(|serve\("\w+", )"([^"]+)"\)', module.read_text(encoding="utf-8")))
    assert followed == {name for name, blocks in sections().items() if blocks}
