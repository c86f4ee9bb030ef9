"""git clones and pushes over the mesh: with its own protocol, and over ssh."""

from __future__ import annotations

from tests.interop.conftest import Servers
from tests.interop.programs import needs
from tests.interop.recipe import Pod

pytestmark = needs("git")


def test_git_does_what_the_page_says(servers: Servers, web: Pod) -> None:
    code = servers.serve("code", "git")
    web.follow("git")
    assert web.run("git -C cookbook fsck --full --strict") == ""
    pushed = code.run("git -C cookbook.git rev-parse proposal")
    assert pushed == web.run("git -C cookbook rev-parse HEAD")
    assert len(pushed.strip()) == 40
