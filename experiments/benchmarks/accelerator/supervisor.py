"""Run sections one after another, each in its own process, which is killed when its share of the time is over.

This module imports no JAX, so that the section has the card's whole memory.
"""

import contextlib
import os
import pathlib
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import NamedTuple

from .period import FILE_NAME, read, write

LEAST_SECONDS = 5.0
"""Least time that a section needs to start at all."""
LOG_NAME = "accelerator.log"


class Section(NamedTuple):
    """One section.

    Attributes:
      name: the section's name.
      share: its share of the time, relative to those of the other sections.
      command: command to start, without the two last words: the folder, and the time at which the section ends.
    """

    name: str
    share: float
    command: tuple[str, ...]


def supervise(sections: Sequence[Section], out: pathlib.Path, ends_at: float) -> None:
    """Run all sections; later ones share the time that one leaves.

    Args:
      sections: the sections, in the order in which they run.
      out: folder of the rows.
      ends_at: time at which all sections have ended, as `time.time()`.
    """
    for i, section in enumerate(sections):
        left = ends_at - time.time()
        seconds = left * section.share / sum(later.share for later in sections[i:])
        num_rows = len(read(out / FILE_NAME))
        if seconds < LEAST_SECONDS:
            _note(out, section, "not begun: no time was left")
            continue
        began = time.time()
        reason = _run(section, out, began + seconds)
        if reason is not None:
            _note(out, section, reason)
        num_rows = len(read(out / FILE_NAME)) - num_rows
        print(f"{section.name}: {num_rows} rows, {time.time() - began:.0f} of {seconds:.0f} s", flush=True)


def _run(section: Section, out: pathlib.Path, ends_at: float) -> str | None:
    """Run one section; return why it failed or was stopped, `None` if it succeeded."""
    with open(out / LOG_NAME, "a") as log:
        print(f"\n=== {section.name}", file=log, flush=True)
        begins = log.tell()
        # a process group of its own, so that what the section starts is killed with it
        process = subprocess.Popen(
            [*section.command, str(out), str(ends_at)], stdout=log, stderr=subprocess.STDOUT, process_group=0
        )
        try:
            status = process.wait(max(ends_at - time.time(), 0))
        except subprocess.TimeoutExpired:
            return "stopped: its share of the time was over"
        finally:
            _kill_group(process)
    if status == 0:
        return None
    said = (out / LOG_NAME).read_text(errors="replace")[begins:].strip().splitlines()
    return f"crashed with status {status}: {said[-1][:200] if said else 'it printed nothing'}"


def _kill_group(process: subprocess.Popen) -> None:
    """Kill the section, if it still runs, and all processes that it started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _note(out: pathlib.Path, section: Section, reason: str) -> None:
    write(out, {"section": section.name, "case": {}, "failed": reason})
    print(f"{section.name}: {reason}", file=sys.stderr)
