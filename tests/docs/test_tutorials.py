"""The tutorials work: every file of a page is written, every command is run, and says what the page says it says."""

from __future__ import annotations

import doctest
import functools
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import sysconfig
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import attrs
import pytest

from meshless_core.meshlet import load_objects, parse_meshlet

ROOT = Path(__file__).resolve().parents[2]
TUTORIAL = ROOT / "docs" / "tutorial"
BLOCK = re.compile(r'^```(\w+)(?: title="([^"]+)")?\n(.*?)^```$', re.MULTILINE | re.DOTALL)
TERMINAL = "first terminal"
EVENTUALLY = "a moment later"
LONGEST = 30.0


@attrs.frozen
class Block:
    """A fenced block of a page: a file, or commands with what they print."""

    language: str
    title: str | None
    text: str


def blocks(page: str) -> list[Block]:
    return [Block(*match) for match in BLOCK.findall((TUTORIAL / page).read_text(encoding="utf-8"))]


def commands(block: Block) -> Iterator[tuple[str, str]]:
    """Each command of a console block with the output the page shows."""
    for part in re.split(r"^\$ ", block.text, flags=re.MULTILINE)[1:]:
        command, _, output = part.partition("\n")
        yield command, output


def same(shown: str, printed: str) -> bool:
    """Whether the output is what the page shows; `...` on the page stands for anything."""
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    return doctest.OutputChecker().check_output(shown, printed, flags)


class Reader:
    """Somebody who follows a page: writes its files into a folder and types its commands there."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self.folder = folder
        self._environment = environment
        self._running: list[tuple[subprocess.Popen[str], threading.Thread]] = []

    def follow(self, page: str) -> None:
        for block in blocks(page):
            if block.language == "console":
                for command, shown in commands(block):
                    if block.title == TERMINAL:
                        self._start(command, shown)
                    else:
                        self._type(command, shown, LONGEST if block.title == EVENTUALLY else 0.0)
            elif block.title:
                self.write(block)

    def write(self, block: Block) -> None:
        assert block.title
        target = self.folder / block.title
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(block.text, encoding="utf-8")

    def _type(self, command: str, shown: str, patience: float) -> None:
        deadline = time.monotonic() + patience
        while True:
            done = subprocess.run(
                ["/bin/sh", "-c", command],
                cwd=self.folder,
                env=self._environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                timeout=LONGEST,
                check=False,
            )
            if same(shown, done.stdout):
                return
            assert time.monotonic() < deadline, f"$ {command}\n{done.stdout}\nbut the page shows:\n{shown}"

    def _start(self, command: str, shown: str) -> None:
        process = subprocess.Popen(
            ["/bin/sh", "-c", f"exec {command}"],
            cwd=self.folder,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert process.stdout is not None
        watchdog = threading.Timer(LONGEST, process.kill)
        watchdog.start()
        printed = ""
        last = shown.strip().splitlines()[-1]
        for line in process.stdout:
            printed += line
            if line.strip() == last:
                break
        watchdog.cancel()
        if not same(shown, printed):
            with process:
                process.kill()
            pytest.fail(f"$ {command}\n{printed}\nbut the page shows:\n{shown}")
        drain = threading.Thread(target=process.stdout.read)  # a full pipe would stop the mesh
        drain.start()
        self._running.append((process, drain))

    def interrupt(self) -> None:
        """Press Ctrl-C in every terminal; everything must be gone in time, without complaint."""
        for process, _ in self._running:
            process.send_signal(signal.SIGINT)
        try:
            assert all(process.wait(LONGEST) in (0, 130) for process, _ in self._running)
        finally:
            for process, drain in self._running:
                process.kill()
                drain.join()
                if process.stdout:
                    process.stdout.close()
            self._running.clear()


@pytest.fixture
def reader(tmp_path: Path) -> Iterator[Reader]:
    """A reader with an environment of their own, that sees what the project's environment has and can be installed into."""
    venv = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(venv)], check=True)
    site = next(venv.glob("lib/python*/site-packages"))
    # .pth files are read in this folder only, and ours are editable: let the interpreter read theirs too
    (site / "project.pth").write_text(f"import site; site.addsitedir({sysconfig.get_path('purelib')!r})\n")
    meshless = venv / "bin" / "meshless"
    meshless.write_text(f"#!{venv}/bin/python\nfrom meshless_core.cli.main import main\nmain()\n")
    meshless.chmod(0o755)
    uv = shutil.which("uv", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")
    assert uv, "uv is missing: run 'make setup'"
    (venv / "bin" / "uv").symlink_to(uv)
    folder = tmp_path / "work"
    folder.mkdir()
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MESHLESS_", "PYTEST_"))}
    environment |= {"PATH": f"{venv}/bin{os.pathsep}{os.environ['PATH']}", "VIRTUAL_ENV": str(venv)}
    environment.pop("UV_PROJECT_ENVIRONMENT", None)
    reader = Reader(folder, environment)
    try:
        yield reader
    finally:
        reader.interrupt()


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_the_first_mesh_does_what_the_page_says(reader: Reader) -> None:
    reader.follow("first-mesh.md")


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_the_plugin_of_the_tutorial_is_built_installed_loaded_and_decides(reader: Reader) -> None:
    for block in blocks("first-mesh.md"):
        if block.title in ("server.py", "shop.yaml"):
            reader.write(block)
    reader.follow("write-a-plugin.md")


def test_the_resources_in_the_readme_are_valid() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    found = [Block(*match) for match in BLOCK.findall(text) if match[0] == "yaml"]
    assert found
    for block in found:
        for loaded in load_objects(block.text, "README.md"):
            parse_meshlet(loaded.data, "README.md", loaded.marks)


def test_the_tour_of_the_readme_shows_what_it_says(tmp_path: Path) -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8").split("## Sixty seconds")[1].split("## What is where")[0]
    lines = [line for kind, _, block in BLOCK.findall(text) if kind == "sh" for line in block.splitlines()]
    meshless = shlex.quote(str(Path(sys.executable).parent / "meshless"))
    setup, copy, start, *dials, explain = [line.replace(".venv/bin/meshless", meshless) for line in lines]
    assert setup == "make setup"
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    shell = functools.partial(subprocess.run, shell=True, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert shell(copy).returncode == 0
    with subprocess.Popen(
        shlex.split(start, comments=True), cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as mesh:
        try:
            assert mesh.stdout is not None
            assert mesh.stdout.readline() == "ready\n"
            allowed, denied = (shell(dial) for dial in dials)
            assert re.fullmatch(r"v[12] cart-\S+\n", allowed.stdout), allowed
            assert denied.stderr.startswith("refused: ACCESS_DENIED (4)")
            assert shell(explain).returncode == 0
        finally:
            mesh.send_signal(signal.SIGINT)
    assert mesh.returncode == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["examples", "tour"]


def test_the_plugin_of_the_tutorial_is_as_short_as_promised() -> None:
    files = {block.title: block.text for block in blocks("write-a-plugin.md") if block.title}
    python = [line for line in files["quarantine/quarantine.py"].splitlines() if line.strip()]
    toml = [line for line in files["quarantine/pyproject.toml"].splitlines() if line.strip()]
    assert len(python) <= 25
    assert len(toml) <= 12


def test_what_differs_from_the_page_is_noticed(tmp_path: Path) -> None:
    (tmp_path / "work").mkdir()
    reader = Reader(tmp_path / "work", dict(os.environ))
    reader._type("echo hello there", "hello ...\n", 0.0)
    with pytest.raises(AssertionError, match="but the page shows"):
        reader._type("echo hello there", "hello\n", 0.0)
