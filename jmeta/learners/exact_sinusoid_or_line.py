"""The exact posterior of `tasks.sinusoid_or_line`: whether the curve is a sinusoid or a line, and which one.

Each class of curves has two numbers w of uniform prior: p(y | x) = Σₖ ∫ N(y; fₖ(x; w), σ²) p(k, w | support) dw. The
integrals are Gauss-Legendre rules. A curve is linear in its inner number (amplitude, intercept), so given the outer one
(phase, slope) the rule's interval is where the posterior of the inner number is; the interval of the outer number is
narrowed to its posterior in a few rounds.

Nothing is meta-learned. Compare a learner with it on the same tasks, task by task.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ..bounds import is_real, is_whole
from ..distributions import Mixture, Normal
from ..losses import without_padding
from ..tasks.sinusoid_or_line import LINES, SINUSOIDS
from ..types import Batch, Learner, PyTree, RandomKey, Task

__all__ = ["CurvePosterior", "exact_sinusoid_or_line"]

_NUM_ROUNDS = 4


class CurvePosterior(NamedTuple):
    """A posterior over curves, at the nodes of a grid.

    Attributes:
      nodes: `[2, nodes, 2]`: phases and amplitudes of sinusoids, then slopes and intercepts of lines.
      log_probs: log posterior probabilities of the nodes, `[2, nodes]`; they sum to 1 over both classes.
    """

    nodes: Array
    log_probs: Array

    def class_probs(self) -> Float[Array, "two"]:
        """Return the posterior probability of a sinusoid, and that of a line."""
        return jnp.exp(jax.nn.logsumexp(self.log_probs, axis=-1))


def exact_sinusoid_or_line(*, noise: float = 0.3, num_nodes: int = 32) -> Learner:
    """Predict by the exact posterior over sinusoids and lines.

    Args:
      noise: standard deviation of the noise, of the tasks, positive; predictions include it.
      num_nodes: nodes of the rule for each of the two numbers of a curve. Double it to see the quadrature's error: one
        or two points leave lines so open that densities need about 128.

    Returns:
      A learner without meta-parameters whose adapted state is a `CurvePosterior`, and whose predictions are mixtures of
      normal distributions `[points, 1]`, with `2 num_nodes²` components: the exact marginal of each target.

    Raises:
      ValueError: if `noise` or `num_nodes` is not positive.

    Example:
      >>> import jax, jax.numpy as jnp, jmeta
      >>> learner = exact_sinusoid_or_line()
      >>> x = jnp.array([[-4.0], [-1.0], [2.0], [4.0]])
      >>> posterior = learner.adapt({}, jmeta.Batch(x, 2 * x - 1), jax.random.key(0))
      >>> posterior.class_probs().round(3).tolist()
      [0.0, 1.0]
      >>> learner.predict({}, posterior, jnp.array([[3.0]]), None).mean().round(1).tolist()
      [[5.0]]

    Reference:
      The tasks are those of Finn, Xu, Levine, "Probabilistic Model-Agnostic Meta-Learning", 2018, arXiv:1806.02817.
    """
    if not is_real(noise, above=0) or not is_whole(num_nodes):
        raise ValueError(f"noise={noise} and num_nodes={num_nodes}; expected positive numbers")
    points, weights = np.polynomial.legendre.leggauss(num_nodes)

    def init(key: RandomKey, task: Task) -> PyTree:
        del key, task
        return {}

    def adapt(meta_params: PyTree, support: Batch, key: RandomKey) -> CurvePosterior:
        del meta_params, key
        x, y, mask = without_padding(support)
        is_real = jnp.ones_like(y) if mask is None else mask[:, None].astype(y.dtype)
        units, log_weights = jnp.asarray((points + 1) / 2, x.dtype), jnp.asarray(np.log(weights / 2), x.dtype)

        def of_class(prior: Array, is_line: Array) -> tuple[Array, Array]:
            def on_grid(ends: Array) -> tuple[Array, Array, Array]:
                """Return outer numbers in an interval, inner ones, and the log of weight times p(support, node)."""
                outer = ends[0] + (ends[1] - ends[0]) * units
                gain, offset = _parts(outer, is_line, x)
                low, high = _inner_ends(prior[1], is_real * gain, y - offset, noise)
                inner = low[None] + (high - low)[None] * units[:, None]
                away = (y - offset)[:, None] - gain[:, None] * inner[None]
                shares = jnp.log((high - low) / (prior[1, 1] - prior[1, 0]))
                shares += jnp.log((ends[1] - ends[0]) / (prior[0, 1] - prior[0, 0])) + log_weights
                log_likelihoods = -(is_real[:, None] * jnp.square(away)).sum(0) / (2 * noise**2)
                return outer, inner, log_likelihoods + shares[None] + log_weights[:, None]

            ends = prior[0]
            for _ in range(_NUM_ROUNDS):
                outer, _, log_joint = on_grid(ends)
                ends = _narrowed(ends, outer, jax.nn.logsumexp(log_joint, axis=0))
            outer, inner, log_joint = on_grid(ends)
            nodes = jnp.stack([jnp.broadcast_to(outer[None], inner.shape), inner], axis=-1)
            return nodes.reshape(-1, 2), log_joint.reshape(-1)

        amplitudes, phases = SINUSOIDS
        nodes, log_joint = jax.vmap(of_class)(
            jnp.asarray([(phases, amplitudes), LINES], x.dtype), jnp.array([False, True])
        )
        return CurvePosterior(nodes, log_joint - jax.nn.logsumexp(log_joint))

    def predict(
        meta_params: PyTree, adapted: CurvePosterior, x: Float[Array, "points one"], key: RandomKey | None
    ) -> Mixture:
        del meta_params, key

        def curves(nodes: Array, is_line: Array) -> Array:
            gain, offset = _parts(nodes[:, 0], is_line, x)
            return offset + gain * nodes[:, 1][None]

        both = jax.vmap(curves)(adapted.nodes, jnp.array([False, True]))
        locs = jnp.concatenate([both[0], both[1]], axis=-1)[:, None, :]
        log_probs = jnp.broadcast_to(adapted.log_probs.reshape(-1), locs.shape)
        return Mixture(log_probs, Normal(locs, jnp.full_like(locs, noise)))

    return Learner(init, adapt, predict)


def _parts(outer: Float[Array, "nodes"], is_line: Array, x: Float[Array, "points one"]) -> tuple[Array, Array]:
    """Return g and h of the curves `inner * g + h`, `[points, nodes]`."""
    outer = outer[None]
    return jnp.where(is_line, 1.0, jnp.sin(x - outer)), jnp.where(is_line, outer * x, 0.0)


def _inner_ends(prior: Array, gain: Array, residual: Array, noise: float) -> tuple[Array, Array]:
    """Return the interval, `[nodes]` each, of seven standard deviations about the most probable inner number."""
    squares = jnp.maximum(jnp.square(gain).sum(0), 1e-12)
    centre = jnp.clip((gain * residual).sum(0) / squares, prior[0], prior[1])
    margin = 7 * noise / jnp.sqrt(squares)
    return jnp.clip(centre - margin, prior[0], prior[1]), jnp.clip(centre + margin, prior[0], prior[1])


def _narrowed(ends: Array, outer: Float[Array, "nodes"], log_probs: Float[Array, "nodes"]) -> Array:
    """Return the part of an interval within seven standard deviations, and two spacings of the rule, of the mean."""
    probs = jax.nn.softmax(log_probs)
    mean = (probs * outer).sum()
    deviation = jnp.sqrt((probs * jnp.square(outer - mean)).sum())
    spacing = (ends[1] - ends[0]) * (math.pi / 2 / outer.size)  # in the middle, where it is widest
    margin = 7 * deviation + 2 * spacing
    return jnp.clip(jnp.stack([mean - margin, mean + margin]), ends[0], ends[1])
