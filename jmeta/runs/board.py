"""The TensorBoard file of a run, written by the thread that logs.

tensorboardX writes in a thread of its own. When the clock is set back, or the disk is full, that thread dies, and the
next call that logs waits forever for room in its queue. It also opens a file whose name can be guessed, whatever lies
there. So this module takes only the format from tensorboardX: one record per event, with its length and two checksums.
"""

import importlib
import os
import pathlib
import secrets
import socket
import struct
import time
from typing import Any

from ..checkpoints.guarded import open_file

__all__ = ["Board"]


class Board:
    """Appender of scalars and texts to a new file in a folder, which is created if it is missing.

    Args:
      folder: where TensorBoard looks.
      first_step: the first step of this session; TensorBoard hides what an earlier session wrote from this step on.
    """

    def __init__(self, folder: pathlib.Path, first_step: int) -> None:
        from tensorboardX import record_writer, summary  # imported when used: they import PyTorch where it is installed

        event_pb2: Any = importlib.import_module("tensorboardX.proto.event_pb2")
        self._checksum, self._summary, self._event = record_writer.masked_crc32c, summary, event_pb2.Event
        folder.mkdir(exist_ok=True)
        name = f"events.out.tfevents.{int(time.time()):010d}.{socket.gethostname()}.{secrets.token_hex(4)}"
        self._file = open_file(folder / name, "xb")
        self._write(self._event(file_version="brain.Event:2"))
        start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
        self._write(self._event(step=first_step, session_log=start))

    def add_scalar(self, name: str, value: float, step: int) -> None:
        """Write one point of a curve; a number too large for 32 bits is left out."""
        if abs(value) < 3.4e38:
            self._write(self._event(step=step, summary=self._summary.scalar(name, value)))

    def add_text(self, name: str, text: str, step: int) -> None:
        """Write a text."""
        self._write(self._event(step=step, summary=self._summary.text(name, text)))

    def to_disk(self) -> None:
        """Return when everything is on disk."""
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Write the rest and close the file."""
        self._file.close()

    def _write(self, event: Any) -> None:
        event.wall_time = time.time()
        content = event.SerializeToString()
        length = struct.pack("<Q", len(content))
        for part in (length, content):
            self._file.write(part + struct.pack("<I", self._checksum(part)))
