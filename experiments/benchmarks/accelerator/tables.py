"""Rows as tables in Markdown, one for each section: for the end of the command, and for BENCHMARKS.md."""

from collections.abc import Iterable, Sequence
from typing import Any

from .period import Row


def tables_of(rows: Sequence[Row], heading: str = "###") -> str:
    """Return the tables of all sections, in the order of their first rows; cases that did not run are named below."""
    parts = []
    for section in dict.fromkeys(row["section"] for row in rows):
        of_section = [row for row in rows if row["section"] == section]
        parts += [f"{heading} {section}", "", *_where(of_section), _table(of_section), ""]
        failed = [row for row in of_section if "failed" in row]
        parts += [f"* not measured: {', '.join(_words(row['case']))}: {row['failed']}" for row in failed]
        parts += [""] if failed else []
    return "\n".join(parts) or "nothing was measured"


def _where(rows: Sequence[Row]) -> list[str]:
    places = dict.fromkeys(
        f"{row['card']}; {', '.join(' '.join(each) for each in row['versions'].items())}; {row['date']}"
        + ("; sizes of a test" if row["is_tiny"] else "")
        for row in rows
        if "card" in row
    )
    return [line for place in places for line in (f"{place}.", "")]


def _table(rows: Sequence[Row]) -> str:
    measured = [row for row in rows if "measured" in row]
    if not measured:
        return "No rows."
    names = [list(dict.fromkeys(name for row in measured for name in row[part])) for part in ("case", "measured")]
    lines = [
        [_cell(row[part].get(name)) for part, of in zip(("case", "measured"), names, strict=True) for name in of]
        for row in measured
    ]
    head = [*names[0], *names[1]]
    widths = [max(len(line[i]) for line in [head, *lines]) for i in range(len(head))]
    return "\n".join(_line(line, widths) for line in [head, ["-" * width for width in widths], *lines])


def _line(cells: Iterable[str], widths: Sequence[int]) -> str:
    return f"| {' | '.join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True))} |"


def _words(case: dict[str, Any]) -> list[str]:
    return [_cell(value) for value in case.values()] or ["the section"]


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return f"{value:,}" if isinstance(value, int) else str(value)
