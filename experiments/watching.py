"""Memory and open files of running processes, sampled from outside (in /proc, so on Linux only)."""

import contextlib
import os
import pathlib
import statistics
import time
from typing import NamedTuple

import numpy as np

from jmeta.runs import console

SECONDS_TO_VANISH = 30.0
"""Time after a launcher's end, of whatever kind, in which all of its processes must vanish."""
LEVEL_MB_PER_MINUTE = 5.0
LEVEL_HANDLES = 2
"""Largest growth that counts as level: allocators and connections take a while to settle."""


class Sample(NamedTuple):
    """One sample of a process."""

    seconds: float
    rss_mb: float
    handles: int


class Level(NamedTuple):
    """Memory and handles of several processes, each in the second half of its training.

    Attributes:
      num_processes: number of processes that trained long enough to be judged.
      longest: longest training, in seconds.
      rss_mb: largest memory of any process, in MB.
      mb_per_minute: slope of a line fitted to the memory of each; the median of all, weighted by their training time.
      handles: largest number of open handles of any process.
      more_handles: growth of the smallest number of handles from the third to the fourth quarter of the training; the
        largest of all processes.
    """

    num_processes: int
    longest: float
    rss_mb: float
    mb_per_minute: float
    handles: int
    more_handles: int

    @classmethod
    def of(cls, lives: list[list[Sample]]) -> "Level":
        """Compute the level from the samples of each process."""
        weighted, more = [], []
        for seen in lives:
            late = seen[len(seen) // 2 :]
            slope = np.polyfit([each.seconds for each in late], [each.rss_mb for each in late], 1)[0]
            weighted += [60 * float(slope)] * round(seconds_of(late))
            third, fourth = late[: len(late) // 2], late[len(late) // 2 :]
            more.append(min(each.handles for each in fourth) - min(each.handles for each in third))
        return cls(
            num_processes=len(lives),
            longest=max(map(seconds_of, lives)),
            rss_mb=max(each.rss_mb for seen in lives for each in seen),
            mb_per_minute=statistics.median(weighted),
            handles=max(each.handles for seen in lives for each in seen),
            more_handles=max(more),
        )

    @property
    def is_level(self) -> bool:
        return self.mb_per_minute <= LEVEL_MB_PER_MINUTE and self.more_handles <= LEVEL_HANDLES


def children_of(pid: int) -> dict[int, int]:
    """Return the ids of a launcher's processes, by rank."""
    found = {}
    for child in (_read(pathlib.Path(f"/proc/{pid}/task/{pid}/children")) or b"").split():
        environment = (_read(pathlib.Path("/proc", child.decode(), "environ")) or b"").split(b"\0")
        ranks = [each.partition(b"=")[2] for each in environment if each.startswith(b"JMETA_PROCESS_ID=")]
        found |= {int(rank): int(child) for rank in ranks}
    return found


def look_at(pid: int) -> tuple[float, int] | None:
    """Return a process's megabytes in memory and its number of open file handles; `None` if it is gone."""
    status = _read(pathlib.Path(f"/proc/{pid}/status")) or b""
    lines = [line.split() for line in status.splitlines() if line.startswith(b"VmRSS:")]
    try:
        return int(lines[0][1]) / 1024, len(os.listdir(f"/proc/{pid}/fd"))
    except (IndexError, OSError):
        return None


def _read(path: pathlib.Path) -> bytes | None:
    with contextlib.suppress(OSError):
        return path.read_bytes()
    return None


def wait_until_gone(pids: set[int]) -> None:
    """Wait until none of the processes exists.

    Raises:
      StoppedError: if one still does after `SECONDS_TO_VANISH`.
    """
    until = time.monotonic() + SECONDS_TO_VANISH
    while left := [pid for pid in pids if b"\nVmRSS:" in (_read(pathlib.Path(f"/proc/{pid}/status")) or b"")]:
        if time.monotonic() > until:
            raise console.StoppedError(f"processes {left} outlive their launcher")
        time.sleep(0.05)


def seconds_of(seen: list[Sample]) -> float:
    """Return the seconds from the first sample to the last."""
    return seen[-1].seconds - seen[0].seconds if seen else 0.0
