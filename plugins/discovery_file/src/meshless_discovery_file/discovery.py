"""Follows files: complete, valid snapshots of what they say, and the last good one while they say nothing sensible.

Level-based: a change notice only says "look". What counts is whether the files differ from what was read last, and whether they
have stopped changing. All or nothing: one file that cannot be read keeps the whole new state out, since an object that seems to
be gone would lose its connections.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
from collections.abc import AsyncGenerator, Sequence
from typing import Final

import attrs

from meshless_core import (
    DiscoveryError,
    DiscoverySnapshot,
    LoadedObject,
    Problem,
    ValidationError,
    is_dns_label,
    load_objects,
)
from meshless_discovery_file.workloads import expand

__all__ = ["FileDiscovery"]

_SUFFIXES: Final = (".yaml", ".yml", ".json")
_MAX_BYTES: Final = 64 * 1024 * 1024  # of all files together
_LOOK_ANYWAY_MS: Final = 1000  # between two looks without a notice: links to elsewhere, network file systems
_DEBOUNCE_MS: Final = 50
_STEP_MS: Final = 20
_MAX_SETTLE_ROUNDS: Final = 50

_log = logging.getLogger(__name__)


@attrs.frozen
class _Seen:
    """The files at one moment: content by path, or why they could not be read."""

    texts: tuple[tuple[str, bytes], ...]
    problems: tuple[Problem, ...]

    @property
    def fingerprint(self) -> bytes:
        """Equal for equal content; what cannot be read is part of it."""
        digest = hashlib.sha256()
        for path, content in self.texts:
            digest.update(f"{len(os.fsencode(path))}:{len(content)}:".encode() + os.fsencode(path) + content)
        digest.update(repr(self.problems).encode())
        return digest.digest()


class FileDiscovery:
    """Meshlets and Pods out of files and folders.

    Args:
        paths: files and folders.
        nodes: names of the nodes pods without `spec.nodeName` are spread over.
        settle: seconds the files have to stay unchanged before they are read.
    """

    def __init__(self, paths: Sequence[str], nodes: Sequence[str], *, settle: float = 0.1) -> None:
        self._paths = tuple(os.path.abspath(path) for path in paths)
        self._names = dict(zip(self._paths, paths, strict=True))
        self._nodes = tuple(nodes)
        self._settle = settle
        self._problems: tuple[Problem, ...] = ()
        self._objects_of: dict[str, int] = {}
        self._warned: set[str] = set()

    @property
    def problems(self) -> tuple[Problem, ...]:
        """Why the files as they are now are not in force; empty if they are."""
        return self._problems

    async def watch(self) -> AsyncGenerator[DiscoverySnapshot, None]:
        """Yield a snapshot, then another after every change; with `problems` while the files are not usable.

        Raises:
            DiscoveryError: the first reading found problems; each names file, line and fix.
        """
        if wrong := [node for node in self._nodes if not is_dns_label(node)]:
            raise DiscoveryError([Problem("$.nodes", f"not a DNS label: {', '.join(wrong)[:256]}", "discovery_file")])
        seen = self._look()
        good = self._snapshot(seen)
        if self._problems:
            raise DiscoveryError(self._problems)
        yield good
        known = seen.fingerprint
        async for _ in self._notices():
            if self._look().fingerprint == known:
                continue
            seen = await self._settled()
            if seen.fingerprint == known:
                continue
            known = seen.fingerprint
            new = self._snapshot(seen)
            if self._problems:
                good = attrs.evolve(good, problems=self._problems)
            else:
                good = new
            yield good

    async def _notices(self) -> AsyncGenerator[None, None]:
        """Something may have changed."""
        from watchfiles import awatch  # late: an agent imports every enabled plugin, and watches no resource file

        try:
            async for _ in awatch(
                *self._watched(),
                watch_filter=None,
                debounce=_DEBOUNCE_MS,
                step=_STEP_MS,
                rust_timeout=_LOOK_ANYWAY_MS,
                yield_on_timeout=True,
                recursive=False,
            ):
                yield
        except OSError as error:
            _log.warning("discovery_file: no change notices (%s), looking every %s ms instead", error, _LOOK_ANYWAY_MS)
        while True:
            await asyncio.sleep(_LOOK_ANYWAY_MS / 1000)
            yield

    def _watched(self) -> list[str]:
        """Folders, not files: an editor, and a mounted ConfigMap, put a new file in the place of the old."""
        folders = set()
        for path in self._paths:
            for way in (path, os.path.realpath(path)):
                folders.add(way if os.path.isdir(way) else os.path.dirname(way))
        return sorted(folder for folder in folders if os.path.isdir(folder))

    async def _settled(self) -> _Seen:
        """The files once they have stopped changing."""
        seen = self._look()
        for _ in range(_MAX_SETTLE_ROUNDS):  # a file that never rests is read all the same
            await asyncio.sleep(self._settle)
            again = self._look()
            if again.fingerprint == seen.fingerprint:
                break
            seen = again
        return seen

    def _look(self) -> _Seen:
        texts: list[tuple[str, bytes]] = []
        problems: list[Problem] = []
        total = 0
        for path in self._files(problems):
            name = self._shown(path)
            try:
                with open(path, "rb") as file:
                    content = file.read(_MAX_BYTES + 1)
            except OSError as error:
                problems.append(Problem("", f"cannot be read: {error.strerror}; check that it is there and may be read", name))
                continue
            total += len(content)
            if total > _MAX_BYTES:
                problems.append(Problem("", f"more than {_MAX_BYTES} bytes in all files: split the mesh", name))
                break
            texts.append((name, content))
        return _Seen(tuple(texts), tuple(problems))

    def _files(self, problems: list[Problem]) -> list[str]:
        found: dict[str, None] = {}
        for path in self._paths:
            if not os.path.isdir(path):
                found[path] = None
                continue
            try:
                names = sorted(os.listdir(path))
            except OSError as error:
                problems.append(Problem("", f"cannot be listed: {error.strerror}", self._names[path]))
                continue
            for name in names:
                # Hidden ones are editors' and a mounted ConfigMap's machinery (`..data`); links to files are followed.
                if name.endswith(_SUFFIXES) and not name.startswith(".") and not os.path.isdir(os.path.join(path, name)):
                    found[os.path.join(path, name)] = None
        return list(found)

    def _shown(self, path: str) -> str:
        """A file's name as the user wrote it."""
        folder, name = os.path.split(path)
        return self._names.get(path) or os.path.join(self._names.get(folder, folder), name)

    def _snapshot(self, seen: _Seen) -> DiscoverySnapshot:
        """What the files say; `self._problems` tells whether it may be used."""
        problems = list(seen.problems)
        loaded: list[LoadedObject] = []
        counts: dict[str, int] = {}
        for name, content in seen.texts:
            try:
                objects = load_objects(content.decode("utf-8"), name)
            except UnicodeDecodeError as error:
                problems.append(Problem("", f"is not UTF-8 at byte {error.start}: save it as UTF-8", name))
                continue
            except ValidationError as error:
                problems += error.problems
                continue
            if not objects and self._objects_of.get(name) and b"kind: List" not in content:
                text = (
                    "is empty, which looks half-written: to remove its objects, delete the file or leave an empty `kind: List`"
                )
                problems.append(Problem("", text, name))
            counts[name] = len(objects)
            loaded += objects
        expansion = expand(loaded, self._nodes)
        problems += expansion.problems
        for kind, origin in expansion.ignored.items():
            if kind not in self._warned:
                self._warned.add(kind)
                _log.warning(
                    "discovery_file: kind %s means nothing to the mesh and is ignored (first at %s)", kind[:64], origin
                )
        self._problems = tuple(problems)  # the reconciler logs them
        if not problems:
            self._objects_of = counts
        return DiscoverySnapshot(expansion.objects, expansion.origin)
