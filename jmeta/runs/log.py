"""The log of a run's metrics: `metrics.jsonl` and TensorBoard files.

Metrics are written before the checkpoint of their step. So after a kill, the lines after the restored step are the tail
of the log, and are cut.
"""

import itertools
import json
import math
import os
import pathlib
from collections.abc import Mapping
from typing import Any

from ..checkpoints.guarded import open_file, read_lines
from .board import Board
from .files import Line, replace_text
from .folder import Watch

__all__ = ["MetricsLog", "NoLog", "read_metrics", "cut_metrics"]


class MetricsLog:
    """A log in `metrics.jsonl` and TensorBoard; opening it cuts the lines after the step resumed from."""

    def __init__(self, folder: pathlib.Path, *, last_step: int) -> None:
        self.path = folder / "metrics.jsonl"
        cut_metrics(self.path, last_step)
        self._file = open_file(self.path, "a")
        self._failed: OSError | None = None
        self._watch = Watch(folder)
        self._board = Board(folder / "tensorboard", last_step + 1)

    def append(self, step: int, split: str, metrics: Mapping[str, float], *, protocol: str | None = None) -> None:
        """Log the metrics of one step, with their protocol; a number that is not finite is written as `null`.

        A failure to write is raised by `to_disk`, which all processes of a job call together.
        """
        if self._failed is not None:
            return
        finite = {name: value if math.isfinite(value) else None for name, value in metrics.items()}
        named = {} if protocol is None else {"protocol": protocol}
        try:
            self._file.write(json.dumps({"step": step, "split": split, **named, **finite}) + "\n")
            if protocol is not None:
                self._board.add_text(f"{split}/protocol", protocol, step)
            for name, value in finite.items():
                if value is not None:
                    self._board.add_scalar(f"{split}/{name}", value, step)
        except OSError as error:
            self._failed = error

    def to_disk(self) -> None:
        """Return when everything appended is on disk.

        Raises:
          OSError: if it cannot be written.
          folder.LostFolderError: if the folder or its lock was moved or deleted.
        """
        self._watch.check()
        if self._failed is not None:
            raise self._failed
        self._file.flush()
        os.fsync(self._file.fileno())
        self._board.to_disk()

    def close(self) -> None:
        try:
            self.to_disk()
        finally:
            try:
                self._board.close()
            finally:
                self._file.close()


class NoLog:
    """A log that keeps nothing, for all processes but the one that writes."""

    def append(self, step: int, split: str, metrics: Mapping[str, float], *, protocol: str | None = None) -> None:
        """Nothing."""

    def to_disk(self) -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing."""


def read_metrics(folder: pathlib.Path, split: str | None = None) -> list[Line]:
    """Return the logged lines of a run, of one split or of all; a torn last line is left out."""
    lines = _whole_metrics(folder / "metrics.jsonl")
    return [line for line in lines if split in (None, line["split"])]


def cut_metrics(path: pathlib.Path, last_step: int) -> None:
    """Remove, atomically, the lines after `last_step` and a line that was torn when its process died."""
    if path.exists():
        kept = [json.dumps(line) + "\n" for line in _whole_metrics(path) if line["step"] <= last_step]
        replace_text(path, "".join(kept))


def _whole_metrics(path: pathlib.Path) -> list[Line]:
    """Return the lines up to the first that does not hold metrics."""

    def is_number(value: Any) -> bool:
        return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)

    def is_metrics(line: Line) -> bool:
        texts = {"split": "", **line}
        numbers = {name: texts.pop(name) for name in line if name not in ("split", "protocol")}
        return (
            isinstance(numbers.get("step"), int)
            and abs(numbers["step"]) < 2**63
            and all(value is None or is_number(value) for value in numbers.values())
            and bool(texts["split"])
            and all(isinstance(text, str) for text in texts.values())
        )

    return list(itertools.takewhile(is_metrics, read_lines(path)))
