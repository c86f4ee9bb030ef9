"""The code on the SDK's pages runs: each page from top to bottom, against a scripted agent. Blocks marked `py` only compile."""

from __future__ import annotations

import ast
import inspect
import re
import socket
from pathlib import Path
from typing import Any

import meshless_sdk
import pytest
from meshless_sdk.testing import FakeAgent

PAGES = Path(__file__).parents[3] / "docs" / "how-to"
BLOCK = re.compile(r"^```(python|py)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
RUN = "python"  # what does not end by itself, or needs a mesh, is marked py: the same to a reader


def server(connection: socket.socket) -> None:
    while data := connection.recv(65536):
        if data.startswith(b"GET "):
            data = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"
        connection.sendall(data)


@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("page", ["use-the-python-sdk", "serve-http", "test-your-application"])
async def test_the_code_of_a_page_runs(page: str, capsys: pytest.CaptureFixture[str]) -> None:
    blocks = BLOCK.findall((PAGES / f"{page}.md").read_text("utf-8"))
    assert any(kind == RUN for kind, _ in blocks)
    names: dict[str, Any] = {"meshless_sdk": meshless_sdk, "__name__": page}
    with FakeAgent(hand_over=True) as agent:
        agent.serve("http.cart.shop", server, version="v1")
        agent.refuse("admin.cart.shop", "ACCESS_DENIED")
        for kind, text in blocks:
            code = compile(text, page, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True)
            if kind == RUN:
                waiting = eval(code, names)  # how a module's code is run when it may await
                if inspect.isawaitable(waiting):
                    await waiting
    printed = capsys.readouterr().out
    if page == "use-the-python-sdk":
        assert "b'ping'" in printed
        assert "True test/fake-0 v1" in printed
        assert "ACCESS_DENIED" in printed
    if page == "serve-http":
        assert printed.count("hello") == 5
        assert "AccessDenied admin.cart.shop: ACCESS_DENIED (4)" in printed
