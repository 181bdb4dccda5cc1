"""Building blocks of BENCHMARKS.md: tables, and medians over rounds."""

import statistics
from collections.abc import Iterable
from typing import Any


def ratio_of(theirs: dict[str, Any], ours: dict[str, Any]) -> float:
    """Return the median of the rounds' ratios."""
    return statistics.median(a / b for a, b in zip(theirs["seconds"], ours["seconds"], strict=True))


def table_of(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """Return a table in Markdown."""
    head = list(head)
    return "\n".join(f"| {' | '.join(cells)} |" for cells in [head, ["---"] * len(head), *rows])


def where_measured(row: dict[str, Any]) -> str:
    """Describe the machine and the installed versions."""
    return f"{row['machine']}; {', '.join(f'{name} {version}' for name, version in row['versions'].items())}."


def median_of(measured: dict[str, Any]) -> float:
    """Return the median of the rounds' seconds."""
    return statistics.median(measured["seconds"])
