"""Normalisation as a named policy, never as hidden state, and the names by which learners find its parameters.

`conv4` and `resnet12` are built from `Norm`. A norm layer stores ordinary leaves under `stats/`, filled by the model's
`calibrate`. The policy chooses which statistics normalise the query, so every evaluation can state it:

| policy | statistics | a prediction depends on |
|---|---|---|
| `"batch"` | the examples of the call | the other queries: transductive |
| `"support"` | stored by `calibrate`; differentiable | the support only |
| `"group"` | one example, over groups of up to 16 channels | that example |
| `"layer"` | one example, over all its channels | that example |
| `"none"` | | that example |

The per-step norm parameters of MAML++ are not a policy of the model: the learner holds one copy of every leaf that
`is_norm` selects for each inner step.
"""

import math
import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax
from jaxtyping import Array, Float

from ..types import Model, PyTree, RandomKey
from .inputs import check_array, of_init

__all__ = [
    "POLICIES",
    "is_norm",
    "is_head",
    "is_statistic",
    "but_statistics",
    "frozen",
    "Norm",
    "check_policy",
    "as_model",
]

POLICIES = ("batch", "support", "group", "layer", "none")

_NORM_NAME = re.compile(r"norm|(?<![a-z])bn(?![a-z])")
_HEAD_NAME = re.compile(r"(?<![a-z])(head|classifier|logits|readout)(?![a-z])")
_STATISTICS = ("stats", "batch_stats")


def is_norm(path: str) -> bool:
    """Return whether a leaf, named by its path, is a learned parameter (scale, bias) of a norm layer.

    It recognises the usual names of layers (`norm_0`, `BatchNorm_1`, `bn2`, `layer_norm`) in any part of the path.

    Example:
      >>> is_norm("params/norm_0/scale"), is_norm("params/conv_0/kernel"), is_norm("stats/norm_0/mean")
      (True, False, False)
    """
    return not is_statistic(path) and bool(_NORM_NAME.search(path.lower()))


def is_head(path: str) -> bool:
    """Return whether a leaf, named by its path, is of the output layer: `head`, `classifier`, `logits` or `readout`.

    Example:
      >>> is_head("params/head/kernel"), is_head("params/conv_0/kernel")
      (True, False)
    """
    return bool(_HEAD_NAME.search(path.lower()))


def is_statistic(path: str) -> bool:
    """Return whether a leaf, named by its path, is a stored statistic (or other state), which no gradient step changes.

    Example:
      >>> is_statistic("stats/norm_0/mean"), is_statistic("params/norm_0/scale")
      (True, False)
    """
    return any(part in _STATISTICS for part in path.split("/"))


def but_statistics(is_adapted: Callable[[str], bool]) -> Callable[[str], bool]:
    """Select the same leaves by their paths, but no stored statistics: leaves that gradient steps may change.

    Example:
      >>> selects = but_statistics(lambda path: "norm" in path)
      >>> selects("params/norm_0/scale"), selects("stats/norm_0/mean"), selects("params/head/bias")
      (True, False, False)
    """
    return lambda path: is_adapted(path) and not is_statistic(path)


def frozen(model: Model) -> Model:
    """Freeze a model's statistics: `calibrate` is `None`, and no gradient flows into them.

    Fill the statistics once, from many examples of meta_train, and evaluate with them fixed. Running averages
    approximate this:

    >>> import jax, jax.numpy as jnp
    >>> from jmeta import models
    >>> model = models.conv4(5, num_filters=4, norm="support")
    >>> many_images = jax.random.uniform(jax.random.key(0), (8, 16, 16, 1))
    >>> params = jax.jit(model.init)(jax.random.key(1), many_images)
    >>> _, params = model.calibrate(params, many_images, None)
    >>> models.frozen(model).calibrate is None
    True
    """

    def apply(params: PyTree, x: PyTree, key: RandomKey | None) -> PyTree:
        return model.apply(jax.tree_util.tree_map_with_path(_stopped_if_statistic, params), x, key)

    return Model(model.init, apply)


def _stopped_if_statistic(path: tuple[Any, ...], leaf: Array) -> Array:
    name = jax.tree_util.keystr(path, simple=True, separator="/")
    return lax.stop_gradient(leaf) if is_statistic(name) else leaf


class Norm(nn.Module):
    """A norm layer with a stated policy, and with a learned scale and bias for each channel.

    Statistics are computed in float32 at least, whatever the dtype of the activations.

    Attributes:
      policy: see the table of this module.
      epsilon: added to the variance.
    """

    policy: str
    epsilon: float = 1e-3

    def __call__(self, x: Float[Array, "examples height width channels"], *, calibrating: bool) -> Array:
        if self.policy == "none":
            return x
        wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        factor, shift = self.affine(x.shape[-1], lambda: self._moments(wide), calibrating=calibrating)
        return (wide * factor + shift).astype(x.dtype)

    @nn.compact
    def affine(
        self, channels: int, moments: Callable[[], tuple[Array, Array]], *, calibrating: bool
    ) -> tuple[Float[Array, "#examples 1 1 channels"], Float[Array, "#examples 1 1 channels"]]:
        """Return the factor and the shift that normalise, for activations that need not be at hand.

        Not (x - mean) * factor + bias, whose difference XLA would keep as well as x: as accurate, for half the memory.

        Args:
          channels: number of channels of the activations.
          moments: computes their mean and biased variance, `[examples or 1, 1, 1, channels]`; called only if the policy
            needs them now.
          calibrating: whether to store them, with the policy `"support"`.
        """
        scale = self.param("scale", nn.initializers.ones, (channels,))
        bias = self.param("bias", nn.initializers.zeros, (channels,))
        mean, variance = self._stored(channels, moments, calibrating) if self.policy == "support" else moments()
        factor = lax.rsqrt(variance + self.epsilon) * _row(scale)
        return factor, _row(bias) - mean * factor

    def _moments(self, x: Array) -> tuple[Array, Array]:
        if self.policy in ("group", "layer"):
            return _group_moments(x, math.gcd(x.shape[-1], 16) if self.policy == "group" else x.shape[-1])
        return _moments(x, (0, 1, 2))

    def _stored(
        self, channels: int, moments: Callable[[], tuple[Array, Array]], calibrating: bool
    ) -> tuple[Array, Array]:
        stored_mean = self.variable("stats", "mean", jnp.zeros, (channels,))
        stored_variance = self.variable("stats", "var", jnp.ones, (channels,))
        if not calibrating:
            return _row(stored_mean.value), _row(stored_variance.value)
        mean, variance = moments()
        stored_mean.value = mean.reshape(-1).astype(stored_mean.value.dtype)
        stored_variance.value = variance.reshape(-1).astype(stored_variance.value.dtype)
        return mean, variance


def check_policy(norm: str) -> None:
    """Raise `ValueError` if `norm` is not a policy."""
    if norm not in POLICIES:
        raise ValueError(f"norm={norm!r}; expected one of {', '.join(map(repr, POLICIES))}")


def as_model(network: nn.Module, *, stores_statistics: bool) -> Model:
    """Build the model of one of our networks, which is called as `network(x, deterministic=..., calibrating=...)`."""

    def init(key: RandomKey, x: PyTree) -> PyTree:
        check_array(x)
        return network.init(key, x, deterministic=True, calibrating=False)

    def apply(params: PyTree, x: PyTree, key: RandomKey | None) -> Any:
        check_array(x)
        with of_init(x):
            return network.apply(params, x, deterministic=key is None, calibrating=False, rngs=_dropout(key))

    def calibrate(params: PyTree, x: PyTree, key: RandomKey | None) -> tuple[Any, PyTree]:
        check_array(x)
        with of_init(x):
            outputs, stored = network.apply(
                params, x, deterministic=key is None, calibrating=True, rngs=_dropout(key), mutable=["stats"]
            )
        return outputs, {**params, **stored}

    return Model(init, apply, calibrate if stores_statistics else None)


def _dropout(key: RandomKey | None) -> dict[str, RandomKey] | None:
    return None if key is None else {"dropout": key}


def _moments(x: Array, axes: tuple[int, ...]) -> tuple[Array, Array]:
    """Return mean and biased variance, in two passes: the one-pass form cancels where the mean is large."""
    mean = x.mean(axes, keepdims=True)
    return mean, jnp.square(x - mean).mean(axes, keepdims=True)


def _group_moments(x: Array, size: int) -> tuple[Array, Array]:
    """Compute `_moments` of each example over groups of `size` channels, repeated for each channel.

    Sum over pixels first, then over channels: a sum over both at once takes a CPU twice the time, forwards and
    backwards.
    """

    def mean_of_groups(values: Array) -> Array:
        means = values.mean((1, 2), keepdims=True)
        return jnp.repeat(means.reshape(*means.shape[:3], -1, size).mean(-1), size, axis=-1)

    mean = mean_of_groups(x)
    return mean, mean_of_groups(jnp.square(x - mean))


def _row(values: Array) -> Array:
    return values.reshape(1, 1, 1, -1)
