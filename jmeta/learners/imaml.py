"""iMAML: an initialisation that tasks stay close to, learned without differentiating through the steps.

Learning a task minimises its support loss with a penalty on the distance to the initialisation θ,
φ* = argmin L(φ; support) + λ/2 ‖φ − θ‖². The penalty makes φ* depend on θ however long the inner loop runs, so the
meta-gradient follows from φ* alone, by implicit differentiation: memory does not grow with the number of steps, and any
optimizer may take them.

Reference: Rajeswaran, Finn, Kakade, Levine, "Meta-Learning with Implicit Gradients", 2019, arXiv:1909.04630,
algorithm 1-2, eq. 3. Differs from the paper: any adjoint may be given, such as `adjoints.unrolled()` for comparison.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from .. import adjoints
from ..adaptation import descend
from ..adjoints import Adjoint
from ..bounds import is_real
from ..losses import checked_loss
from ..models import but_statistics
from ..params import merge, partition
from ..support import support_loss, with_support_statistics
from ..types import Aux, Batch, EpisodeFn, Learner, LossFn, Model, PyTree, RandomKey, Task

__all__ = ["imaml"]


def imaml(
    model: Model,
    loss_fn: LossFn,
    inner_optimizer: optax.GradientTransformation,
    *,
    num_steps: int,
    regularization: float = 1.0,
    adjoint: Adjoint = adjoints.implicit(),
    is_adapted: Callable[[str], bool] = lambda _: True,
) -> Learner:
    """Learn an initialisation; adapt by minimising the support loss with a penalty on the distance to it.

    Args:
      model, loss_fn: as in `maml`.
      inner_optimizer: any optax transformation.
      num_steps: inner steps; enough to come close to the minimum, or the meta-gradient is wrong. At least 2 with an
        implicit adjoint; to test with fewer, build the learner with `adjoints.unrolled()`.
      regularization: λ, positive; the larger it is, the faster steps converge and the less a task can move.
      adjoint: how the inner loop is differentiated.
      is_adapted: as in `maml`; the penalty covers the adapted parameters only.

    Returns:
      A learner whose meta-parameters and whose adapted state are both parameters of `model`. Its training episode is
      the plain one, with the certificate of `adjoints.implicit` in its `aux`. Watch `implicit_is_valid`: its mean over
      tasks is the fraction of tasks whose meta-gradient can be trusted.

    Raises:
      ValueError: if `regularization` is not positive, or `num_steps` is negative or too small for the adjoint;
        at trace time if no parameter is adapted.

    Example:
      >>> import jax, jmeta, optax
      >>> from jmeta import learners, losses, models
      >>> learner = learners.imaml(models.mlp([16, 3]), losses.cross_entropy, optax.sgd(0.2), num_steps=20)
      >>> task = jmeta.tasks.gaussian_blobs(num_ways=3, num_shots=2, num_queries=3)(jax.random.key(0))
      >>> meta_params = learner.init(jax.random.key(1), task)
      >>> adapted = jax.jit(learner.adapt)(meta_params, task.support, jax.random.key(2))
      >>> episode_fn = jax.jit(jmeta.episode(learner, losses.cross_entropy))
      >>> _, aux = episode_fn(meta_params, task, jax.random.key(3))
      >>> sorted(name for name in aux if name.startswith("implicit"))[:2]
      ['implicit_distance', 'implicit_is_valid']

    Reference:
      Rajeswaran et al., 2019, arXiv:1909.04630, algorithm 1-2.
    """
    inner_optimizer = adjoints.checked_optimizer(inner_optimizer, "an inner optimizer")
    adapt_with_aux = _adaptation(model, loss_fn, inner_optimizer, num_steps, regularization, adjoint, is_adapted)

    def init(key: RandomKey, task: Task) -> PyTree:
        return model.init(key, task.support.x)

    def adapt(meta_params: PyTree, support: Batch, key: RandomKey) -> PyTree:
        return adapt_with_aux(meta_params, support, key)[0]

    def predict(meta_params: PyTree, adapted: PyTree, x: PyTree, key: RandomKey | None) -> PyTree:
        del meta_params
        return model.apply(adapted, x, key)

    def episode(outer_loss: LossFn) -> EpisodeFn:
        def episode_fn(meta_params: PyTree, task: Task, key: RandomKey) -> tuple[Any, Aux]:
            key_adapt, key_predict = jax.random.split(key)
            adapted, inner_aux = adapt_with_aux(meta_params, task.support, key_adapt)
            outputs = predict(meta_params, adapted, task.query.x, key_predict)
            loss, aux = checked_loss(outer_loss(outputs, task.query), "what loss_fn returns")
            certificate = {name: value for name, value in inner_aux.items() if name.startswith("implicit_")}
            return loss, {**aux, **certificate}

        return episode_fn

    return Learner(init, adapt, predict, episode)


def _adaptation(
    model: Model,
    loss_fn: LossFn,
    optimizer: optax.GradientTransformation,
    num_steps: int,
    regularization: float,
    adjoint: Adjoint,
    is_adapted: Callable[[str], bool],
) -> Callable[[PyTree, Batch, RandomKey], tuple[PyTree, Aux]]:
    if not is_real(regularization, above=0):
        raise ValueError(f"regularization={regularization}; expected a positive weight of the tie to the start")
    loss_on_support = support_loss(model, loss_fn)

    def objective(params: PyTree, context: tuple[PyTree, PyTree, Batch], step: Any, key: RandomKey) -> tuple[Any, Aux]:
        del step
        centre, rest, support = context
        loss, aux = loss_on_support(merge(params, rest), support, key)
        away = optax.tree.norm(jax.tree.map(jnp.subtract, params, centre), squared=True)
        return loss + 0.5 * regularization * away, aux

    inner_loop = descend(objective, optimizer, num_steps=num_steps, adjoint=adjoint)

    def adapt_with_aux(meta_params: PyTree, support: Batch, key: RandomKey) -> tuple[PyTree, Aux]:
        key_descend, key_statistics = jax.random.split(key)
        start, rest = partition(meta_params, but_statistics(is_adapted))
        params, aux = inner_loop(start, (start, rest, support), key_descend)
        return with_support_statistics(model, merge(params, rest), support, key_statistics), aux

    return adapt_with_aux
