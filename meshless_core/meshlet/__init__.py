"""The Meshlet resource: YAML with lines, strict validation that reports everything at once, Go durations.

Pure functions from text and plain data to frozen values. This package must not do I/O, log, or read a clock.
"""

from meshless_core.meshlet.duration import format_duration, parse_duration
from meshless_core.meshlet.model import API_VERSIONS, CanaryWeight, ClientUse, Meshlet, Service
from meshless_core.meshlet.objects import LoadedObject, load_objects, scan_objects
from meshless_core.meshlet.schema import parse_meshlet
from meshless_core.meshlet.workloads import MESHLET_LABEL, VERSION_LABEL, WORKLOAD_API_VERSIONS, check_workload
from meshless_core.meshlet.yaml_source import Marks

__all__ = [
    "API_VERSIONS",
    "MESHLET_LABEL",
    "VERSION_LABEL",
    "WORKLOAD_API_VERSIONS",
    "CanaryWeight",
    "ClientUse",
    "LoadedObject",
    "Marks",
    "Meshlet",
    "Service",
    "check_workload",
    "format_duration",
    "load_objects",
    "parse_duration",
    "parse_meshlet",
    "scan_objects",
]
