"""Predictive distributions over numbers, as pytrees: what a learner's `predict` returns when it is not sure.

A distribution has `log_prob`, `mean`, `variance`, `sample` and `cdf`, elementwise: the numbers of an example are
independent given the distribution. The examples are on the first axis of every leaf. Class probabilities need nothing
from here; they are logits.
"""

from typing import NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jax.scipy import stats
from jaxtyping import Array, Float

from .types import PyTree, RandomKey

__all__ = ["Distribution", "Normal", "Mixture", "mix"]


@runtime_checkable
class Distribution(Protocol):
    """A distribution of `[*shape]` independent numbers."""

    def log_prob(self, y: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        """Return the log density at `y`, in nats."""
        ...

    def mean(self) -> Float[Array, "*shape"]:
        """Return the expectation."""
        ...

    def variance(self) -> Float[Array, "*shape"]:
        """Return the variance."""
        ...

    def sample(self, key: RandomKey) -> Float[Array, "*shape"]:
        """Draw one sample."""
        ...

    def cdf(self, y: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        """Return the probability of a number of at most `y`."""
        ...


class Normal(NamedTuple):
    """Normal distributions.

    Attributes:
      loc: means, `[*shape]`.
      scale: standard deviations, positive, `[*shape]`.

    Example:
      >>> import jax.numpy as jnp
      >>> from jmeta import distributions
      >>> prediction = distributions.Normal(jnp.zeros((3, 1)), jnp.ones((3, 1)))
      >>> prediction.log_prob(jnp.zeros((3, 1))).round(3).tolist()
      [[-0.9190000295639038], [-0.9190000295639038], [-0.9190000295639038]]
      >>> prediction.cdf(jnp.zeros((3, 1))).tolist()
      [[0.5], [0.5], [0.5]]
    """

    loc: Array
    scale: Array

    def log_prob(self, y: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        return stats.norm.logpdf(y, self.loc, self.scale)

    def mean(self) -> Float[Array, "*shape"]:
        return self.loc

    def variance(self) -> Float[Array, "*shape"]:
        return jnp.square(self.scale)

    def sample(self, key: RandomKey) -> Float[Array, "*shape"]:
        return self.loc + self.scale * jax.random.normal(key, self.loc.shape, self.loc.dtype)

    def cdf(self, y: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        return stats.norm.cdf(y, self.loc, self.scale)


class Mixture(NamedTuple):
    """A mixture for each number, such as the predictions of an ensemble or of a posterior's samples.

    Every number has a mixture of its own, so `log_prob` is the marginal of each number, and a sum of them is not the
    joint log density of several numbers that one component explains together.

    Attributes:
      log_weights: log probabilities of the components, `[*shape, components]`; they are normalised here.
      components: one distribution of `[*shape, components]`.

    Example:
      >>> import jax.numpy as jnp
      >>> from jmeta import distributions
      >>> pair = distributions.Normal(jnp.array([[-1.0, 1.0]]), jnp.full((1, 2), 0.1))  # of one number
      >>> mixture = distributions.Mixture(jnp.zeros((1, 2)), pair)
      >>> float(mixture.mean()[0]), round(float(mixture.variance()[0]), 4), float(mixture.cdf(jnp.zeros(1))[0])
      (0.0, 1.01, 0.5)
    """

    log_weights: Array
    components: Distribution

    def log_prob(self, y: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        log_weights = jax.nn.log_softmax(self.log_weights)
        return jax.nn.logsumexp(self.components.log_prob(self._repeated(y)) + log_weights, axis=-1)

    def mean(self) -> Float[Array, "*shape"]:
        return self._average(self.components.mean())

    def variance(self) -> Float[Array, "*shape"]:
        away = self.components.mean() - self.mean()[..., None]
        return self._average(self.components.variance() + jnp.square(away))

    def sample(self, key: RandomKey) -> Float[Array, "*shape"]:
        key_component, key_sample = jax.random.split(key)
        samples = self.components.sample(key_sample)
        chosen = jax.random.categorical(key_component, self.log_weights)
        return jnp.take_along_axis(samples, chosen[..., None], axis=-1)[..., 0]

    def cdf(self, y: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        return self._average(self.components.cdf(self._repeated(y)))

    def _repeated(self, y: Float[Array, "*shape"]) -> Float[Array, "*shape components"]:
        return jnp.broadcast_to(y[..., None], self.log_weights.shape)

    def _average(self, values: Float[Array, "*shape components"]) -> Float[Array, "*shape"]:
        return (jax.nn.softmax(self.log_weights) * values).sum(-1)


def mix(outputs: PyTree) -> PyTree:
    """Average the predictions of several particles, such as samples of adapted parameters.

    Args:
      outputs: predictions stacked along a first axis of particles, as `jax.vmap` stacks them: a `Distribution` over
        numbers `[particles, *shape]`, or logits of classes `[particles, examples, classes]`.

    Returns:
      For a distribution, the equally weighted `Mixture` over numbers `[*shape]`. For logits, the logarithm of the mean
      probabilities, `[examples, classes]`, which are logits of the mean.

    Raises:
      ValueError: if `outputs` is neither, or has a single class; plain values have no average that is a prediction of
        all particles.

    Example:
      >>> import jax.numpy as jnp
      >>> from jmeta import distributions
      >>> two = distributions.Normal(jnp.array([[0.0], [2.0]]), jnp.ones((2, 1)))  # two particles, one number
      >>> float(distributions.mix(two).mean()[0])
      1.0
      >>> logits = distributions.mix(jnp.log(jnp.array([[[0.75, 0.25]], [[0.25, 0.75]]])))
      >>> jnp.exp(logits).round(3).tolist()
      [[0.5, 0.5]]
    """
    if isinstance(outputs, Distribution):
        mean = outputs.mean()  # behind its axes, leaves may have those of components
        particles_last = jax.tree.map(lambda leaf: jnp.moveaxis(leaf, 0, mean.ndim - 1), outputs)
        return Mixture(jnp.zeros((*mean.shape[1:], mean.shape[0]), mean.dtype), particles_last)
    is_logits = isinstance(outputs, jax.Array) and outputs.ndim == 3 and outputs.shape[-1] > 1
    if is_logits and jnp.issubdtype(outputs.dtype, jnp.floating):
        num_particles = jnp.asarray(outputs.shape[0], outputs.dtype)
        return jax.nn.logsumexp(jax.nn.log_softmax(outputs), axis=0) - jnp.log(num_particles)
    found = f"{outputs.dtype}{list(outputs.shape)}" if isinstance(outputs, jax.Array) else type(outputs).__name__
    raise ValueError(
        f"particles that predict {found} cannot be averaged; expected a distribution of numbers (see "
        "models.normal_outputs) or logits [particles, examples, classes]"
    )
