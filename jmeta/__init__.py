"""jmeta: meta-learning in JAX, every method a transformation of one pure episode function.

    tasks ──► episode ──► adaptation ──► meta-gradient ──► meta-optimizer ──► training loop ──► evaluation

A *learner* (`jmeta.learners`) is three pure functions: `init`, `adapt`, `predict`, and where a method is trained on
more than the loss of its predictions, a fourth, `episode`. `jmeta.plain_episode(learner, loss_fn)` is one pass, adapt
to a task and be judged on it; `jmeta.episode(learner, loss_fn)` is the pass that trains the learner, the same one
unless the method has its own. `jax.value_and_grad(episode_fn, has_aux=True)` is its meta-gradient; `jmeta.over_tasks`
averages either over a batch of tasks; `jmeta.meta_trainer` makes meta-steps of it and `jmeta.evaluate` reports accuracy
with an interval. Inner loops are `jmeta.adaptation.descend`, and how they are differentiated is an `adjoint`. Samplers
are in `jmeta.tasks`, networks in `jmeta.models`.

What one field needs is a domain, imported by name: `from jmeta.domains import images, rl`. `jmeta.checkpoints` and
`jmeta.testing` are imported by name, too, since they bring Orbax and chex with them.
"""

from . import (
    adaptation,
    adjoints,
    autotune,
    batching,
    calibration,
    deciding,
    distributions,
    estimators,
    evaluation,
    inductive,
    learners,
    losses,
    models,
    optimizers,
    params,
    sharding,
    tasks,
    training,
)
from .batching import over_tasks
from .episodes import episode, plain_episode
from .evaluation import evaluate
from .training import meta_trainer
from .types import Batch, Learner, Model, Task

__version__ = "0.1.0"

__all__ = [
    "Batch",
    "Task",
    "Model",
    "Learner",
    "episode",
    "plain_episode",
    "over_tasks",
    "meta_trainer",
    "evaluate",
    "params",
    "optimizers",
    "adaptation",
    "adjoints",
    "batching",
    "estimators",
    "learners",
    "losses",
    "distributions",
    "calibration",
    "deciding",
    "models",
    "tasks",
    "training",
    "evaluation",
    "inductive",
    "autotune",
    "sharding",
]
