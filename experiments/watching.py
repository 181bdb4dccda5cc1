"""Memory and open files of running processes, looked at from outside (in /proc, so on Linux only)."""

import contextlib
import os
import pathlib
import statistics
import time
from typing import NamedTuple

import numpy as np

from jmeta.runs import console

SECONDS_TO_VANISH = 30.0
"""After a launcher has ended, however it did, until none of its processes may be there any more."""
LEVEL_MB_PER_MINUTE = 5.0
LEVEL_HANDLES = 2
"""Growth that is still called level: allocators and connections take a while to settle."""


class Sample(NamedTuple):
    """One look at a process."""

    seconds: float
    rss_mb: float
    handles: int


class Level(NamedTuple):
    """Memory and handles of processes, each in the second half of the time in which it trained.

    Attributes:
      num_processes: that trained long enough to be judged.
      longest: seconds.
      rss_mb: the most that any had.
      mb_per_minute: slope of a line through the memory of each; the median of all, weighted by how long they trained.
      handles: the most that any had open.
      more_handles: by how much the fewest in the last quarter of that time are more than in the one before; the most.
    """

    num_processes: int
    longest: float
    rss_mb: float
    mb_per_minute: float
    handles: int
    more_handles: int

    @classmethod
    def of(cls, lives: list[list[Sample]]) -> "Level":
        """Of the samples of each process."""
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
    """Ids of a launcher's processes by rank."""
    found = {}
    for child in (_read(pathlib.Path(f"/proc/{pid}/task/{pid}/children")) or b"").split():
        environment = (_read(pathlib.Path("/proc", child.decode(), "environ")) or b"").split(b"\0")
        ranks = [each.partition(b"=")[2] for each in environment if each.startswith(b"JMETA_PROCESS_ID=")]
        found |= {int(rank): int(child) for rank in ranks}
    return found


def look_at(pid: int) -> tuple[float, int] | None:
    """Megabytes in memory, and open file handles; nothing if it is gone."""
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
    """Return when none of them is there.

    Raises:
      StoppedError: if one is, after `SECONDS_TO_VANISH`.
    """
    until = time.monotonic() + SECONDS_TO_VANISH
    while left := [pid for pid in pids if b"\nVmRSS:" in (_read(pathlib.Path(f"/proc/{pid}/status")) or b"")]:
        if time.monotonic() > until:
            raise console.StoppedError(f"processes {left} outlive their launcher")
        time.sleep(0.05)


def seconds_of(seen: list[Sample]) -> float:
    """From the first to the last."""
    return seen[-1].seconds - seen[0].seconds if seen else 0.0
