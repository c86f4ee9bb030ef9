"""Meshless: a sidecarless L4 service mesh.

The names exported here and in `meshless_core.hookspecs` are public; everything else may change without notice.
"""

from meshless_core.errors import *  # noqa: F403 - the error tree is public as a whole
from meshless_core.hookspecs import *  # noqa: F403 - every extension point is public
from meshless_core.types import *  # noqa: F403 - the vocabulary is public as a whole
