from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from meshless_core.cli.main import main

GOOD = """\
apiVersion: meshless.dev/v1
kind: Meshlet
metadata: {namespace: shop, name: cart}
spec: {server: {selector: {app: cart}, services: [{name: http}]}}
---
apiVersion: v1
kind: Pod
metadata: {namespace: shop, name: cart}
spec: {containers: [{name: main}]}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: other}
"""


def validate(tmp_path: Path, text: str | bytes, *more: str) -> Result:
    path = tmp_path / "f.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return CliRunner().invoke(main, ["validate", *more, str(path)])


def test_valid_files_exit_0_and_say_what_was_checked(tmp_path: Path) -> None:
    result = validate(tmp_path, GOOD)
    assert (result.exit_code, result.stdout) == (0, "1 ConfigMap skipped\n1 Meshlet valid\n1 Pod valid\nvalid\n")


def test_invalid_files_exit_1_with_every_problem(tmp_path: Path) -> None:
    text = GOOD.replace("name: http", "name: http, maxConn: 0, x: 1").replace("name: main", "name: Main") + "kind: A\n"
    result = validate(tmp_path, text)
    assert result.exit_code == 1
    path = tmp_path / "f.yaml"
    assert result.stdout.splitlines() == [
        f"{path}:14: $.kind: duplicate key, first written on line 12: keep one",
        (
            f"{path}:4: $.spec.server.services[0].x: unknown field, known are allow, handOff, idleTimeout, maxConn, name, "
            "proxyProtocol"
        ),
        f"{path}:4: $.spec.server.services[0].maxConn: must be an integer from 1 to 2147483647, not 0",
        (
            f"{path}:9: $.spec.containers[0].name: the string 'Main' is not a DNS label: use 1 to 63 of a-z, 0-9 and '-', "
            "no '-' at the ends"
        ),
        "1 ConfigMap skipped",
        "1 Meshlet invalid",
        "1 Pod invalid",
        "4 problems",
    ]


@pytest.mark.parametrize("output", ["json", "yaml"])
def test_programs_get_objects_and_problems(tmp_path: Path, output: str) -> None:
    result = validate(tmp_path, GOOD.replace("Meshlet", "Meshlte", 1), "--output", output)
    assert result.exit_code == 1
    if output == "yaml":
        assert "valid: false" in result.stdout
        return
    data = json.loads(result.stdout)
    assert data["valid"] is False
    assert [(one["kind"], one["result"]) for one in data["objects"]] == [
        ("Meshlte", "invalid"),
        ("Pod", "valid"),
        ("ConfigMap", "skipped"),
    ]
    (problem,) = data["problems"]
    assert problem == {
        "path": "$.kind",
        "message": "must be Meshlet, not the string 'Meshlte'",
        "source": str(tmp_path / "f.yaml"),
        "line": 2,
    }


@pytest.mark.parametrize("content", [None, b"a: \xff"])
def test_an_unreadable_file_exits_2_and_the_others_are_still_checked(tmp_path: Path, content: bytes | None) -> None:
    bad = tmp_path / "bad.yaml"
    if content is not None:
        bad.write_bytes(content)
    result = validate(tmp_path, GOOD.replace("kind: Pod", "kind: Pod\nspc: 1").replace("name: http", "name: H"), str(bad))
    assert result.exit_code == 2
    assert f"{bad}: " in result.stdout
    assert "services[0].name" in result.stdout


def test_a_folder_is_unreadable(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["validate", str(tmp_path)])
    assert (result.exit_code, f"is a folder: name its files, for example {tmp_path}/*.yaml" in result.stdout) == (2, True)


def test_standard_input_is_a_file() -> None:
    result = CliRunner().invoke(main, ["validate", "-"], input=GOOD.replace("shop", "Shop", 1))
    assert result.exit_code == 1
    assert result.stdout.startswith("<stdin>:3: $.metadata.namespace: the string 'Shop' is not a DNS label")


def test_the_same_object_twice_is_told_across_files(tmp_path: Path) -> None:
    other = tmp_path / "other.yaml"
    other.write_text(GOOD)
    result = validate(tmp_path, GOOD, str(other))
    assert result.exit_code == 1
    assert f"{tmp_path / 'f.yaml'}:3: $.metadata.name: Meshlet shop/cart is already at {other}:1: keep one" in result.stdout


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "holds no object: is it the right file?"),
        ("a: 1\n", ":1: $: required field 'apiVersion' is missing or no string"),
        ("kind: [\n", "not valid yaml"),
    ],
)
def test_what_is_no_resource_is_invalid(tmp_path: Path, text: str, problem: str) -> None:
    result = validate(tmp_path, text)
    assert result.exit_code == 1
    assert problem in result.stdout


def test_no_file_is_a_usage_error() -> None:
    result = CliRunner().invoke(main, ["validate"])
    assert result.exit_code == 2
    assert "error: Missing argument 'FILE...'" in result.stderr


def test_the_guides_example_is_valid_as_the_guide_says() -> None:
    guide = (Path(__file__).parents[2] / "docs" / "how-to" / "write-a-meshlet.md").read_text()
    example = guide.split('```yaml title="cart.yaml"\n')[1].split("```")[0]
    shown = guide.split("$ meshless validate cart.yaml\n")[1].split("```")[0]
    assert CliRunner().invoke(main, ["validate", "-"], input=example).stdout == shown
