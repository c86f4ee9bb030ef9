"""ssh, scp and git over ssh through `meshless connect`, as the page says."""

from __future__ import annotations

import os

from tests.interop.conftest import Servers
from tests.interop.programs import needs
from tests.interop.recipe import Pod

pytestmark = needs("ssh", "scp", "ssh-keygen", "sshd", "git")


def test_ssh_does_what_the_page_says(servers: Servers, web: Pod) -> None:
    if os.geteuid() == 0:
        os.makedirs("/run/sshd", mode=0o755, exist_ok=True)
    servers.serve("code", "git")
    servers.serve("build", "ssh")
    web.follow("ssh")
    assert web.run("ssh -F ssh_config ssh.build.shop 'exit 7'; echo $?") == "7\n"
