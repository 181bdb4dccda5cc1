"""A model on a task's support: blank padding, set the norm layers' statistics, compute the inner loop's loss."""

from collections.abc import Callable
from typing import Any

from .losses import without_padding
from .models.chain import apply_and_calibrate
from .types import Aux, Batch, LossFn, Model, PyTree, RandomKey

__all__ = ["apply_to_support", "with_support_statistics", "support_loss"]


def apply_to_support(model: Model, params: PyTree, support: Batch, key: RandomKey | None) -> tuple[PyTree, PyTree]:
    """Return `(outputs, params)` of a model on a support; if the model stores statistics, `params` hold the support's.

    Learners call this wherever they apply a model to the support. The model sees padding as zeros, so the values in
    the padding, even NaN, change nothing; but statistics over examples still include those zeros.

    Example:
      >>> import jax, jax.numpy as jnp, jmeta
      >>> model = jmeta.models.mlp([2])
      >>> support = jmeta.Batch(jnp.ones((3, 4)), jnp.zeros(3, int), mask=jnp.array([True, True, False]))
      >>> params = model.init(jax.random.key(0), support.x)
      >>> outputs, params = apply_to_support(model, params, support, None)
      >>> outputs.shape, bool((outputs[2] == params["params"]["head"]["bias"]).all())
      ((3, 2), True)
    """
    return apply_and_calibrate(model, params, without_padding(support).x, key)


def with_support_statistics(model: Model, params: PyTree, support: Batch, key: RandomKey | None) -> PyTree:
    """Return `params` with the norm layers' statistics set to the support's, if the model stores any.

    Example:
      >>> import jax, jax.numpy as jnp, jmeta
      >>> model = jmeta.models.conv4(None, num_filters=4, norm="support")
      >>> support = jmeta.Batch(jax.random.normal(jax.random.key(0), (3, 28, 28, 1)), jnp.arange(3))
      >>> params = jax.jit(model.init)(jax.random.key(1), support.x)
      >>> adapted = with_support_statistics(model, params, support, None)
      >>> bool((adapted["stats"]["norm_0"]["mean"] == params["stats"]["norm_0"]["mean"]).all())
      False
    """
    return params if model.calibrate is None else apply_to_support(model, params, support, key)[1]


def support_loss(model: Model, loss_fn: LossFn) -> Callable[[PyTree, Batch, RandomKey | None], tuple[Any, Aux]]:
    """Build the objective `(params, support, key) -> (loss, aux)` that the inner loop of most learners descends.

    Example:
      >>> import jax, jax.numpy as jnp, jmeta
      >>> model = jmeta.models.mlp([1])
      >>> support = jmeta.Batch(jnp.ones((3, 4)), jnp.ones((3, 1)))
      >>> params = jax.tree.map(jnp.zeros_like, model.init(jax.random.key(0), support.x))
      >>> loss, aux = support_loss(model, jmeta.losses.squared_error)(params, support, None)
      >>> float(loss)
      1.0
    """

    def loss_on_support(params: PyTree, support: Batch, key: RandomKey | None) -> tuple[Any, Aux]:
        outputs, _ = apply_to_support(model, params, support, key)
        return loss_fn(outputs, support)

    return loss_on_support
