"""Durations: the same accept/reject set and values as Go, checked against Go itself."""

from __future__ import annotations

import contextlib
import itertools
import json
import random
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshless_core.errors import InvalidDurationError, MeshlessError
from meshless_core.meshlet import format_duration, parse_duration

GO_PROGRAM = """
package main

import (
	"bufio"
	"encoding/json"
	"os"
	"time"
)

type answer struct {
	OK   bool
	NS   int64
	Text string
}

func main() {
	var texts []string
	if err := json.NewDecoder(bufio.NewReader(os.Stdin)).Decode(&texts); err != nil {
		panic(err)
	}
	answers := make([]answer, 0, len(texts))
	for _, text := range texts {
		d, err := time.ParseDuration(text)
		answers = append(answers, answer{err == nil, int64(d), d.String()})
	}
	if err := json.NewEncoder(os.Stdout).Encode(answers); err != nil {
		panic(err)
	}
}
"""

UNITS = ["ns", "us", "µs", "μs", "ms", "s", "m", "h"]

EDGES = [
    *(
        "",
        "0",
        "+0",
        "-0",
        "00",
        "+00",
        "0.",
        ".0",
        "0s",
        "-0s",
        "+",
        "-",
        "+-1s",
        "--1s",
        ".",
        ".s",
        "-.s",
        "1",
        "1.",
        ".5",
        "1.s",
        ".5s",
    ),
    *(
        "1s1",
        "1 s",
        " 1s",
        "1s ",
        "1S",
        "1d",
        "1H",
        "1M",
        "1sec",
        "1.5.5s",
        "1..5s",
        "1,5s",
        "1_000s",
        "1e3s",
        "0x1s",
        "1h-1m",
        "1h+1m",
    ),
    *(
        "1h15m30.918s",
        "1m1h",
        "1s1s",
        "1h1h1h",
        "-1h15m",
        "+1h",
        "5µs5μs",
        "1\u00b5s",
        "1\u03bcs",
        "1µ",
        "µs",
        "1\u039cs",
        "\uff11s",
        "1\uff53",
        "\u0663s",
    ),
    *(
        "9223372036854775807ns",
        "9223372036854775808ns",
        "-9223372036854775808ns",
        "-9223372036854775809ns",
        "9223372036854775809ns",
    ),
    *(
        "9223372036.854775807s",
        "9223372036.854775808s",
        "-9223372036.854775808s",
        "9223372036854.775807ms",
        "9223372036854775.807us",
    ),
    *(
        "2562047h47m16.854775807s",
        "2562047h47m16.854775808s",
        "-2562047h47m16.854775808s",
        "2562048h",
        "153722868m",
        "153722867m",
    ),
    *(
        "9223372036854775808ns9223372036854775808ns",
        "9223372036854775808ns9223372036854775808ns1s",
        "-9223372036854775808ns1ns",
    ),
    *("9223372036854775807ns1ns", "4611686018427387904ns4611686018427387904ns", "-4611686018427387904ns4611686018427387904ns"),
    *(
        "0.100000000000000000000h",
        "0.3333333333333333333h",
        "0.9223372036854775807h",
        "0.9223372036854775808h",
        "0.9223372036854775809h",
    ),
    *(
        "0.92233720368547758079999h",
        "0.99999999999999999999999999999999s",
        "1.9999999999s",
        "0.0000000001s",
        "0.9999999999ns",
        "0.5ns",
    ),
    *(
        "39h9m14.425s",
        "0.830103483285477580700h",
        "1.0000000000000000000000000000000001h",
        "922337203685477580.9ns",
        "18446744073709551616ns",
    ),
    *(
        "000000000000000000000000000000000000000001s",
        "1" * 5000 + "s",
        "0" * 5000 + "1s",
        "0." + "1" * 5000 + "s",
        "0." + "0" * 5000 + "1s",
    ),
    *(
        "1\x00s",
        "\x001s",
        "1s\n",
        "1h\t",
        "1st",
        "1nss",
        "1mss",
        "1hm",
        "h",
        "ns",
        "1.h.5m",
        "1h.5m",
        "1h5.m",
        "1.5h1.5m1.5s1.5ms1.5us1.5ns",
    ),
]


def corpus() -> list[str]:
    rng = random.Random(20240607)
    texts = list(EDGES)
    numbers = [
        "0",
        "1",
        "7",
        "59",
        "60",
        "999",
        "1000",
        "3600",
        "1.",
        ".1",
        "0.1",
        "1.5",
        "0.000001",
        "123.456789",
        "1.0000000001",
    ]
    texts += [sign + number + unit for sign in ("", "-", "+") for number in numbers for unit in [*UNITS, "", "d", "x"]]
    texts += ["".join(pair) for pair in itertools.product(["1h", "2m", ".5s", "3", "ns", "-", "."], repeat=3)]
    for unit, size in zip(UNITS, [1, 10**3, 10**3, 10**3, 10**6, 10**9, 6 * 10**10, 36 * 10**11], strict=True):
        limit = 2**63 // size
        texts += [f"{sign}{limit + step}{unit}" for sign in ("", "-") for step in range(-3, 4)]
        texts += [
            f"{sign}{limit}.{digits}{unit}" for sign in ("", "-") for digits in ("0", "1", "5", "775807", "775808", "854775807")
        ]
    for _ in range(30_000):
        parts = []
        for _ in range(rng.choice([1, 1, 1, 2, 3, 4])):
            whole = str(rng.getrandbits(rng.choice([1, 4, 10, 20, 33, 40, 53, 63, 64])))
            fraction = (
                "." + "".join(rng.choices("0123456789", k=rng.choice([0, 1, 3, 9, 15, 18, 19, 20, 25])))
                if rng.random() < 0.6
                else ""
            )
            parts.append(whole + fraction + rng.choice(UNITS))
        texts.append(rng.choice(["", "", "-", "+"]) + "".join(parts))
    alphabet = "0123456789.hmsnuµμ+- e"
    texts += ["".join(rng.choices(alphabet, k=rng.randint(0, 8))) for _ in range(30_000)]
    return texts


def ours(text: str) -> dict[str, object]:
    try:
        value = parse_duration(text)
    except InvalidDurationError:
        return {"OK": False, "NS": 0, "Text": "0s"}
    return {"OK": True, "NS": value, "Text": format_duration(value)}


@pytest.mark.slow
@pytest.mark.skipif(
    shutil.which("go") is None, reason="needs the Go toolchain (go) on the PATH to compare with time.ParseDuration"
)
@pytest.mark.timeout(300)
def test_every_text_means_to_us_what_it_means_to_go(tmp_path: Path) -> None:
    (tmp_path / "main.go").write_text(GO_PROGRAM)
    (tmp_path / "go.mod").write_text("module durations\n\ngo 1.20\n")
    subprocess.run(["go", "build", "-o", "durations", "."], cwd=tmp_path, check=True, timeout=240)
    texts = corpus()
    run = subprocess.run(
        [tmp_path / "durations"], input=json.dumps(texts).encode(), capture_output=True, check=True, timeout=60
    )
    answers = json.loads(run.stdout)
    assert len(answers) == len(texts) > 60_000
    differ = [(text, theirs) for text, theirs in zip(texts, answers, strict=True) if ours(text) != theirs]
    assert differ == []
    accepted = sum(answer["OK"] for answer in answers)
    assert 5_000 < accepted < len(texts) - 5_000, "the corpus must hold plenty of both"


@pytest.mark.parametrize(
    ("text", "ns"),
    [
        ("0", 0),
        ("-0", 0),
        ("1m", 60_000_000_000),
        ("1h15m30.918s", 4_530_918_000_000),
        ("-1.5h", -5_400_000_000_000),
        ("1\u00b5s", 1_000),
        ("1\u03bcs", 1_000),
        (".5s", 500_000_000),
        ("1.s", 1_000_000_000),
        ("9223372036854775807ns", 2**63 - 1),
        ("-9223372036854775808ns", -(2**63)),
        ("0.3333333333333333333h", 1_200_000_000_000),
    ],
)
def test_value_in_nanoseconds(text: str, ns: int) -> None:
    assert parse_duration(text) == ns


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "'' is not a duration: it is empty; write for example 30s, 1.5h or 1h15m (units ns, us, ms, s, m, h)"),
        ("-", "it is empty"),
        ("5", "'5' is not a duration: a unit is missing"),
        ("1d", "unknown unit 'd'"),
        (".s", "a number is missing"),
        ("soon", "a number is missing"),
        ("9223372036854775808ns", "out of range"),
        ("99999999999999999999h", "out of range"),
        ("2562048h", "out of range"),
        ("9223372036854775807ns1ns", "out of range"),
        ("9223372036.9s", "out of range"),
    ],
)
def test_refusal_says_what_is_wrong_and_what_to_write(text: str, message: str) -> None:
    with pytest.raises(InvalidDurationError) as caught:
        parse_duration(text)
    assert message in str(caught.value)
    assert "write for example" in str(caught.value)
    assert isinstance(caught.value, MeshlessError)


def test_a_long_text_is_cut_in_the_message() -> None:
    with pytest.raises(InvalidDurationError) as caught:
        parse_duration("x" * 100_000)
    assert len(str(caught.value)) < 300


@given(st.integers(-(2**63) // 10**9 + 1, 2**63 // 10**9 - 1))
def test_whole_seconds_survive_formatting_and_parsing(seconds: int) -> None:
    # Not every nanosecond does, in Go neither: a fraction of more than 15 digits is rounded.
    assert parse_duration(format_duration(seconds * 10**9)) == seconds * 10**9


@given(st.text())
def test_any_text_gives_a_value_or_our_error(text: str) -> None:
    with contextlib.suppress(InvalidDurationError):
        assert -(2**63) <= parse_duration(text) < 2**63


@pytest.mark.parametrize(
    ("ns", "text"),
    [
        *((0, "0s"), (1, "1ns"), (-1, "-1ns"), (1_100, "1.1µs"), (2_200_000, "2.2ms"), (3_300_000_000, "3.3s")),
        *(
            (245_000_000_000, "4m5s"),
            (245_001_000_000, "4m5.001s"),
            (18_367_001_000_000, "5h6m7.001s"),
            (480_000_000_001, "8m0.000000001s"),
        ),
        *((2**63 - 1, "2562047h47m16.854775807s"), (-(2**63), "-2562047h47m16.854775808s")),
    ],
)
def test_format_is_that_of_go(ns: int, text: str) -> None:
    assert format_duration(ns) == text
