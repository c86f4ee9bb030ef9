"""`python -m docs.generate [--check]`: write the reference pages, or say which differ from what the code says."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

from docs.generate.page import GenerationError, Page

REFERENCE = Path(__file__).resolve().parents[1] / "reference"
MODULES = (
    "commands",
    "settings",
    "hooks",
    "values",
    "metrics",
    "access_log",
    "reply_codes",
    "handshake_codes",
    "errors",
    "handshake_states",
    "protocols",
)


def _pages(module_name: str) -> tuple[Page, ...]:
    try:
        module = importlib.import_module(f"docs.generate.{module_name}")
    except ImportError as error:
        raise GenerationError(f"what the page is made from cannot be imported: {error}") from error
    pages: tuple[Page, ...] = module.PAGES if hasattr(module, "PAGES") else (module.PAGE,)
    return pages


def main(arguments: list[str]) -> int:
    """Write or compare every page, report every problem, return the exit status."""
    check = "--check" in arguments
    failed = 0
    for module_name in MODULES:
        try:
            for page in _pages(module_name):
                text = page.render()
                target = REFERENCE / page.filename
                present = target.read_text(encoding="utf-8") if target.exists() else None
                if present == text:
                    continue
                if check:
                    failed += 1
                    print(f"docs/reference/{page.filename} differs from what the code says: run 'make docs' and commit it")
                else:
                    REFERENCE.mkdir(exist_ok=True)
                    target.write_text(text, encoding="utf-8")
                    print(f"wrote docs/reference/{page.filename}")
        except (GenerationError, ImportError) as error:
            failed += 1
            print(f"docs.generate.{module_name}: {error}", file=sys.stderr)
    return 1 if failed else 0


sys.exit(main(sys.argv[1:]))
