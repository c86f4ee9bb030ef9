"""Registers file discovery under the name `discovery_file`."""

from __future__ import annotations

import attrs

from meshless_core import DiscoverySpec, hookimpl
from meshless_discovery_file.discovery import FileDiscovery

__all__ = ["Options", "meshless_register_discovery"]


@attrs.frozen
class Options:
    """Options of `discovery_file`."""

    paths: tuple[str, ...] = attrs.field(
        default=("meshless-workloads",),
        validator=attrs.validators.min_len(1),
        metadata={
            "doc": "files and folders with Kubernetes YAML or JSON; relative to where the process starts. Of a folder the "
            "files *.yaml, *.yml and *.json directly in it are read, as `kubectl apply -f` does. `meshless dev FILE` sets it"
        },
    )
    nodes: tuple[str, ...] = attrs.field(
        default=("node-a", "node-b"),
        validator=attrs.validators.min_len(1),
        metadata={"doc": "names of the nodes that pods without `spec.nodeName` are spread over; DNS labels"},
    )
    settle: float = attrs.field(
        default=0.1,
        validator=attrs.validators.ge(0.0),
        metadata={
            "doc": "seconds the files have to stay unchanged before they are read, so that a half-written one is not. "
            "Editors need milliseconds; raise it for slow copies, or write elsewhere and rename"
        },
    )


def _create(options: Options) -> FileDiscovery:
    return FileDiscovery(options.paths, options.nodes, settle=options.settle)


@hookimpl
def meshless_register_discovery() -> DiscoverySpec:
    """Register file discovery."""
    return DiscoverySpec(api=1, options=Options, create=_create)
