"""A light check of the Kubernetes kinds whose pods Meshless serves: Pod, Deployment, StatefulSet, DaemonSet.

Only what Meshless itself reads is checked (names, labels, replicas, the pod template, containers); the rest is Kubernetes'
business and is let through, since its schema grows without us. This module must not expand workloads into pods: discovery does.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from meshless_core.errors import Problem
from meshless_core.meshlet.reading import MAX_INT32, Fields, ProblemLog, describe
from meshless_core.meshlet.schema import read_metadata, read_string_map
from meshless_core.meshlet.yaml_source import Marks
from meshless_core.types import is_dns_label

__all__ = ["MESHLET_LABEL", "VERSION_LABEL", "WORKLOAD_API_VERSIONS", "check_workload"]

MESHLET_LABEL: Final = "meshless/meshlet"
"""Pod label: name of the meshlet the pod belongs to."""

VERSION_LABEL: Final = "version"
"""Pod label: the version the canary strategy knows the pod by."""

WORKLOAD_API_VERSIONS: Final[Mapping[str, str]] = {
    "Pod": "v1",
    "Deployment": "apps/v1",
    "StatefulSet": "apps/v1",
    "DaemonSet": "apps/v1",
}


def check_workload(obj: Mapping[str, Any], source: str = "", lines: Marks | None = None) -> list[Problem]:
    """Every problem of a Pod, Deployment, StatefulSet or DaemonSet that would keep Meshless from serving its pods.

    Args:
        obj: the object, plain JSON values; its `kind` is one of `WORKLOAD_API_VERSIONS`.
        source: file name or other origin, for messages.
        lines: `LoadedObject.marks`, None when there are no lines to tell.
    """
    log = ProblemLog(source, lines)
    top = Fields.of(obj, (), log)
    if top is None:
        return log.problems
    kind = obj["kind"]
    version = (
        top.string("apiVersion") if top.required("apiVersion", f"write apiVersion: {WORKLOAD_API_VERSIONS[kind]}") else None
    )
    if version is not None and version != WORKLOAD_API_VERSIONS[kind]:
        top.problem("apiVersion", f"must be {WORKLOAD_API_VERSIONS[kind]} for a {kind}, not {describe(version)}")
    read_metadata(top)
    spec = top.fields("spec") if top.required("spec") else None
    if kind == "Pod":
        _check_labels(top.fields("metadata") if "metadata" in top else None)
        _check_containers(spec)
    elif spec is not None:
        _check_template(spec)
    return log.in_order()


def _check_template(spec: Fields) -> None:
    spec.integer("replicas", least=0, most=MAX_INT32)
    template = spec.fields("template") if spec.required("template") else None
    if template is None:
        return
    metadata = template.fields("metadata") if template.required("metadata") else None
    labels = read_string_map(metadata, "labels", labels=True) if metadata is not None else None
    _check_labels(metadata)
    _check_containers(template.fields("spec") if template.required("spec") else None)
    selector = spec.fields("selector") if spec.required("selector") else None
    wanted = read_string_map(selector, "matchLabels", labels=True) if selector is not None else None
    for key, value in (wanted or {}).items():
        if labels is not None and selector is not None and labels.get(key) != value:
            found = "has no such label" if key not in labels else f"has {describe(labels[key])}"
            selector.problem("matchLabels", f"selects {key}: {value}, but the pod template {found}: make them equal")


def _check_labels(metadata: Fields | None) -> None:
    labels = metadata.fields("labels") if metadata is not None and "labels" in metadata else None
    if labels is None or MESHLET_LABEL not in labels:
        return
    name = labels.raw(MESHLET_LABEL)  # anything but a string was already noted with the other labels
    if isinstance(name, str) and not is_dns_label(name):
        labels.problem(MESHLET_LABEL, f"{describe(name)} is not the name of a Meshlet: use a DNS label")


def _check_containers(spec: Fields | None) -> None:
    if spec is None:
        return
    if spec.raw("nodeName"):  # an empty one is none, as in Kubernetes
        spec.label("nodeName")
    if not spec.required("containers"):
        return
    for container in spec.items("containers") or ():
        if container.required("name"):
            container.label("name")
        for key in ("command", "args"):
            for index, word in enumerate(container.value(key, (list, tuple), "a sequence of strings") or ()):
                if not isinstance(word, str):
                    container.log.add(
                        (*container.path, key, index), f"must be a string, not {describe(word)}: put it in quotes"
                    )
