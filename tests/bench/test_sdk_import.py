from __future__ import annotations

from rich.console import Console

from bench.sdk_import import ImportSample, import_table, measure_imports


def test_every_import_is_measured_in_every_round() -> None:
    samples = measure_imports(2)
    assert {(sample.module, sample.round) for sample in samples} == {
        (module, number) for module in ("meshless_sdk", "socket", "asyncio") for number in (1, 2)
    }
    assert all(sample.seconds > 0 for sample in samples)


def test_the_table_has_milliseconds_and_the_ratio_per_round() -> None:
    samples = [
        ImportSample("meshless_sdk", 1, 0.010),
        ImportSample("socket", 1, 0.005),
        ImportSample("meshless_sdk", 2, 0.020),
        ImportSample("socket", 2, 0.020),
    ]
    console = Console(width=120)
    with console.capture() as captured:
        console.print(import_table(samples))
    shown = captured.get()
    assert "15.0 (10.0..20.0)" in shown
    assert "1.50 (1.00..2.00)" in shown
    assert "asyncio" not in shown
