from __future__ import annotations

import subprocess
import sys


def test_importing_the_package_needs_neither_asyncio_nor_anything_outside_the_standard_library() -> None:
    code = (
        "import sys; before = set(sys.modules); import meshless_sdk; "
        "new = {name.split('.')[0] for name in set(sys.modules) - before}; "
        "print(*sorted(new - sys.stdlib_module_names)); "
        "print(*sorted(new & {'asyncio', 'ssl', 'random', 'hashlib', 'logging', 'typing', 'threading'}))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.splitlines() == ["meshless_sdk", ""]
