"""Accelerators in BENCHMARKS.md and RESULTS.md: the rows kept as `rows/accelerator*.jsonl`, by card and date.

One call of `experiments.benchmarks.accelerator`, or several with the same folder, make one file.
"""

import pathlib
from collections.abc import Sequence

from .accelerator.period import Row, read
from .accelerator.tables import tables_of

ROWS = pathlib.Path(__file__).parent / "rows"
TRAININGS = "full_rows"
"""The section whose rows are results: they have accuracies, and belong in RESULTS.md."""


def recorded(folder: pathlib.Path = ROWS) -> list[Row]:
    """Read all rows, by card and date, without those of test sizes."""
    rows = [row for path in sorted(folder.glob("accelerator*.jsonl")) for row in read(path)]
    return sorted((row for row in rows if not row.get("is_tiny", True)), key=lambda row: (row["card"], row["date"]))


def benchmarks_section(rows: Sequence[Row]) -> str:
    """Return the section of BENCHMARKS.md on accelerators."""
    timed = [row for row in rows if row["section"] != TRAININGS]
    page = "[docs/accelerators.md](docs/accelerators.md)"
    if not timed:
        return f"## Accelerators\n\nNo accelerator has been measured yet; {page} has the command that measures one.\n"
    return f"## Accelerators\n\n{page} describes the measurements.\n\n{_by_card(timed)}"


def results_section(rows: Sequence[Row]) -> str:
    """Return the section of RESULTS.md on accelerators."""
    trained = [row for row in rows if row["section"] == TRAININGS and "protocol" in row.get("measured", {})]
    if not trained:
        return "## On accelerators\n\nNothing has been trained on an accelerator yet.\n"
    return f"## On accelerators\n\n{_by_card(trained)}"


def _by_card(rows: Sequence[Row]) -> str:
    parts = []
    for card, date in dict.fromkeys((row["card"], row["date"]) for row in rows):
        of_card = [row for row in rows if (row["card"], row["date"]) == (card, date)]
        parts.append(f"### {card}, {date}\n\n{tables_of(of_card, '####')}")
    return "\n".join(parts)
