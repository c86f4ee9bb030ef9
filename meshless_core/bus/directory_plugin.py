"""Registers the directory bus under the name `bus_directory`."""

from __future__ import annotations

import attrs

from meshless_core.bus.directory import DirectoryBus
from meshless_core.hookspecs import BusSpec, hookimpl

__all__ = ["Options", "meshless_register_bus"]


@attrs.frozen
class Options:
    """Options of `bus_directory`."""

    path: str = attrs.field(
        default="meshless-run/bus",
        metadata={
            "doc": "folder of the documents; relative to where the process starts. The reconciler writes it, agents only read "
            "it: own it by the reconciler's user, mode 0755. `meshless dev` sets it inside its run directory"
        },
    )
    fsync: bool = attrs.field(
        default=False,
        metadata={
            "doc": "force each document to the disk before it replaces the old one. Off: a document torn by a power cut fails "
            "its digest, agents keep the last good one and the reconciler writes it again"
        },
    )
    rescan: float = attrs.field(
        default=5.0,
        validator=attrs.validators.ge(0.1),
        metadata={
            "doc": "seconds between two looks at the files that need no change notice (at least 0.1): finds what a network "
            "file system did not announce. Changes on a local file system are seen in milliseconds without it"
        },
    )


def _create(options: Options) -> DirectoryBus:
    return DirectoryBus(options.path, fsync=options.fsync, rescan=options.rescan)


@hookimpl
def meshless_register_bus() -> BusSpec:
    """Register the directory bus."""
    return BusSpec(api=1, options=Options, create=_create)
