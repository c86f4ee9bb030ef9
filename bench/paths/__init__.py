"""The ways a byte can take from client to server: one module per program, all behind `Path`."""

from __future__ import annotations

from bench.paths.base import Group, Path, Route, Stage
from bench.paths.direct import DirectPath
from bench.paths.haproxy import HaproxyPath, HaproxyTlsPath
from bench.paths.meshless import MeshlessPath
from bench.paths.nginx import NginxPath
from bench.paths.python_floor import PythonFloorPath
from bench.paths.stunnel import StunnelTlsPath

__all__ = ["ALL_PATHS", "BASELINES", "Group", "Path", "Route", "Stage"]

ALL_PATHS: tuple[Path, ...] = (
    DirectPath("direct-unix", tcp=False),
    DirectPath("direct-tcp", tcp=True),
    HaproxyPath("haproxy", threads=1, splice=False),
    HaproxyPath("haproxy-threads", threads=None, splice=False),
    HaproxyPath("haproxy-splice", threads=1, splice=True),
    NginxPath("nginx"),
    PythonFloorPath("python-floor"),
    MeshlessPath("meshless", nodes=1),
    MeshlessPath("meshless-workers", nodes=1, workers=2, in_quick=False),
    MeshlessPath("meshless-handoff", nodes=1, hand_off=True),
    HaproxyTlsPath("haproxy-tls", threads=1),
    HaproxyTlsPath("haproxy-tls-threads", threads=None),
    StunnelTlsPath("stunnel-tls"),
    MeshlessPath("meshless-tls", nodes=2),
)

BASELINES: dict[Group, str] = {
    Group.DIRECT: "haproxy",
    Group.SAME_NODE: "haproxy",
    Group.HANDED_OVER: "direct-unix",
    Group.CROSS_NODE: "haproxy-tls",
}
"""Whose figures the others are divided by, per group."""
