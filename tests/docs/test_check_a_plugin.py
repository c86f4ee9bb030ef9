"""The page on checking plugins shows tests; they pass, and no check is missing from it."""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "how-to" / "check-a-plugin.md").read_text("utf-8")
BLOCKS: dict[str, str] = dict(re.findall(r'^```python title="([^"]+)"\n(.*?)^```$', PAGE, re.MULTILINE | re.DOTALL))
CHECKS = {
    f"{path.stem}.{name}"
    for path in (ROOT / "meshless_core" / "testing").glob("*.py")
    for name in re.findall(r"^(?:async )?def (check_\w+)", path.read_text("utf-8"), re.MULTILINE)
    if path.stem not in {"life", "handshake_abilities"}  # parts of the others
}


@pytest.mark.parametrize("title", BLOCKS)
async def test_what_the_page_shows_passes(title: str, tmp_path: Path) -> None:
    names: dict[str, Any] = {"__name__": title.removesuffix(".py")}
    exec(compile(BLOCKS[title], title, "exec", dont_inherit=True), names)
    tests = [thing for name, thing in names.items() if name.startswith("test_")]
    assert tests
    for test in tests:
        wanted = {"tmp_path": tmp_path} if "tmp_path" in inspect.signature(test).parameters else {}
        waiting = test(**wanted)
        if inspect.isawaitable(waiting):
            await waiting


@pytest.mark.parametrize("check", sorted(CHECKS))
def test_every_check_is_on_the_page(check: str) -> None:
    assert re.search(rf"`(await )?{check}`", PAGE)
