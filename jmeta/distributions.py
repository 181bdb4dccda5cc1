"""Predictive distributions over numbers, as pytrees: what a learner's `predict` returns when it is not sure.

A distribution has `log_prob`, `mean`, `variance`, `sample` and `cdf`, elementwise: the numbers of an example are
independent given the distribution. The examples are on the first axis of every leaf. Class probabilities need nothing
from here; they are logits.
"""

import math
from typing import NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jax.scipy import stats
from jaxtyping import Array, Float, Int

from .types import PyTree, RandomKey

__all__ = ["Distribution", "Normal", "Bernoulli", "Binned", "Mixture", "normal_kl", "mix", "is_binary"]


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


class Bernoulli(NamedTuple):
    """Distributions over the numbers 0 and 1, such as the pixels of a binary image.

    The `log_prob` of 0 or 1 is a log probability, not a density; other numbers are not in the range.

    Attributes:
      logits: log odds of a 1, finite, `[*shape]`.

    Example:
      >>> import jax.numpy as jnp
      >>> from jmeta import distributions
      >>> prediction = distributions.Bernoulli(jnp.log(jnp.array([3.0])))
      >>> [round(float(p[0]), 3) for p in (prediction.mean(), jnp.exp(prediction.log_prob(jnp.zeros(1))))]
      [0.75, 0.25]
    """

    logits: Array

    def log_prob(self, y: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        return y * self.logits - jax.nn.softplus(self.logits)

    def mean(self) -> Float[Array, "*shape"]:
        return jax.nn.sigmoid(self.logits)

    def variance(self) -> Float[Array, "*shape"]:
        return jax.nn.sigmoid(self.logits) * jax.nn.sigmoid(-self.logits)

    def sample(self, key: RandomKey) -> Float[Array, "*shape"]:
        return jax.random.bernoulli(key, self.mean()).astype(self.logits.dtype)

    def cdf(self, y: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        below_one = jax.nn.sigmoid(-self.logits)
        return jnp.where(y < 0, jnp.zeros_like(below_one), jnp.where(y < 1, below_one, jnp.ones_like(below_one)))


class Binned(NamedTuple):
    """Densities that are constant in every bin but the outer two, whose tails have no end.

    The first bin is a half-normal that falls from its upper edge downwards, and the last one from its lower edge
    upwards; either has half of its probability within its outer edge. So every number has a positive density, wherever
    the edges are.

    Attributes:
      logits: log probabilities of the bins up to a constant, `[*shape, bins]`; at least two bins.
      edges: bounds of the bins, increasing, `[*shape, bins + 1]`.

    Example:
      >>> import jax.numpy as jnp
      >>> from jmeta import distributions
      >>> one = distributions.Binned(jnp.zeros((1, 4)), jnp.array([[-2.0, -1.0, 0.0, 1.0, 2.0]]))  # of one number
      >>> jnp.exp(one.log_prob(jnp.array([0.5]))).tolist(), one.cdf(jnp.array([0.5])).tolist()
      ([0.25], [0.625])
      >>> round(float(one.cdf(jnp.array([2.0]))[0]), 4)
      0.875

    Reference:
      Müller, Hollmann, Pineda Arango, Grabocka, Hutter, "Transformers Can Do Bayesian Inference", 2021,
      arXiv:2112.10510, section 4 and appendix E.
    """

    logits: Array
    edges: Array

    def log_prob(self, y: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        low, high, lower_scale, upper_scale = self._tails()
        below = math.log(2) + stats.norm.logpdf(jnp.minimum(y, low), low, lower_scale)
        above = math.log(2) + stats.norm.logpdf(jnp.maximum(y, high), high, upper_scale)
        bins, last = self._bin(y), self.logits.shape[-1] - 1
        inside = -jnp.log(self._chosen(jnp.diff(self.edges), bins))
        density = jnp.where(bins == 0, below, jnp.where(bins == last, above, inside))
        return self._chosen(jax.nn.log_softmax(self.logits), bins) + density

    def mean(self) -> Float[Array, "*shape"]:
        return (jax.nn.softmax(self.logits) * self._moments()[0]).sum(-1)

    def variance(self) -> Float[Array, "*shape"]:
        means, variances = self._moments()
        away = means - self.mean()[..., None]
        return (jax.nn.softmax(self.logits) * (variances + jnp.square(away))).sum(-1)

    def sample(self, key: RandomKey) -> Float[Array, "*shape"]:
        key_bin, key_inside, key_tail = jax.random.split(key, 3)
        bins, last = jax.random.categorical(key_bin, self.logits), self.logits.shape[-1] - 1
        low, high, lower_scale, upper_scale = self._tails()
        share = jax.random.uniform(key_inside, bins.shape, self.edges.dtype)
        away = jnp.abs(jax.random.normal(key_tail, bins.shape, self.edges.dtype))
        inside = self._chosen(self.edges[..., :-1], bins) + share * self._chosen(jnp.diff(self.edges), bins)
        tails = jnp.where(bins == 0, low - lower_scale * away, high + upper_scale * away)
        return jnp.where((bins == 0) | (bins == last), tails, inside)

    def cdf(self, y: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        low, high, lower_scale, upper_scale = self._tails()
        inside = (y[..., None] - self.edges[..., :-1]) / jnp.diff(self.edges)
        below = 2 * stats.norm.cdf(jnp.minimum(y, low), low, lower_scale)
        above = 2 * stats.norm.cdf(jnp.maximum(y, high), high, upper_scale) - 1
        shares = jnp.concatenate([below[..., None], jnp.clip(inside[..., 1:-1], 0, 1), above[..., None]], -1)
        return (jax.nn.softmax(self.logits) * shares).sum(-1)

    def _bin(self, y: Float[Array, "*shape"]) -> Int[Array, "*shape"]:
        return (y[..., None] >= self.edges[..., 1:-1]).sum(-1)

    def _chosen(self, values: Float[Array, "*shape bins"], bins: Int[Array, "*shape"]) -> Float[Array, "*shape"]:
        return jnp.take_along_axis(values, bins[..., None], axis=-1)[..., 0]

    def _tails(self) -> tuple[Array, Array, Array, Array]:
        """Return where the tails begin, below and above, and their scales."""
        quartile = 0.6744897501960817  # of the standard normal: half of a half-normal lies within it
        widths = jnp.diff(self.edges)
        return self.edges[..., 1], self.edges[..., -2], widths[..., 0] / quartile, widths[..., -1] / quartile

    def _moments(self) -> tuple[Float[Array, "*shape bins"], Float[Array, "*shape bins"]]:
        """Return the mean and the variance of each bin."""
        low, high, lower_scale, upper_scale = self._tails()
        middles, widths = (self.edges[..., :-1] + self.edges[..., 1:]) / 2, jnp.diff(self.edges)
        away = math.sqrt(2 / math.pi)
        means = middles.at[..., 0].set(low - away * lower_scale).at[..., -1].set(high + away * upper_scale)
        of_tails = [jnp.square(scale) * (1 - 2 / math.pi) for scale in (lower_scale, upper_scale)]
        return means, (jnp.square(widths) / 12).at[..., 0].set(of_tails[0]).at[..., -1].set(of_tails[1])


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


def normal_kl(q: Normal, p: Normal) -> Float[Array, "*shape"]:
    """Return KL(q ‖ p) of each number, in nats.

    Example:
      >>> import jax.numpy as jnp
      >>> normal_kl(Normal(jnp.ones(2), jnp.ones(2)), Normal(jnp.zeros(2), jnp.ones(2))).tolist()
      [0.5, 0.5]
    """
    ratio = q.scale / p.scale
    away = (q.loc - p.loc) / p.scale
    return 0.5 * (jnp.square(ratio) + jnp.square(away) - 1.0) - jnp.log(ratio)


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
        all particles. Several numbers of an example cannot be told from logits, and are taken for those.

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
        mean = outputs.mean()  # behind its axes, leaves may have those of bins or components
        particles_last = jax.tree.map(lambda leaf: jnp.moveaxis(leaf, 0, mean.ndim - 1), outputs)
        return Mixture(jnp.zeros((*mean.shape[1:], mean.shape[0]), mean.dtype), particles_last)
    is_logits = isinstance(outputs, jax.Array) and outputs.ndim == 3 and outputs.shape[-1] > 1
    if is_logits and jnp.issubdtype(outputs.dtype, jnp.floating):
        num_particles = jnp.asarray(outputs.shape[0], outputs.dtype)
        log_probs = jax.nn.log_softmax(outputs)
        is_absent = jnp.isneginf(log_probs).all(0)  # logsumexp has no derivative there
        total = jax.nn.logsumexp(jnp.where(is_absent[None], 0.0, log_probs), axis=0)
        return jnp.where(is_absent, -jnp.inf, total - jnp.log(num_particles))
    found = f"{outputs.dtype}{list(outputs.shape)}" if isinstance(outputs, jax.Array) else type(outputs).__name__
    raise ValueError(
        f"particles that predict {found} cannot be averaged; expected a distribution of numbers (see "
        "models.normal_outputs) or logits [particles, examples, classes]"
    )


def is_binary(outputs: PyTree) -> bool:
    """Return whether predictions are distributions over 0 and 1: a `Bernoulli`, or a mixture of them.

    Example:
      >>> import jax.numpy as jnp
      >>> from jmeta import distributions
      >>> is_binary(distributions.mix(distributions.Bernoulli(jnp.zeros((2, 3)))))
      True
    """
    return isinstance(outputs, Bernoulli) or (isinstance(outputs, Mixture) and is_binary(outputs.components))
