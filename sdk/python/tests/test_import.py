from __future__ import annotations

import subprocess
import sys

import meshless_sdk
import pytest


def modules(*statements: str) -> set[str]:
    """What a fresh interpreter has imported after some statements, beyond what it had after those before the last one."""
    *first, last = statements
    code = "; ".join(["import sys", *first, "before = set(sys.modules)", last, "print(*(set(sys.modules) - before))"])
    return set(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split())


def test_importing_the_package_costs_what_a_socket_costs_and_six_small_modules() -> None:
    # So it stays under 30 milliseconds, which no test can promise of a machine it does not know; `make bench` measures it.
    new = modules("import contextlib, socket, struct", "import meshless_sdk")
    own = {"meshless_sdk", *(f"meshless_sdk.{name}" for name in ("dialling", "errors", "paths", "patience", "wire"))}
    assert new - {"__future__"} == own


def test_importing_the_package_needs_neither_asyncio_nor_anything_outside_the_standard_library() -> None:
    new = {name.split(".")[0] for name in modules("import meshless_sdk")}
    assert new - sys.stdlib_module_names == {"meshless_sdk"}
    assert not new & {"asyncio", "hashlib", "logging", "random", "re", "ssl", "threading", "typing"}


def test_a_dialer_and_a_listener_need_neither_asyncio_nor_threads() -> None:
    new = modules("import meshless_sdk", "meshless_sdk.Dialer, meshless_sdk.listen")
    assert "meshless_sdk.dialler" in new
    assert not {name.split(".")[0] for name in new} & {"asyncio", "hashlib", "logging", "random", "ssl", "threading", "typing"}


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'meshless_sdk' has no attribute 'nonsense'"):
        meshless_sdk.nonsense  # noqa: B018 - the access is what is tested


def test_every_public_name_is_there() -> None:
    for name in meshless_sdk.__all__:
        assert getattr(meshless_sdk, name) is not None
