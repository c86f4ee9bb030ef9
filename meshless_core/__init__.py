"""Meshless: a sidecarless L4 service mesh.

The names exported here and in `meshless_core.hookspecs`, and the checks in `meshless_core.testing`, are public; everything else
may change without notice.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from meshless_core.errors import *  # noqa: F403 - the error tree is public as a whole
from meshless_core.hookspecs import *  # noqa: F403 - every extension point is public
from meshless_core.types import *  # noqa: F403 - the vocabulary is public as a whole

if TYPE_CHECKING:
    from meshless_core.meshlet import LoadedObject as LoadedObject
    from meshless_core.meshlet import load_objects as load_objects

_LAZY = frozenset({"LoadedObject", "load_objects"})  # they need a YAML parser, which most processes never do


def __getattr__(name: str) -> object:
    if name in _LAZY:
        from meshless_core import meshlet

        return getattr(meshlet, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
