"""Checkpoints: the whole state of a run on disk, so that a run killed at any moment goes on as if it never stopped.

A checkpoint is a folder `step_00000500/` with the leaves of one pytree, written by Orbax, and a `manifest.json` that
names every leaf and carries the SHA-256 of every file. It is read back, and appears under its name in one rename, so it
is whole or is not there; and it is verified before it is used, since a flipped bit may otherwise come back as a wrong
number, and a folder from elsewhere may be made to do harm: every file is read through `guarded`, which serves all that
reads a run's folder. This is the last stop of the data flow: `training` knows
nothing of files, and nothing here knows of training.

In a job of several processes (`jax.distributed`) every process calls `save`, `restore` and `AsyncSaver` alike, in the
same order, with the same arguments, on a folder that they share: each writes the shards that it owns and reads those
that its devices need, and all return, or all raise.
"""

from .files import DamagedCheckpointError, steps
from .guarded import RefusedFileError
from .restoring import restore, restore_part
from .saving import AsyncSaver, save

__all__ = ["DamagedCheckpointError", "steps", "RefusedFileError", "restore", "restore_part", "AsyncSaver", "save"]
