"""Meta-Curvature: MAML whose inner gradients are transformed by learned matrices.

An inner step is φₜ₊₁ = φₜ − α M(∇L(φₜ; support)). M multiplies the gradient of each layer by one matrix for its
outputs, one for its inputs and one for its filter: it mixes the entries of a gradient, where Meta-SGD only scales them.
The matrices start at the identity, which is MAML, and are meta-learned with the initialisation; all steps share them.

Reference: Park, Oliva, "Meta-Curvature", 2019, arXiv:1902.03356, section 3. Parameters of one axis, such as biases,
have a factor for each entry. Differs from the paper: any optax transformation may take the step.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import optax

from .. import adjoints
from ..adaptation import descend
from ..adjoints import Adjoint
from ..models import but_statistics
from ..optimizers import identity_curvature, learned_curvature
from ..params import merge, partition
from ..support import support_loss, with_support_statistics
from ..types import Aux, Batch, Learner, LossFn, Model, PyTree, RandomKey, Task

__all__ = ["meta_curvature"]


class _Context(NamedTuple):
    curvature: PyTree
    rest: PyTree  # parameters that inner steps leave unchanged
    support: Batch


def meta_curvature(
    model: Model,
    loss_fn: LossFn,
    inner_optimizer: optax.GradientTransformation,
    *,
    num_steps: int,
    adjoint: Adjoint = adjoints.unrolled(),
    is_adapted: Callable[[str], bool] = lambda _: True,
) -> Learner:
    """Learn an initialisation and the matrices that inner gradients are multiplied by.

    Args:
      model: as in `maml`; its kernels have outputs on their last axis and inputs on the one before, as Flax and Haiku
        have them. Others are transformed as well, but by matrices with another meaning.
      loss_fn, num_steps, is_adapted: as in `maml`.
      inner_optimizer: any optax transformation, which gets the transformed gradients; `optax.sgd(lr)` is the paper's.
      adjoint: how the inner loop is differentiated. With `adjoints.first_order()` the matrices still get their
        gradient, for only the inner gradients are constants.

    Returns:
      A learner with meta-parameters `{"params": ..., "curvature": ...}`, the latter as `optimizers.identity_curvature`
      builds it, whose adapted state is parameters of `model`.

    Raises:
      ValueError: if `num_steps` is negative; at trace time if no parameter is adapted.

    Example:
      >>> import jax, jmeta, optax
      >>> from jmeta import learners, losses, models
      >>> learner = learners.meta_curvature(models.mlp([40, 1]), losses.squared_error, optax.sgd(0.01), num_steps=1)
      >>> task = jmeta.tasks.sinusoid(num_shots=10, num_queries=10)(jax.random.key(0))
      >>> meta_params = learner.init(jax.random.key(1), task)
      >>> meta_params["curvature"]["params"]["head"]["kernel"]["inputs"].shape
      (40, 40)

    Reference:
      Park, Oliva, "Meta-Curvature", 2019, arXiv:1902.03356, section 3.
    """
    inner_optimizer = adjoints.checked_optimizer(inner_optimizer, "an inner optimizer")
    loss_on_support = support_loss(model, loss_fn)

    def objective(params: PyTree, context: _Context, step: Any, key: RandomKey) -> tuple[Any, Aux]:
        del step
        return loss_on_support(merge(params, context.rest), context.support, key)

    def curved(context: _Context) -> optax.GradientTransformation:
        return optax.chain(learned_curvature(context.curvature), inner_optimizer)

    inner_loop = descend(objective, curved, num_steps=num_steps, adjoint=adjoint)

    def init(key: RandomKey, task: Task) -> PyTree:
        params = model.init(key, task.support.x)
        adapted, _ = partition(params, but_statistics(is_adapted))
        return {"params": params, "curvature": identity_curvature(adapted)}

    def adapt(meta_params: PyTree, support: Batch, key: RandomKey) -> PyTree:
        key_descend, key_statistics = jax.random.split(key)
        start, rest = partition(meta_params["params"], but_statistics(is_adapted))
        adapted, _ = inner_loop(start, _Context(meta_params["curvature"], rest, support), key_descend)
        return with_support_statistics(model, merge(adapted, rest), support, key_statistics)

    def predict(meta_params: PyTree, adapted: PyTree, x: PyTree, key: RandomKey | None) -> PyTree:
        del meta_params
        return model.apply(adapted, x, key)

    return Learner(init, adapt, predict)
