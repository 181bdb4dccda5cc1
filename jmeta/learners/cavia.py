"""CAVIA, "context adaptation via meta-learning": adapt a small context vector, share the network.

Inner steps change only a vector φ that is appended to the network's input and starts at zero for every task,
φₜ₊₁ = φₜ − α ∇_φ L(f(x, φₜ; θ); support); the network θ is the same for all tasks. Adapting a few numbers is cheap,
overfits little, and the context is a readable embedding of the task.

Reference: Zintgraf, Shiarlis, Kurin, Hofmann, Whiteson, "Fast Context Adaptation via Meta-Learning", 2019,
arXiv:1810.03642, eq. 3-5. For images the context is appended as constant channels, and the network decides how to use
them: `models.conv4(num_context=...)` scales and shifts its feature maps by it, as the paper does. Differs from the
paper: there only one of the layers is modulated.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Shaped

from .. import adjoints
from ..adaptation import descend
from ..adjoints import Adjoint
from ..bounds import is_whole
from ..models.inputs import check_array
from ..support import support_loss, with_support_statistics
from ..types import Aux, Batch, Learner, LossFn, Model, PyTree, RandomKey, Task

__all__ = ["cavia"]


class _Adapted(NamedTuple):
    context: Float[Array, " num_context"]
    params: PyTree  # parameters of the shared network, with the support's statistics if it stores any


def cavia(
    model: Model,
    loss_fn: LossFn,
    inner_optimizer: optax.GradientTransformation,
    *,
    num_steps: int,
    num_context: int,
    adjoint: Adjoint = adjoints.unrolled(),
) -> Learner:
    """Learn a network that a few numbers adapt.

    Args:
      model: takes inputs with `num_context` more features, or channels, on their last axis, such as
        `models.conv4(num_ways, num_context=num_context)`.
      loss_fn, inner_optimizer, num_steps, adjoint: as in `maml`.
      num_context: length of the context vector, at least 1.

    Returns:
      A learner whose meta-parameters are parameters of `model`, and whose adapted state holds the context vector.
      Unlike `maml` it has no `is_adapted`: inner steps change the context alone, and no parameter of the network.

    Raises:
      ValueError: if `num_steps` is negative or `num_context` is not positive.

    Example:
      >>> import optax
      >>> from jmeta import learners, losses, models
      >>> model = models.mlp([40, 40, 1])
      >>> learner = learners.cavia(model, losses.squared_error, optax.sgd(1.0), num_steps=1, num_context=5)

    Reference:
      Zintgraf, Shiarlis, Kurin, Hofmann, Whiteson, "Fast Context Adaptation via Meta-Learning", 2019,
      arXiv:1810.03642, eq. 3-5.
    """
    if not is_whole(num_context):
        raise ValueError(f"num_context={num_context}; a context to adapt has at least one number")
    loss_on_support = support_loss(model, loss_fn)

    def objective(
        context: PyTree, params_and_support: tuple[PyTree, Batch], step: Any, key: RandomKey
    ) -> tuple[Any, Aux]:
        del step
        params, support = params_and_support
        return loss_on_support(params, support._replace(x=_append(support.x, context)), key)

    inner_optimizer = adjoints.checked_optimizer(inner_optimizer, "an inner optimizer")
    inner_loop = descend(objective, inner_optimizer, num_steps=num_steps, adjoint=adjoint)

    def init(key: RandomKey, task: Task) -> PyTree:
        return model.init(key, _append(task.support.x, _no_context(task.support.x)))

    def adapt(meta_params: PyTree, support: Batch, key: RandomKey) -> _Adapted:
        key_descend, key_statistics = jax.random.split(key)
        context, _ = inner_loop(_no_context(support.x), (meta_params, support), key_descend)
        appended = support._replace(x=_append(support.x, context))
        return _Adapted(context, with_support_statistics(model, meta_params, appended, key_statistics))

    def predict(meta_params: PyTree, adapted: _Adapted, x: PyTree, key: RandomKey | None) -> PyTree:
        # without stored statistics, the network's parameters are the meta-parameters themselves
        params = meta_params if model.calibrate is None else adapted.params
        return model.apply(params, _append(x, adapted.context), key)

    def _no_context(x: Shaped[Array, "examples ..."]) -> Float[Array, " num_context"]:
        check_array(x)
        return jnp.zeros(num_context, x.dtype)

    return Learner(init, adapt, predict)


def _append(x: Shaped[Array, "examples ..."], context: Shaped[Array, " num_context"]) -> Shaped[Array, "examples ..."]:
    check_array(x)
    tiled = jnp.broadcast_to(jax.lax.expand_dims(context, tuple(range(x.ndim - 1))), (*x.shape[:-1], context.shape[0]))
    return jnp.concatenate([x, tiled], axis=-1)
