"""What importing the SDK costs, beside what everybody imports anyway: `python -m bench.sdk_import`.

The issue of an import is start-up time, which belongs to the machine; the ratios hardly do.
"""

from __future__ import annotations

import subprocess
import sys

import attrs
from rich.console import Console
from rich.table import Table

from bench.ratios import ratios, spread

__all__ = ["ImportSample", "import_table", "measure_imports"]

SDK = "meshless_sdk"
BESIDE = ("socket", "asyncio")

_CODE = "import time; began = time.process_time(); import {module}; print(time.process_time() - began)"


@attrs.frozen
class ImportSample:
    """Seconds of a processor that one import took in a fresh interpreter."""

    module: str
    round: int
    seconds: float


def measure_imports(rounds: int) -> list[ImportSample]:
    """Import each module in an interpreter of its own, in turns; the first turn, which warms up, does not count."""
    samples = [
        ImportSample(module, number, float(subprocess.check_output([sys.executable, "-c", _CODE.format(module=module)])))
        for number in range(rounds + 1)
        for module in (SDK, *BESIDE)
    ]
    return [sample for sample in samples if sample.round]


def import_table(samples: list[ImportSample]) -> Table:
    """What importing the SDK took, and as a ratio to the others."""
    table = Table(title="importing the SDK, CPU of a fresh interpreter: median (min..max)", title_justify="left")
    table.add_column("import")
    table.add_column("ms", justify="right")
    table.add_column(f"{SDK} as a ratio to it", justify="right")
    taken = {module: {one.round: one.seconds for one in samples if one.module == module} for module in (SDK, *BESIDE)}
    for module, seconds in taken.items():
        mine, ratio = spread(seconds.values()), ratios(taken[SDK], seconds)
        if mine is not None and ratio is not None:
            table.add_row(
                module,
                f"{mine.median * 1e3:.1f} ({mine.low * 1e3:.1f}..{mine.high * 1e3:.1f})",
                f"{ratio.median:.2f} ({ratio.low:.2f}..{ratio.high:.2f})",
            )
    return table


if __name__ == "__main__":
    Console().print(import_table(measure_imports(20)))
