"""A browser shows a page of the mesh, with what its script fetched from there."""

from __future__ import annotations

import pytest

from tests.interop.conftest import Servers
from tests.interop.programs import needs
from tests.interop.recipe import Pod

pytestmark = [needs("nginx", "chromium"), pytest.mark.timeout(120)]


def test_a_browser_does_what_the_page_says(servers: Servers, web: Pod) -> None:
    servers.serve("pages", "nginx")
    web.follow("A browser")
