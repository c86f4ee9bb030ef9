from __future__ import annotations

import io
import json
import logging
import subprocess
import sys
from collections.abc import Iterator

import pytest

from meshless_core.cli.logging import configure_logging, label_records


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def _restore_root() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:], root.level = handlers, level


def log(stream: io.StringIO, **options: str) -> str:
    configure_logging(stream=stream, **options)
    logger = logging.getLogger("meshless_core.some.module")
    logger.debug("not shown by default")
    logger.info("connection %s closed", "c-1", extra={"bytes_in": 7})
    try:
        raise ValueError("the cause")
    except ValueError:
        logger.exception("it failed")
    return stream.getvalue()


def test_not_a_terminal_gets_one_json_object_per_line() -> None:
    first, second = map(json.loads, log(io.StringIO()).splitlines())
    assert (first["event"], first["level"], first["logger"], first["bytes_in"]) == (
        "connection c-1 closed",
        "info",
        "meshless_core.some.module",
        7,
    )
    assert first["timestamp"].endswith("Z")
    assert "ValueError: the cause" in second["exception"]


def test_an_agent_writes_json_lines_without_importing_a_renderer() -> None:
    """structlog imports rich if there is one: 6 MB in every agent."""
    program = (
        "import io, logging, sys\n"
        "import meshless_core.cli.agent\n"
        "from meshless_core.cli.logging import configure_logging\n"
        "configure_logging(stream=(stream := io.StringIO()), form='json')\n"
        "logging.getLogger('a').warning('b', extra={'path': sys})\n"
        "assert stream.getvalue().startswith('{'), stream.getvalue()\n"
        "print(sorted({'structlog', 'rich'} & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("form", ["json", "pretty"])
def test_every_line_carries_the_labels_of_its_process(form: str) -> None:
    stream = io.StringIO()
    configure_logging(form=form, stream=stream)
    label_records(worker=1)
    logging.getLogger("mesh").warning("one", extra={"node": "a"})
    logging.getLogger("mesh").warning("two", extra={"worker": 7})
    one, two = stream.getvalue().splitlines()
    if form == "json":
        assert (json.loads(one)["worker"], json.loads(two)["worker"]) == (1, 7)
    else:
        assert "worker=1" in one
        assert "worker=7" in two


def test_a_terminal_gets_text_for_people() -> None:
    text = log(Terminal())
    assert "connection c-1 closed" in text
    assert "bytes_in" in text
    assert "ValueError: the cause" in text
    assert not text.startswith("{")


def test_the_form_can_be_chosen_and_the_level_too() -> None:
    assert json.loads(log(Terminal(), form="json").splitlines()[0])["event"] == "connection c-1 closed"
    assert not log(io.StringIO(), form="pretty").startswith("{")
    assert "not shown by default" in log(io.StringIO(), level="debug")
    assert "connection c-1 closed" not in log(io.StringIO(), level="error")


def test_configuring_again_replaces_the_earlier_configuration() -> None:
    first, second = io.StringIO(), io.StringIO()
    configure_logging(stream=first)
    log(second)
    assert first.getvalue() == ""


def test_the_file_watcher_does_not_write_about_every_change() -> None:
    stream = io.StringIO()
    configure_logging(stream=stream, level="debug")
    logging.getLogger("watchfiles.main").info("1 change detected")
    logging.getLogger("watchfiles.main").warning("something is wrong")
    assert "1 change detected" not in stream.getvalue()
    assert "something is wrong" in stream.getvalue()
