"""Checkpoints: the whole state of a run on disk, so that a run killed at any moment resumes as if it had never stopped.

A checkpoint is a folder `step_00000500/` with the leaves of one pytree, written by Orbax, and a `manifest.json` that
names every leaf and holds the SHA-256 of every file. A new checkpoint is read back and then appears under its name in
one rename, so it is whole or not there. It is verified before use, since a flipped bit may otherwise come back as a
wrong number, and a folder from elsewhere may be malicious: `guarded` reads every file, here and in a run's folder. This
is the last stage of the data flow: `training` knows nothing of files, and nothing here knows of training.

In a job of several processes (`jax.distributed`) every process calls `save`, `restore` and `AsyncSaver` in the same
order, with the same arguments, on a folder that they share. Each process writes the shards that it owns and reads those
that its devices need. All of them return, or all raise.
"""

from .files import DamagedCheckpointError, steps
from .guarded import RefusedFileError
from .restoring import restore, restore_part
from .saving import AsyncSaver, save

__all__ = ["DamagedCheckpointError", "steps", "RefusedFileError", "restore", "restore_part", "AsyncSaver", "save"]
