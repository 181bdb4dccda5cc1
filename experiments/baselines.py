"""What a learner is measured against: methods that learn nothing from other tasks, judged on the same ones."""

import optax

from configs import parts
from jmeta import Learner, learners

from .build import Experiment
from .networks import Network

NEAREST_MEAN = "nearest mean of the inputs"
NUM_SCRATCH_STEPS = 100
FROM_SCRATCH = f"from scratch, {NUM_SCRATCH_STEPS} steps"


def learners_of(recipe: parts.Recipe, experiment: Experiment) -> dict[str, Learner]:
    """The baselines of a recipe by name, none of which has meta-parameters: no nearest mean where there is no class."""
    nearest = {NEAREST_MEAN: nearest_mean(experiment)} if experiment.metric == "accuracy" else {}
    return nearest | {FROM_SCRATCH: from_scratch(recipe, experiment)}


def nearest_mean(experiment: Experiment) -> Learner:
    """The nearest mean of the raw inputs."""
    return learners.nearest_mean(num_ways=experiment.source.test_ways)


def from_scratch(recipe: parts.Recipe, experiment: Experiment) -> Learner:
    """The recipe's network with a head of its own, started anew for each task and trained on its support alone."""
    model = Network(recipe.model).with_head(experiment.source.test_ways)
    return learners.from_scratch(model, experiment.loss_fn, optax.adam(1e-2), num_steps=NUM_SCRATCH_STEPS)
