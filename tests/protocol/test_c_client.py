"""A client written in C from `protocol/handshake-v2.md` alone passes the client's vectors: the page is enough."""

from __future__ import annotations

import json
import random
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.protocol.c_client.building import build_c_client

FILE = Path(__file__).parents[2] / "protocol" / "vectors" / "handshake-v2.json"
VECTORS: dict[str, Any] = json.loads(FILE.read_text("utf-8"))
Split = Callable[[bytes], list[bytes]]
Ask = Callable[[list[str]], list[str]]
NOTICE = re.compile(r"notice kind=(\w+) text=([0-9a-f]*)")


def joined(parts: list[str]) -> bytes:
    return b"".join(map(bytes.fromhex, parts))


def at_random(data: bytes) -> list[bytes]:
    dice = random.Random(data)  # repeatable on purpose
    cuts = sorted({dice.randrange(1, len(data)) for _ in range(3)}) if len(data) > 1 else []
    return [part for part in map(data.__getitem__, map(slice, [0, *cuts], [*cuts, len(data)])) if part]


SPLITS: dict[str, Split] = {
    "whole": lambda data: [data] if data else [],
    "byte by byte": lambda data: [data[index : index + 1] for index in range(len(data))],
    "at random": at_random,
}


@pytest.fixture(scope="module")
def ask(tmp_path_factory: pytest.TempPathFactory) -> Ask:
    program = build_c_client(tmp_path_factory.mktemp("c-client"))

    def ask(commands: list[str]) -> list[str]:
        """One answer per command; sanitizers end the program with another status."""
        done = subprocess.run(
            [program, "vectors"], input="\n".join([*commands, ""]), capture_output=True, text=True, timeout=50, check=False
        )
        assert done.returncode == 0, done.stderr
        answers = done.stdout.splitlines()
        assert len(answers) == len(commands)
        return answers

    return ask


def words_of(answer: str) -> tuple[str, dict[str, str]]:
    name, *pairs = answer.split(" ")
    return name, dict(pair.split("=", 1) for pair in pairs)


def text_of(value: str) -> str:
    return bytes.fromhex(value).decode("utf-8", "replace")


def event_of(answer: str, rest: bytes) -> dict[str, Any]:
    name, said = words_of(answer)
    if name not in {"established", "refused"}:
        return {"event": name}
    details: dict[str, Any] = {}
    if "connection_id" in said:
        details["connection_id"] = said["connection_id"]
    for field in ("version", "endpoint"):
        if field in said:
            details[field] = text_of(said[field])
    if "retry_after" in said:
        details["retry_after_ms"] = int(said["retry_after"], 16)
    if "descriptor_follows" in said:
        details["descriptor_follows"] = True
    event = {"event": name, "details": details, "text": text_of(said.get("text", ""))}
    if name == "established":
        return {**event, "trailing": said["trailing"] + rest.hex()}
    return {**event, "code": int(said["code"]), "version": int(said["form"])}


def wishes_of(vector: dict[str, Any]) -> str:
    return "".join(f" {name}={1 if value is True else value}" for name, value in vector["wishes"].items())


@pytest.mark.parametrize("split", SPLITS)
def test_the_c_client_sends_and_understands_what_every_client_vector_says(ask: Ask, split: str) -> None:
    commands: list[str] = []
    parts_of: list[list[bytes]] = []
    for vector in VECTORS["client"]:
        parts = SPLITS[split](joined(vector["reply"])) + ([b""] if vector["eof"] else [])
        parts_of.append(parts)
        commands.append(f"request {vector['service_id']}{wishes_of(vector)}")
        # a verdict ends the vector: what would follow is not the client's any more
        commands += [f"reply {part.hex()}".strip() for part in parts[: verdict_at(vector, parts)]]
    answers = iter(ask(commands))
    for vector, parts in zip(VECTORS["client"], parts_of, strict=True):
        assert next(answers) == f"request bytes={joined(vector['request']).hex()}", vector["name"]
        fed = verdict_at(vector, parts)
        said = [next(answers) for _ in parts[:fed]]
        if vector["expect"]["event"] == "incomplete":
            assert set(said) <= {"more"}, vector["name"]
            continue
        assert set(said[:-1]) <= {"more"}, f"{vector['name']}: a verdict too early"
        assert event_of(said[-1], b"".join(parts[fed:])) == vector["expect"], vector["name"]


def verdict_at(vector: dict[str, Any], parts: list[bytes]) -> int:
    """How many of the parts have to be fed until the verdict is due."""
    due = vector["verdict_after"]
    if not isinstance(due, int):
        return len(parts)
    fed = 0
    for count, part in enumerate(parts, 1):
        fed += len(part)
        if fed >= due:
            return count
    return len(parts)


@pytest.mark.parametrize("split", SPLITS)
def test_the_c_client_reads_every_lease_as_its_vector_says(ask: Ask, split: str) -> None:
    commands: list[str] = []
    counts: list[int] = []
    for vector in VECTORS["leases"]:
        parts = SPLITS[split](joined(vector["bytes"])) + ([b""] if vector["eof"] else [])
        counts.append(len(parts))
        commands += ["start-lease", *(f"lease {part.hex()}".strip() for part in parts)]
    answers = iter(ask(commands))
    for vector, count in zip(VECTORS["leases"], counts, strict=True):
        said = [next(answers) for _ in range(1 + count)]
        notices = [[kind, text_of(text)] for line in said for kind, text in NOTICE.findall(line)]
        assert {"notices": notices, "end": said[-1].split()[-1]} == vector["expect"], vector["name"]
