"""What the sections of BENCHMARKS.md are made of: tables, and the median of rounds."""

import statistics
from collections.abc import Iterable
from typing import Any


def ratio_of(theirs: dict[str, Any], ours: dict[str, Any]) -> float:
    """The median of the ratios of rounds."""
    return statistics.median(a / b for a, b in zip(theirs["seconds"], ours["seconds"], strict=True))


def table_of(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """In Markdown."""
    head = list(head)
    return "\n".join(f"| {' | '.join(cells)} |" for cells in [head, ["---"] * len(head), *rows])


def where_measured(row: dict[str, Any]) -> str:
    """The machine, and what was installed."""
    return f"{row['machine']}; {', '.join(f'{name} {version}' for name, version in row['versions'].items())}."


def median_of(measured: dict[str, Any]) -> float:
    """Seconds."""
    return statistics.median(measured["seconds"])
