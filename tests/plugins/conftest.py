"""Real distributions for the loader: a folder with a module and its `.dist-info`, on `sys.path` for one test."""

from __future__ import annotations

import importlib.metadata
import itertools
import sys
import textwrap
from collections.abc import Callable, Iterator
from importlib.metadata import EntryPoint
from pathlib import Path

import attrs
import pytest

from meshless_core.hookspecs import ENTRY_POINT_GROUP

PRELUDE = """\
import attrs
from meshless_core import *
from meshless_core.hookspecs import *

@attrs.frozen
class Options:
    level: int = attrs.field(default=1, validator=attrs.validators.ge(0))
    name: str = "x"

class Thing:
    def __init__(self, options, credentials=None):
        self.options, self.credentials = options, credentials
    async def authorize(self, request): ...
    def choose(self, request): ...
    async def connect(self, address, *, source, target): ...
    async def accept(self, connection): ...
    def watch(self): ...
    async def publish(self, topic, payload): ...
    def subscribe(self, topics): ...
    async def topics(self): ...
    def __call__(self): ...

def spec(cls, **more):
    return cls(**({"api": 1, "options": Options, "create": Thing} | more))
"""

AUTHORIZER = """
@hookimpl
def meshless_register_authorizer():
    return spec(AuthorizerSpec)
"""


@attrs.define
class Installed:
    """What is installed for this test. Call it to install a plugin; `registry` tells the loader of all of them."""

    root: Path
    _count: Iterator[int] = attrs.field(factory=itertools.count)
    _folders: list[str] = attrs.field(factory=list)
    _modules: list[str] = attrs.field(factory=list)

    def __call__(
        self,
        name: str,
        body: str = AUTHORIZER,
        *,
        dist: str = "",
        version: str = "1.2",
        value: str = "",
        prelude: str = PRELUDE,
    ) -> None:
        number = next(self._count)
        module = f"meshless_test_{self.root.name.replace('-', '_')}_{number}"
        folder = self.root / f"site{number}"
        info = folder / f"dist_{number}-{version}.dist-info"
        info.mkdir(parents=True)
        (folder / f"{module}.py").write_text(prelude + textwrap.dedent(body))
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {dist or 'dist-' + name}\nVersion: {version}\n")
        (info / "entry_points.txt").write_text(f"[{ENTRY_POINT_GROUP}]\n{name} = {value.format(module=module) or module}\n")
        sys.path.insert(0, str(folder))
        self._folders.append(str(folder))
        self._modules.append(module)

    def registry(self) -> tuple[EntryPoint, ...]:
        found = importlib.metadata.distributions(path=list(self._folders))
        return tuple(entry for dist in found for entry in dist.entry_points if entry.group == ENTRY_POINT_GROUP)

    def remove(self) -> None:
        for folder in self._folders:
            sys.path.remove(folder)
        for module in self._modules:
            sys.modules.pop(module, None)


@pytest.fixture
def install(tmp_path: Path) -> Iterator[Installed]:
    installed = Installed(tmp_path)
    yield installed
    installed.remove()


@pytest.fixture
def hook() -> Callable[..., str]:
    """Source of a hook that returns a spec."""

    def write(kind: str, spec: str, more: str = "") -> str:
        return f"\n@hookimpl\ndef meshless_register_{kind}():\n    return spec({spec}, {more})\n"

    return write
