"""Training from scratch: a random initialisation, trained on the support of the task alone.

This is the lower bound of every comparison: MAML whose initialisation is not learned but drawn anew for each task,
φ₀ ~ init, φₜ₊₁ = φₜ − α ∇L(φₜ; support). The gain over this number is what other tasks contribute. It is the "from
scratch" row of, among others, Chen et al., "A Closer Look at Few-shot Classification", 2019, arXiv:1904.04232, and
the random initialisation of Finn, Abbeel, Levine, 2017, arXiv:1703.03400, section 5.1; it differs only in the number
of steps.
"""

from collections.abc import Callable

import jax
import optax

from ..types import Batch, Learner, LossFn, Model, PyTree, RandomKey, Task
from .maml import maml

__all__ = ["from_scratch"]


def from_scratch(
    model: Model,
    loss_fn: LossFn,
    optimizer: optax.GradientTransformation,
    *,
    num_steps: int,
    is_adapted: Callable[[str], bool] = lambda _: True,
) -> Learner:
    """Draw a random model for each task and train it on the support.

    Args:
      model: outputs one row for each example.
      loss_fn: `(outputs, batch) -> (loss, aux)`, descended on the support.
      optimizer: any optax transformation.
      num_steps: steps on the whole support, at least 0; without a learned initialisation it takes hundreds.
      is_adapted: as in `maml`; the other parameters keep their initial values.

    Returns:
      A learner whose adapted state is parameters of `model`, drawn with the key of `adapt`. Its meta-parameters are
      `{}`: there is nothing to meta-train.

    Raises:
      ValueError: if `num_steps` is negative.

    Example:
      >>> import jax, jmeta, optax
      >>> learner = from_scratch(jmeta.models.mlp([32, 5]), jmeta.losses.cross_entropy, optax.sgd(0.1), num_steps=100)
      >>> task = jmeta.tasks.gaussian_blobs(num_ways=5, num_shots=1, num_queries=3)(jax.random.key(0))
      >>> adapted = learner.adapt({}, task.support, jax.random.key(1))
      >>> loss, aux = jmeta.losses.cross_entropy(learner.predict({}, adapted, task.support.x, None), task.support)
      >>> float(aux["accuracy"])
      1.0

    Reference:
      Finn, Abbeel, Levine, "Model-Agnostic Meta-Learning for Fast Adaptation of Deep Networks", 2017,
      arXiv:1703.03400, section 5.1.
    """
    learner = maml(model, loss_fn, optimizer, num_steps=num_steps, is_adapted=is_adapted)

    def init(key: RandomKey, task: Task) -> PyTree:
        del key, task
        return {}

    def adapt(meta_params: PyTree, support: Batch, key: RandomKey) -> PyTree:
        del meta_params
        key_init, key_adapt = jax.random.split(key)
        return learner.adapt(model.init(key_init, support.x), support, key_adapt)

    return Learner(init, adapt, learner.predict)
