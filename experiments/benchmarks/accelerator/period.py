"""A section's period, its share of the time and a folder for its rows, and the writing and reading of rows.

A row has the measured case, its numbers, the card, the time and the version of JAX:

    {"section": "w1", "case": {"workload": ..., ...}, "measured": {"ms a meta-step": ..., ...}, "card": ..., ...}

Units are in the names of the numbers. A case that did not run has `"failed"` with the reason in place of `"measured"`.
"""

import contextlib
import dataclasses
import datetime
import importlib.metadata
import json
import os
import pathlib
import time
from collections.abc import Mapping
from typing import Any

Row = dict[str, Any]
FILE_NAME = "accelerator.jsonl"


@dataclasses.dataclass(frozen=True)
class Period:
    """A section's share of the time.

    Attributes:
      section: the section's name.
      out: folder of the rows and trainings.
      ends_at: time at which the section is stopped, as `time.time()`.
      is_tiny: whether sizes are those of a test.
    """

    section: str
    out: pathlib.Path
    ends_at: float
    is_tiny: bool

    def seconds_left(self) -> float:
        """Return the seconds until the section is stopped."""
        return self.ends_at - time.time()

    def record(self, case: Mapping[str, Any], measured: Mapping[str, Any]) -> None:
        """Write the numbers of a case; the card is the one that JAX computes on."""
        write(self.out, {"section": self.section, "case": {**case}, "measured": {**measured}, **card(self.is_tiny)})

    def record_failure(self, case: Mapping[str, Any], reason: str) -> None:
        """Write that a case did not run."""
        write(self.out, {"section": self.section, "case": {**case}, "failed": reason, **card(self.is_tiny)})


def card(is_tiny: bool) -> Row:
    """Return the card, the versions and the time, for a row."""
    import jax  # only in sections: the supervisor must not take the card's memory

    versions = {"jax": jax.__version__}
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        versions["torch"] = importlib.metadata.version("torch")
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    return {"card": jax.devices()[0].device_kind, "versions": versions, "date": today, "is_tiny": is_tiny}


def write(out: pathlib.Path, row: Row) -> None:
    """Append a row to the file; it is on the disk when this returns."""
    with open(out / FILE_NAME, "a") as file:
        file.write(json.dumps(row) + "\n")
        file.flush()
        os.fsync(file.fileno())


def read(path: pathlib.Path) -> list[Row]:
    """Read the rows of a file; none if there is no file. A line torn by a kill is left out."""
    rows = []
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            rows.append(json.loads(line))
        except ValueError:
            continue
    return rows


def reason_of(error: BaseException) -> str:
    """Return an error's text as one short line."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:200] if lines else 'no message'}"
