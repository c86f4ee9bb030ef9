"""What import contracts and linters cannot say about the house."""

from __future__ import annotations

import ast
import configparser
import re
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PLUGINS = sorted(path.parent for path in ROOT.glob("plugins/*/pyproject.toml"))
PUBLIC_ROOMS = {"errors", "hookspecs", "types", "testing"}
SHIPPED = sorted(path for folder in ("meshless_core", "plugins", "sdk") for path in ROOT.glob(f"{folder}/**/*.py"))


def contracts() -> configparser.ConfigParser:
    parser = configparser.ConfigParser()
    parser.read(ROOT / ".importlinter", encoding="utf-8")
    return parser


def listed(section: str, key: str) -> set[str]:
    return set(contracts()[section][key].split())


@pytest.mark.parametrize("plugin", PLUGINS, ids=lambda path: path.name)
def test_every_plugin_is_under_every_contract_about_plugins(plugin: Path) -> None:
    package = f"meshless_{plugin.name}"
    assert package in listed("importlinter", "root_packages")
    assert package in listed("importlinter:contract:plugins-use-public-names", "source_modules")
    assert package in listed("importlinter:contract:plugins-are-strangers", "modules")
    assert package in listed("importlinter:contract:sdk-stands-alone", "forbidden_modules")


def test_every_private_room_of_the_core_is_closed_to_plugins() -> None:
    core = ROOT / "meshless_core"
    rooms = {path.stem if path.is_file() else path.name for path in core.iterdir() if path.suffix == ".py" or path.is_dir()}
    private = {room for room in rooms if not room.startswith("_")} - PUBLIC_ROOMS
    closed = {
        name.removeprefix("meshless_core.")
        for name in listed("importlinter:contract:plugins-use-public-names", "forbidden_modules")
    }
    assert private == closed


def test_the_sdk_imports_the_standard_library_only() -> None:
    """Modules for other people's libraries are extras: named after the library, and imported by nobody but the user."""
    extras = set(
        tomllib.loads((ROOT / "sdk/python/pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    )
    assert extras, "without extras this test would let everything through"
    foreign = []
    for path in ROOT.glob("sdk/python/src/**/*.py"):
        if path.stem in extras or path.parent.name == "testing" or path.stem == "pytest_plugin":
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            match node:
                case ast.Import(names=names):
                    modules = [alias.name for alias in names]
                case ast.ImportFrom(module=str(module), level=0):
                    modules = [module]
                case _:
                    continue
            tops = {module.split(".")[0] for module in modules}
            foreign += [f"{path.name}:{node.lineno}: {top}" for top in tops - sys.stdlib_module_names - {"meshless_sdk"}]
    assert not foreign


def test_every_dependency_has_its_line_of_reasons() -> None:
    text = (ROOT / "docs" / "explanation" / "dependencies.md").read_text(encoding="utf-8")
    explained = {name.strip() for row in re.findall(r"^\| ([a-z0-9, -]+) \|", text, re.MULTILINE) for name in row.split(",")}
    declared = set()
    for path in (
        ROOT / "pyproject.toml",
        *(plugin / "pyproject.toml" for plugin in PLUGINS),
        ROOT / "sdk/python/pyproject.toml",
    ):
        data = tomllib.loads(path.read_text(encoding="utf-8"))
        requirements = list(data["project"]["dependencies"])
        for group in data.get("dependency-groups", {}).values():
            requirements += group
        declared |= {re.split(r"[^a-z0-9-]", requirement.lower())[0] for requirement in requirements}
    ours = {name for name in declared if name == "meshless" or name.startswith("meshless-")}
    assert declared - ours - explained == set()


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_file_is_one_idea_and_says_which(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    if path.relative_to(ROOT).as_posix() != "meshless_core/hookspecs.py":  # all extension points in one file, by design
        assert text.count("\n") <= 500, "split it: a file holds one idea in at most 500 lines"
    assert path.stem not in {"utils", "util", "helpers", "manager", "common", "misc"}
    if "tests" not in path.parts:
        assert ast.get_docstring(ast.parse(text)), "a module says why it exists and what it must not do"


def test_no_file_beside_what_is_shipped_is_longer() -> None:
    folders = ("tests", "bench", "docs/generate", "examples")
    beside = [path for folder in folders for path in ROOT.glob(f"{folder}/**/*.py")]
    assert [path for path in beside if path.read_text(encoding="utf-8").count("\n") > 500] == []


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_silenced_check_has_its_reason(path: Path) -> None:
    silenced = re.compile(r"#\s*(?:noqa(?!:\s*[A-Z]+\d+(?:,\s*[A-Z]+\d+)* - \S)|type:\s*ignore(?!\[[\w, -]+\]\s*#\s*\S))")
    lines = path.read_text(encoding="utf-8").splitlines()
    bare = [f"{path.name}:{number}: {line.strip()}" for number, line in enumerate(lines, 1) if silenced.search(line)]
    assert not bare
