from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from bench.load_program import Load
from bench.paths import ALL_PATHS
from bench.works import ALL_WORKS


def bench(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "bench", *arguments], capture_output=True, text=True, check=False, cwd=ROOT, timeout=50
    )


ROOT = Path(__file__).parents[2]


def test_the_list_names_every_path_and_work() -> None:
    done = bench("--list")
    assert done.returncode == 0
    names = [path.name for path in ALL_PATHS] + [work.name for work in ALL_WORKS]
    assert [line.split()[1] for line in done.stdout.splitlines()] == names


@pytest.mark.parametrize(
    ("arguments", "status", "says"),
    [
        (("--only", "nonsense"), 1, "no such path or work"),
        (("--rounds", "0"), 2, "--rounds"),
        (("--output", "xml"), 2, "--output"),
    ],
)
def test_wrong_wishes_are_refused(arguments: tuple[str, ...], status: int, says: str) -> None:
    done = bench(*arguments)
    assert done.returncode == status
    assert says in done.stderr


def test_json_goes_to_standard_output_alone_with_machine_settings_and_samples(load: Load) -> None:
    done = bench(
        "--only", "haproxy,direct-unix,echo-1", "--rounds", "2", "--seconds", "0.05", "--output", "json", "--no-install"
    )
    document = json.loads(done.stdout)
    assert document["machine"]["cpus"] == len(os.sched_getaffinity(0))
    assert document["machine"]["kernel"] == os.uname().release
    assert document["settings"]["rounds"] == 2
    assert [sample["round"] for sample in document["samples"] if sample["path"] == "direct-unix"] == [0, 1]
    assert done.returncode == (1 if document["failures"] else 0)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_run_leaves_no_process_and_no_folder_behind(load: Load, tmp_path: Path, number: signal.Signals) -> None:
    command = [sys.executable, "-m", "bench", "--only", "direct-unix,direct-tcp,echo-1", "--seconds", "30", "--no-install"]
    environment = os.environ | {"TMPDIR": str(tmp_path), "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as run:
        assert run.stdout is not None
        for line in run.stdout:
            if "round 1" in line:
                break
        run.send_signal(number)
        run.stdout.read()
        assert run.wait() != 0
    assert list(tmp_path.iterdir()) == []
    for cmdline in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            assert str(tmp_path).encode() not in cmdline.read_bytes()
        except (FileNotFoundError, ProcessLookupError):
            continue
