"""`meshless validate`: are these resource files right, and if not, where and why."""

from __future__ import annotations

import collections
import os
import sys
from typing import Any

import attrs
import click

from meshless_core.cli.exit_codes import ExitCode
from meshless_core.cli.options import output_option
from meshless_core.cli.output import emit
from meshless_core.errors import Problem, ValidationError
from meshless_core.meshlet import (
    API_VERSIONS,
    WORKLOAD_API_VERSIONS,
    LoadedObject,
    check_workload,
    parse_meshlet,
    scan_objects,
)
from meshless_core.meshlet.yaml_source import MAX_TEXT_LENGTH

__all__ = ["command"]


@attrs.define
class _Report:
    """What was found in all files."""

    objects: list[dict[str, Any]] = attrs.field(factory=list)
    problems: list[Problem] = attrs.field(factory=list)
    unreadable: list[Problem] = attrs.field(factory=list)
    named: dict[tuple[str, str, str], LoadedObject] = attrs.field(factory=dict)


@click.command()
@click.argument("files", nargs=-1, required=True, metavar="FILE...", type=click.Path(allow_dash=True))
@output_option
def command(files: tuple[str, ...], output: str) -> int:
    """Check resource files and report every problem with its file, line, path and fix.

    Meshlets are checked in full; of Pods, Deployments, StatefulSets and DaemonSets what Meshless reads; other kinds are
    skipped. A FILE of - is standard input. Exit code 0: all valid; 1: something is invalid; 2: a file cannot be read.

    \b
    Examples:
      meshless validate shop.yaml
      kubectl get meshlets -A -o yaml | meshless validate --output json -
    """
    report = _Report()
    for name in files:
        text, source = _read(name, report)
        if text is not None:
            _check_text(text, source, report)
    _print(report, output)
    if report.unreadable:
        return ExitCode.USAGE
    return ExitCode.NO if report.problems else ExitCode.OK


def _read(name: str, report: _Report) -> tuple[str | None, str]:
    """Text of a file, None with the reason noted; never more than the largest text that is read at all."""
    source = "<stdin>" if name == "-" else name
    try:
        if name == "-":
            data = sys.stdin.buffer.read(MAX_TEXT_LENGTH + 1)
        else:
            with open(name, "rb") as file:
                data = file.read(MAX_TEXT_LENGTH + 1)
        return data.decode("utf-8"), source
    except IsADirectoryError:
        report.unreadable.append(
            Problem("", f"is a folder: name its files, for example {os.path.join(name, '*.yaml')}", source)
        )
    except OSError as error:
        report.unreadable.append(Problem("", f"cannot be read: {error.strerror or error}", source))
    except UnicodeDecodeError:
        report.unreadable.append(Problem("", "is not utf-8 text: save it as utf-8", source))
    return None, source


def _check_text(text: str, source: str, report: _Report) -> None:
    objects, problems = scan_objects(text, source)
    report.problems += problems
    if not objects and not problems:
        report.problems.append(Problem("", "holds no object: is it the right file?", source))
    for obj in objects:
        found, checked = _check_object(obj)
        found += _check_unique(obj, report)
        report.problems += found
        metadata = obj.data.get("metadata")
        names = metadata if isinstance(metadata, dict) else {}
        report.objects.append(
            {
                "source": source,
                "line": obj.line,
                "kind": obj.kind or None,
                "namespace": names.get("namespace"),
                "name": names.get("name"),
                "result": "invalid" if found else "valid" if checked else "skipped",
            }
        )


def _check_object(obj: LoadedObject) -> tuple[list[Problem], bool]:
    """Problems of an object, and whether its kind is one that is checked."""
    version = obj.data.get("apiVersion")
    if obj.kind == "Meshlet" or (isinstance(version, str) and version in API_VERSIONS):
        try:
            parse_meshlet(obj.data, obj.source, obj.marks)
        except ValidationError as error:
            return list(error.problems), True
        return [], True
    if obj.kind in WORKLOAD_API_VERSIONS:
        return check_workload(obj.data, obj.source, obj.marks), True
    missing = [key for key in ("apiVersion", "kind") if not isinstance(obj.data.get(key), str)]
    return [Problem("$", f"required field {key!r} is missing or no string", obj.source, obj.line) for key in missing], False


def _check_unique(obj: LoadedObject, report: _Report) -> list[Problem]:
    """An object that was already there, in this or another file."""
    metadata = obj.data.get("metadata")
    name = metadata.get("name") if isinstance(metadata, dict) else None
    if not isinstance(metadata, dict) or not isinstance(name, str) or not obj.kind:
        return []
    namespace = str(metadata.get("namespace", "default"))
    first = report.named.setdefault((obj.kind, namespace, name), obj)
    if first is obj:
        return []
    what = f"{obj.kind} {namespace}/{name} is already at {first.origin}: keep one"
    return [Problem("$.metadata.name", what, obj.source, obj.line_of("metadata", "name"))]


def _print(report: _Report, output: str) -> None:
    wrong = [*report.unreadable, *report.problems]
    if output != "table":
        data = {
            "valid": not wrong,
            "objects": report.objects,
            "problems": [attrs.asdict(problem) for problem in wrong],
        }
        emit(data, [], output)
        return
    for problem in wrong:
        click.echo(str(problem))
    counts = collections.Counter((one["kind"] or "object without kind", one["result"]) for one in report.objects)
    for (kind, result), count in sorted(counts.items()):
        click.echo(f"{count} {kind} {result}")
    click.echo(f"{len(wrong)} problem{'' if len(wrong) == 1 else 's'}" if wrong else "valid")
