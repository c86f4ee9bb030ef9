"""Follows the recipes page: writes its files, runs its commands in the pods it names, and compares what they print.

A block belongs to a pod if its title says so: `pod web` or `pod web: a-file`. Commands of a block whose title ends in `stays
running` are run like the others, except for the last, which goes on in the background once it printed what the page shows, or
serves, if the page shows nothing. `/meshlet` becomes the pod's folder, and the ports on the page become free ones, since tests
run beside each other; nothing else is changed.
"""

from __future__ import annotations

import contextlib
import doctest
import os
import re
import shlex
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import attrs

from tests.interop.programs import ROOT, search_path
from tests.mesh.running_mesh import RunningMesh, until

PAGE: Final = ROOT / "docs" / "how-to" / "recipes.md"
LONGEST: Final = 40.0
"""Seconds for one command."""

CLIENT: Final = "web"
"""The pod of the page that dials."""

_OBJECTS: Final = "recipes.yaml"
_SECTION: Final = re.compile(r"^## (.+)$", re.MULTILINE)
_BLOCK: Final = re.compile(r'^```(\w+) title="([^"]+)"\n(.*?)^```$', re.MULTILINE | re.DOTALL)
_TITLE: Final = re.compile(r"pod (?P<pod>[\w-]+)(: (?P<file>\S+))?(, as (?P<user>\w+))?(?P<stays>, stays running)?")
_PORT: Final = re.compile(r"(?<=127\.0\.0\.1:)\d+")


@attrs.frozen
class Block:
    """A file or commands of one pod.

    Attributes:
        pod: whose it is.
        file: name of the file it is, None for commands.
        user: who runs the commands, if root should not.
        stays: whether the last command goes on.
        text: the file, or commands with what they print.
    """

    pod: str
    file: str | None
    user: str | None
    stays: bool
    text: str

    @property
    def commands(self) -> Iterator[tuple[str, str]]:
        """Each command with the output the page shows."""
        for part in re.split(r"^\$ ", self.text, flags=re.MULTILINE)[1:]:
            command, _, output = part.partition("\n")
            yield command, output


def sections() -> dict[str, list[Block]]:
    """The blocks of each section; what is before the first section is under `""`.

    Raises:
        AssertionError: a block that belongs to no pod.
    """
    parts = ["", *_SECTION.split(PAGE.read_text(encoding="utf-8"))]
    found: dict[str, list[Block]] = {}
    for name, text in zip(parts[::2], parts[1::2], strict=True):
        found[name] = []
        for _, title, body in _BLOCK.findall(text):
            if title == _OBJECTS:
                continue
            match = _TITLE.fullmatch(title)
            assert match, f"{title!r} in the section {name} names no pod"
            found[name].append(Block(match["pod"], match["file"], match["user"], bool(match["stays"]), body))
    return found


def objects() -> str:
    """The mesh of the page."""
    text: str = next(text for _, title, text in _BLOCK.findall(PAGE.read_text(encoding="utf-8")) if title == _OBJECTS)
    return text


def same(shown: str, printed: str) -> bool:
    """Whether the output is what the page shows; `...` on the page stands for anything."""
    return doctest.OutputChecker().check_output(shown, printed, doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)


class Pod:
    """Somebody in a pod who follows the page.

    Args:
        mesh: where the pod is.
        name: the pod on the page.
        real: the pod that plays it.
        folder: working folder; its parent has those of the others.
    """

    def __init__(self, mesh: RunningMesh, name: str, real: str, folder: Path) -> None:
        self.name = name
        self.directory = mesh.pod(real)
        self.folder = folder
        folder.mkdir(mode=0o755)
        self._environment = {
            key: value for key, value in os.environ.items() if not key.startswith(("MESHLESS_", "PYTEST_", "GIT_"))
        }
        self._environment |= {"PATH": search_path(), "MESHLESS_DIR": str(self.directory), "LC_ALL": "C.UTF-8"}
        self._environment |= {"PYTHONUNBUFFERED": "1", "HOME": str(folder), "GIT_CONFIG_NOSYSTEM": "1"}
        self._running: list[subprocess.Popen[bytes]] = []
        self._ports: dict[str, str] = {}

    def follow(self, section: str) -> None:
        """Do what the section says this pod does."""
        blocks = [block for block in sections()[section] if block.pod == self.name]
        assert blocks, f"the page has nothing for pod {self.name} in {section!r}"
        for block in blocks:
            if block.file:
                self._write(block)
                continue
            *first, last = block.commands
            for command, shown in first:
                self._expect(block, command, shown)
            (self._start if block.stays else self._expect)(block, *last)

    def run(self, command: str) -> str:
        """Run a command of the test's own here; what it printed."""
        return self._run(command, None)

    def stop(self) -> None:
        """Stop what stays running, the last first, as Ctrl-C does."""
        while self._running:
            process = self._running.pop()
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, number)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(10)
                    break

    def _adapted(self, text: str) -> str:
        text = re.sub(r"/meshlet\b(?=/)", str(self.directory), text)
        return _PORT.sub(lambda match: self._ports.setdefault(match[0], _free_port()), text)

    def _write(self, block: Block) -> None:
        assert block.file
        target = self.folder / block.file
        target.parent.mkdir(exist_ok=True)
        target.write_text(self._adapted(block.text), encoding="utf-8")

    def _expect(self, block: Block, command: str, shown: str) -> None:
        printed = self._run(self._adapted(command), block.user)
        assert same(self._adapted(shown), printed), f"$ {command}\n{printed}\nbut the page shows:\n{shown}"

    def _run(self, command: str, user: str | None) -> str:
        done = subprocess.run(
            self._arguments(command, user),
            cwd=self.folder,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=LONGEST,
            check=False,
        )
        return done.stdout.decode(errors="replace")

    def _arguments(self, command: str, user: str | None) -> list[str]:
        if user and os.geteuid() == 0:
            subprocess.run(["chown", user, str(self.folder)], check=True)
            return ["setpriv", f"--reuid={user}", f"--regid={user}", "--init-groups", "/bin/sh", "-c", command]
        return ["/bin/sh", "-c", command]

    def _start(self, block: Block, command: str, shown: str) -> None:
        log = self.folder / f"{len(self._running)}-{shlex.split(command)[0]}.log"
        with open(log, "wb") as output:
            process = subprocess.Popen(
                self._arguments(f"exec {self._adapted(command)}", block.user),
                cwd=self.folder,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._running.append(process)
        wanted = f"{self._adapted(shown).rstrip()}..."

        def ready() -> bool:
            printed = log.read_text(encoding="utf-8", errors="replace")
            assert process.poll() is None, f"$ {command}\nended with {process.returncode}:\n{printed}"
            if shown.strip():
                return same(wanted, printed)
            return self.name == CLIENT or self._serves()

        until(ready, lambda: f"$ {command}\n{log.read_text(errors='replace')}\nthe page shows:\n{shown}", seconds=LONGEST)

    def _serves(self) -> bool:
        return any(map(_accepts, (self.directory / "server").iterdir()))


def _accepts(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(path))
        except OSError:
            return False
        return True


def _free_port() -> str:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return str(probe.getsockname()[1])
