"""Model-agnostic meta-learning: an initialisation from which a few gradient steps suffice.

From meta-parameters θ a task is learned by gradient descent on its support, φ₀ = θ, φₜ₊₁ = φₜ − α ∇L(φₜ; support), and
θ is trained so that L(φ_T; query) is small. The meta-gradient goes through the steps, hence second derivatives; how is
the choice of the `adjoint`.

Reference: Finn, Abbeel, Levine, "Model-Agnostic Meta-Learning for Fast Adaptation of Deep Networks", 2017,
arXiv:1703.03400, algorithm 1-2, eq. 1. Differs from the paper: any optax transformation may take the inner steps.
"""

from collections.abc import Callable
from typing import Any

import jax
import optax

from .. import adjoints
from ..adaptation import descend
from ..adjoints import Adjoint
from ..models import is_statistic
from ..params import merge, partition
from ..support import support_loss, with_support_statistics
from ..types import Aux, Batch, Learner, LossFn, Model, PyTree, RandomKey, Task


def maml(
    model: Model,
    loss_fn: LossFn,
    inner_optimizer: optax.GradientTransformation,
    *,
    num_steps: int,
    adjoint: Adjoint = adjoints.unrolled(),
    is_adapted: Callable[[str], bool] = lambda _: True,
) -> Learner:
    """Learn an initialisation; adapt by a few optimizer steps on the support.

    Args:
      model: outputs one row for each example.
      loss_fn: `(outputs, batch) -> (loss, aux)`, descended on the support.
      inner_optimizer: any optax transformation; `optax.sgd(lr)` is the paper's. One that divides by a norm or a root
        needs its `eps_root`, or an exactly zero gradient makes the meta-gradient NaN.
      num_steps: inner steps, at least 0.
      adjoint: how the inner loop is differentiated.
      is_adapted: says of a parameter's path, such as `"params/conv_0/kernel"`, whether inner steps change it; the
        others are shared by all tasks. Statistics of norm layers are never changed by gradient steps.

    Returns:
      A learner whose meta-parameters and whose adapted state are both parameters of `model`.

    Raises:
      ValueError: if `num_steps` is negative; at trace time if no parameter is adapted.

    Example:
      >>> import jax, jmeta, optax
      >>> from jmeta import learners, losses, models
      >>> learner = learners.maml(models.mlp([40, 40, 1]), losses.squared_error, optax.sgd(0.01), num_steps=1)
      >>> task = jmeta.tasks.sinusoid(num_shots=10, num_queries=10)(jax.random.key(0))
      >>> meta_params = learner.init(jax.random.key(1), task)
      >>> adapted = learner.adapt(meta_params, task.support, jax.random.key(2))
      >>> learner.predict(meta_params, adapted, task.query.x, None).shape
      (10, 1)

    Reference:
      Finn, Abbeel, Levine, "Model-Agnostic Meta-Learning for Fast Adaptation of Deep Networks", 2017,
      arXiv:1703.03400, algorithm 1-2.
    """
    inner_loop = _inner_loop(model, loss_fn, inner_optimizer, num_steps, adjoint)

    def init(key: RandomKey, task: Task) -> PyTree:
        return model.init(key, task.support.x)

    def adapt(meta_params: PyTree, support: Batch, key: RandomKey) -> PyTree:
        key_descend, key_statistics = jax.random.split(key)
        start, rest = partition(meta_params, lambda path: is_adapted(path) and not is_statistic(path))
        adapted, _ = inner_loop(start, (rest, support), key_descend)
        return with_support_statistics(model, merge(adapted, rest), support, key_statistics)

    def predict(meta_params: PyTree, adapted: PyTree, x: PyTree, key: RandomKey | None) -> PyTree:
        del meta_params
        return model.apply(adapted, x, key)

    return Learner(init, adapt, predict)


def _inner_loop(
    model: Model, loss_fn: LossFn, optimizer: optax.GradientTransformation, num_steps: int, adjoint: Adjoint
) -> adjoints.InnerLoop:
    loss_on_support = support_loss(model, loss_fn)

    def objective(adapted: PyTree, context: tuple[PyTree, Batch], step: Any, key: RandomKey) -> tuple[Any, Aux]:
        del step
        rest, support = context
        return loss_on_support(merge(adapted, rest), support, key)

    return descend(objective, optimizer, num_steps=num_steps, adjoint=adjoint)
