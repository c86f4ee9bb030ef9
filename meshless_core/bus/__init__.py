"""Buses carry documents from the reconciler to the agents: `InProcessBus` in one process, `DirectoryBus` on one machine."""

from meshless_core.bus.directory import DirectoryBus
from meshless_core.bus.in_process import InProcessBus

__all__ = ["DirectoryBus", "InProcessBus"]
