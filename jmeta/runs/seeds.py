"""Results over the seeds of one recipe: means with 95 % intervals over seeds, kept in `over_seeds.json`.

The file is in the folder that holds the seeds' folders. It has one entry for the score that selected the models and one
for each tested protocol, named by split and protocol. A seed counts as one value, whatever number of tasks it was
measured on.
"""

import math
import pathlib
from collections.abc import Mapping

import numpy as np

from ..evaluation import Estimate, estimate
from . import files

__all__ = ["FILE", "store", "over"]

FILE = "over_seeds.json"


def store(folder: pathlib.Path, entry: str, measured: Mapping[str, Mapping[str, float]]) -> dict[str, Estimate]:
    """Write an entry of the folder's `over_seeds.json`, replacing an earlier one of that name.

    Args:
      folder: the folder that holds the seeds' folders.
      entry: name of the measured quantity: split and protocol.
      measured: for each metric, the value of each seed by the name of its folder; at least two seeds.

    Returns:
      The estimates by metric. A metric with a value that is not finite is left out, here and in the file: leaving out
      the seed alone would make the others look better.

    Example:
      >>> import tempfile
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     found = store(pathlib.Path(folder), "meta_valid | blobs", {"accuracy": {"seed_0": 0.75, "seed_1": 0.25}})
      >>> print(found["accuracy"])
      0.5000 ± 3.1766
    """
    estimates = over(measured)
    kept = {
        metric: {"mean": found.mean, "half_width": found.half_width, "seeds": dict(measured[metric])}
        for metric, found in estimates.items()
    }
    files.add_to_json(folder / FILE, {entry: kept})
    return estimates


def over(measured: Mapping[str, Mapping[str, float]]) -> dict[str, Estimate]:
    """Return the estimates that `store` keeps, from the same argument."""
    finite = {metric: seeds for metric, seeds in measured.items() if all(map(math.isfinite, seeds.values()))}
    return {metric: estimate(np.array(list(seeds.values()), np.float64)) for metric, seeds in finite.items()}
