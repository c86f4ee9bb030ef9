from __future__ import annotations

import subprocess
import sys

import meshless_sdk
import pytest


def test_importing_the_package_needs_neither_asyncio_nor_anything_outside_the_standard_library() -> None:
    code = (
        "import sys; before = set(sys.modules); import meshless_sdk; "
        "new = {name.split('.')[0] for name in set(sys.modules) - before}; "
        "print(*sorted(new - sys.stdlib_module_names)); "
        "print(*sorted(new & {'asyncio', 'ssl', 'random', 'hashlib', 'logging', 'typing', 'threading'}))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.splitlines() == ["meshless_sdk", ""]


def test_importing_the_package_takes_less_than_30_milliseconds_of_a_processor() -> None:
    code = "import time; began = time.process_time(); import meshless_sdk; print((time.process_time() - began) * 1000)"
    taken: list[float] = []
    for _ in range(20):  # a busy machine is not a finding: once is enough
        taken.append(float(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout))
        if taken[-1] < 30:
            return
    raise AssertionError(f"best of {len(taken)}: {min(taken):.1f} ms")


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'meshless_sdk' has no attribute 'nonsense'"):
        meshless_sdk.nonsense  # noqa: B018 - the access is what is tested


def test_every_public_name_is_there() -> None:
    for name in meshless_sdk.__all__:
        assert getattr(meshless_sdk, name) is not None
