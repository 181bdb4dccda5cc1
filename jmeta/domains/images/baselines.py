"""Baselines for image learners: methods that learn nothing from other tasks, evaluated on the same tasks."""

import optax

from jmeta import losses
from jmeta.learners import from_scratch, nearest_mean
from jmeta.types import Learner, Model

__all__ = ["NEAREST_MEAN", "NUM_SCRATCH_STEPS", "FROM_SCRATCH", "baselines"]

NEAREST_MEAN = "nearest mean of the inputs"
NUM_SCRATCH_STEPS = 100
FROM_SCRATCH = f"from scratch, {NUM_SCRATCH_STEPS} steps"


def baselines(classifier: Model, *, num_ways: int) -> dict[str, Learner]:
    """Return nearest mean on raw inputs, and a network trained on each support alone; neither has meta-parameters.

    Args:
      classifier: a network with `num_ways` outputs, initialised anew for each task.
      num_ways: classes of a task.

    Example:
      >>> from jmeta import models
      >>> list(baselines(models.conv4(5), num_ways=5))
      ['nearest mean of the inputs', 'from scratch, 100 steps']
    """
    scratch = from_scratch(classifier, losses.cross_entropy, optax.adam(1e-2), num_steps=NUM_SCRATCH_STEPS)
    return {NEAREST_MEAN: nearest_mean(num_ways=num_ways), FROM_SCRATCH: scratch}
