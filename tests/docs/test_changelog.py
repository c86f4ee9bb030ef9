"""The fragments of the changelog: what CONTRIBUTING says shows the result does."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_a_draft_of_the_changelog_has_every_fragment() -> None:
    command = [str(Path(sys.executable).parent / "towncrier"), "build", "--draft"]
    draft = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    text = " ".join(draft.split())
    for fragment in ROOT.glob("changelog.d/*.md"):
        if fragment.name != "README.md":
            words = " ".join(fragment.read_text(encoding="utf-8").split())
            assert words in text, f"{fragment.name} is not in the draft"
