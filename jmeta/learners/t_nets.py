"""T-nets: MAML through linear maps that the inner loop does not change; MT-nets also choose what it may change.

A learned square matrix T follows every layer, y = T (W x + b). Inner steps adapt W and b to a task; all tasks share T.
A step on W moves the layer along T Tᵀ times the negative gradient, so T is a metric in which tasks are learned. An
MT-net adds a binary mask m ~ Bernoulli(σ(ζ)) over the outputs of a layer, drawn once for every task, and steps by
−α m ⊙ ∇L: a task adapts only a learned subspace.

Reference: Lee, Choi, "Gradient-Based Meta-Learning with Learned Layerwise Metric and Subspace", 2018, arXiv:1801.05558,
section 3, algorithm 1-2. T starts at the identity, where a T-net is MAML. Masks are drawn by Gumbel's softmax, hard,
and differentiated as if they were soft. Differs from the paper: T is multiplied into the layer's parameters, which is
the same function, so that any network can be a T-net.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from .. import adjoints
from ..adaptation import descend
from ..adjoints import Adjoint
from ..models import but_statistics
from ..params import merge, partition, path_name
from ..support import support_loss, with_support_statistics
from ..types import Aux, Batch, Learner, LossFn, Model, PyTree, RandomKey, Task

__all__ = ["t_net", "mt_net"]

_Maps = dict[str, Array]  # one array for each layer, by its path


class _Context(NamedTuple):
    maps: _Maps
    masks: _Maps  # of outputs; empty in a T-net
    rest: PyTree  # parameters that inner steps leave unchanged
    support: Batch


def t_net(
    model: Model,
    loss_fn: LossFn,
    inner_optimizer: optax.GradientTransformation,
    *,
    num_steps: int,
    adjoint: Adjoint = adjoints.unrolled(),
    is_adapted: Callable[[str], bool] = lambda _: True,
) -> Learner:
    """Learn an initialisation, and a linear map after every layer that inner steps go through.

    Args:
      model: as in `maml`. A layer is a group of parameters with a kernel, whose last axis are its outputs, as in Flax
        and Haiku; norm layers have no kernel, hence no map.
      loss_fn, inner_optimizer, num_steps, adjoint, is_adapted: as in `maml`. Layers of which nothing is adapted have no
        map.

    Returns:
      A learner with meta-parameters `{"params": ..., "maps": {path of a layer: [outputs, outputs]}}`, whose adapted
      state is parameters of `model` with the maps multiplied into them.

    Raises:
      ValueError: if `num_steps` is negative; at trace time if no parameter is adapted, or the parameters of a layer
        have last axes of different sizes.

    Example:
      >>> import jax, jmeta, optax
      >>> from jmeta import learners, losses, models
      >>> learner = learners.t_net(models.mlp([40, 1]), losses.squared_error, optax.sgd(0.01), num_steps=1)
      >>> task = jmeta.tasks.sinusoid(num_shots=10, num_queries=10)(jax.random.key(0))
      >>> meta_params = learner.init(jax.random.key(1), task)
      >>> {layer: map.shape for layer, map in meta_params["maps"].items()}
      {'params/head': (1, 1), 'params/hidden_0': (40, 40)}

    Reference:
      Lee, Choi, "Gradient-Based Meta-Learning with Learned Layerwise Metric and Subspace", 2018, arXiv:1801.05558,
      section 3.1.
    """
    return _net(model, loss_fn, inner_optimizer, num_steps, adjoint, is_adapted, None)


def mt_net(
    model: Model,
    loss_fn: LossFn,
    inner_optimizer: optax.GradientTransformation,
    *,
    num_steps: int,
    temperature: float = 1.0,
    initial_logit: float = 0.0,
    adjoint: Adjoint = adjoints.unrolled(),
    is_adapted: Callable[[str], bool] = lambda _: True,
) -> Learner:
    """Build a T-net that also learns which outputs of a layer a task may change.

    Adaptation draws the masks from its key, so two keys adapt differently; `ensembled` averages over draws.

    Args:
      model, loss_fn, inner_optimizer, num_steps, adjoint, is_adapted: as in `t_net`.
      temperature: of the softmax that stands for a mask in the derivative, positive.
      initial_logit: initial ζ of every output; 0 is an even chance, a large number is `t_net`.

    Returns:
      A learner as `t_net`, with `"mask_logits"`, `{path of a layer: [outputs]}`, among its meta-parameters.

    Raises:
      ValueError: as `t_net`, or if `temperature` is not positive.

    Example:
      >>> import optax
      >>> from jmeta import learners, losses, models
      >>> learner = learners.mt_net(models.mlp([40, 5]), losses.cross_entropy, optax.sgd(0.1), num_steps=1)

    Reference:
      Lee, Choi, 2018, arXiv:1801.05558, section 3.2, algorithm 2.
    """
    if not temperature > 0:
        raise ValueError(f"temperature={temperature}; expected a positive number")
    return _net(
        model, loss_fn, inner_optimizer, num_steps, adjoint, is_adapted, _Masks(float(temperature), initial_logit)
    )


class _Masks(NamedTuple):
    temperature: float
    initial_logit: float


def _net(
    model: Model,
    loss_fn: LossFn,
    inner_optimizer: optax.GradientTransformation,
    num_steps: int,
    adjoint: Adjoint,
    is_adapted: Callable[[str], bool],
    masks: _Masks | None,
) -> Learner:
    inner_optimizer = adjoints.checked_optimizer(inner_optimizer, "an inner optimizer")
    loss_on_support = support_loss(model, loss_fn)

    def objective(params: PyTree, context: _Context, step: Any, key: RandomKey) -> tuple[Any, Aux]:
        del step
        return loss_on_support(_mapped(merge(params, context.rest), context.maps), context.support, key)

    def masked(context: _Context) -> optax.GradientTransformation:
        return optax.chain(_masking(context.masks), inner_optimizer)

    inner_loop = descend(objective, masked, num_steps=num_steps, adjoint=adjoint)

    def init(key: RandomKey, task: Task) -> PyTree:
        params = model.init(key, task.support.x)
        adapted, _ = partition(params, but_statistics(is_adapted))
        outputs = _outputs_of_layers(params, adapted)
        meta_params = {
            "params": params,
            "maps": {layer: jnp.eye(leaf.size, dtype=leaf.dtype) for layer, leaf in outputs.items()},
        }
        if masks is None:
            return meta_params
        return meta_params | {
            "mask_logits": {layer: jnp.full_like(leaf, masks.initial_logit) for layer, leaf in outputs.items()}
        }

    def adapt(meta_params: PyTree, support: Batch, key: RandomKey) -> PyTree:
        key_masks, key_descend, key_statistics = jax.random.split(key, 3)
        start, rest = partition(meta_params["params"], but_statistics(is_adapted))
        drawn = {} if masks is None else _drawn(meta_params["mask_logits"], masks.temperature, key_masks)
        adapted, _ = inner_loop(start, _Context(meta_params["maps"], drawn, rest, support), key_descend)
        mapped = _mapped(merge(adapted, rest), meta_params["maps"])
        return with_support_statistics(model, mapped, support, key_statistics)

    def predict(meta_params: PyTree, adapted: PyTree, x: PyTree, key: RandomKey | None) -> PyTree:
        del meta_params
        return model.apply(adapted, x, key)

    return Learner(init, adapt, predict)


def _layer(path: tuple[Any, ...]) -> str:
    return path_name(path[:-1])


def _outputs_of_layers(params: PyTree, adapted: PyTree) -> dict[str, Float[Array, " outputs"]]:
    """Return zeros of each layer's outputs, for layers with a kernel and with an adapted leaf."""
    chosen = {_layer(path) for path, _ in jax.tree_util.tree_leaves_with_path(adapted)}
    of_layers: dict[str, list[Array]] = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        if _layer(path) in chosen:
            of_layers.setdefault(_layer(path), []).append(leaf)
    with_kernels = {layer: leaves for layer, leaves in of_layers.items() if any(leaf.ndim > 1 for leaf in leaves)}
    for layer, leaves in with_kernels.items():
        if len({leaf.shape[-1:] for leaf in leaves}) > 1:
            raise ValueError(
                f"the parameters of layer {layer!r} have shapes {[leaf.shape for leaf in leaves]}; a linear map after "
                "a layer needs one size of its outputs, on the last axis of its kernel and bias"
            )
    return {layer: jnp.zeros(leaves[0].shape[-1], jnp.result_type(*leaves)) for layer, leaves in with_kernels.items()}


def _mapped(params: PyTree, maps: _Maps) -> PyTree:
    """Return the parameters of the network with the linear maps: T (W x + b) = (T W) x + T b."""

    def mapped(path: tuple[Any, ...], leaf: Array) -> Array:
        matrix = maps.get(_layer(path))
        return leaf if matrix is None else jnp.matmul(leaf, matrix, precision="highest")

    return jax.tree_util.tree_map_with_path(mapped, params)


def _masking(masks: _Maps) -> optax.GradientTransformation:
    """Return gradients times the mask of their layer's outputs, if it has one."""

    def masked_leaf(path: tuple[Any, ...], grad: Array) -> Array:
        mask = masks.get(_layer(path))
        return grad if mask is None else grad * jnp.broadcast_to(mask, grad.shape)

    def masked(grads: PyTree, params: PyTree) -> PyTree:
        del params
        return jax.tree_util.tree_map_with_path(masked_leaf, grads)

    return optax.stateless(masked)


def _drawn(logits: _Maps, temperature: float, key: RandomKey) -> _Maps:
    """Return masks of zeros and ones, with the derivative of σ((ζ + logistic noise) / temperature)."""
    keys = dict(zip(logits, jax.random.split(key, len(logits)), strict=True))

    def mask(logit: Float[Array, " outputs"], key: RandomKey) -> Float[Array, " outputs"]:
        soft = jax.nn.sigmoid((logit + jax.random.logistic(key, logit.shape, logit.dtype)) / temperature)
        hard = (soft > 0.5).astype(soft.dtype)
        return soft + jax.lax.stop_gradient(hard - soft)

    return {layer: mask(logit, keys[layer]) for layer, logit in logits.items()}
