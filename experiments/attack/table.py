"""The figures of an attack as tables: `python -m experiments.attack.table` writes them into `docs/reliability.md`."""

import json
import pathlib
from collections.abc import Sequence
from typing import Any

__all__ = ["RECORD", "PAGE", "sections", "filled"]

RECORD = pathlib.Path(__file__).parent / "results.json"
PAGE = pathlib.Path(__file__).parents[2] / "docs" / "reliability.md"


def sections(record: dict[str, Any]) -> dict[str, str]:
    """Return, for each part of a record, the machine and the table."""
    made = {"attacks": _attacks, "kills": _kills}
    return {name: f"{_machine(part)}\n\n{made[name](part)}" for name, part in record.items()}


def filled(page: str, record: dict[str, Any]) -> str:
    """Return a page with the sections of a record between its marks, `<!-- NAME -->` and `<!-- end of NAME -->`."""
    for name, text in sections(record).items():
        start, end = f"<!-- {name} -->\n", f"<!-- end of {name} -->"
        before, _, rest = page.partition(start)
        page = f"{before}{start}{text}\n{end}{rest.partition(end)[2]}"
    return page


def _machine(part: dict[str, Any]) -> str:
    return f"With jax {part['jax']}, on {part['cpus']} cores of {part['processor']}, seed {part['seed']}:"


def _attacks(part: dict[str, Any]) -> str:
    """Return one row for each surface, and their sum."""
    names = ("inputs", "right", "refused", "wrong type", "findings")
    rows = [(row["surface"], *(row.get(name, 0) for name in names)) for row in part["rows"]]
    total = ("all", *(sum(column) for column in list(zip(*rows, strict=True))[1:]))
    heads = ("surface", "inputs", "right result", "one clear error", "wrong Python type", "findings")
    return _table(heads, [[name, *(f"{count:,}" for count in counts)] for name, *counts in [*rows, total]])


def _kills(part: dict[str, Any]) -> str:
    """Return one row for each kind of run, and their sum."""
    names = ("kills", "before_a_checkpoint", "lost_checkpoints", "other_bits")
    rows = [[row["run"], *(row[name] for name in names), *row["shares"]] for row in part["rows"]]
    sums = [sum(row[i] for row in rows) for i in range(1, 5)]
    rows.append(["all", *sums, min(row[5] for row in rows), max(row[6] for row in rows)])
    heads = ("run", "kills", "before its first checkpoint", "checkpoints lost", "ended in other bits", "killed after")
    return _table(heads, [[*map(str, row[:5]), f"{row[5]:.0%} to {row[6]:.0%}"] for row in rows])


def _table(heads: Sequence[str], rows: list[list[str]]) -> str:
    lines = [list(heads), ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


if __name__ == "__main__":
    PAGE.write_text(filled(PAGE.read_text(), json.loads(RECORD.read_text())))
