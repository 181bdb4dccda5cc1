"""The exact posterior of `tasks.sinusoid` with unknown frequency: what no learner of these tasks can beat on average.

A wave y = a (sin(ω x − φ) + ε) has three numbers of uniform prior. Given ω it is linear in (a cos φ, a sin φ), so least
squares say where φ and u = 1/a are: u and φ have nearly normal posteriors, over which a midpoint rule sums,

  p(y, ω, φ, u) ∝ uⁿ⁻² exp(−Σᵢ (u yᵢ − sin(ω xᵢ − φ))² / 2σ²).

The posterior of ω has several narrow peaks. It is approximated on a fine grid first, and its most probable nodes are
kept.

Nothing is meta-learned. Compare a learner with it on the same tasks, task by task.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ..distributions import Mixture, Normal
from ..losses import num_real, real_examples, without_padding
from ..tasks.class_arrays import check_positive
from ..types import Batch, Learner, PyTree, RandomKey, Task

__all__ = ["WavePosterior", "exact_sinusoid"]

_MARGIN = 5.0  # standard deviations on either side that a midpoint rule sums over


class WavePosterior(NamedTuple):
    """A posterior over waves, at the nodes of a grid.

    Attributes:
      nodes: frequencies, phases and inverse amplitudes, `[nodes, 3]`.
      log_probs: log posterior probabilities of the nodes, `[nodes]`.
    """

    nodes: Array
    log_probs: Array


def exact_sinusoid(
    *,
    noise: float,
    amplitude: tuple[float, float] = (0.1, 5.0),
    frequency: tuple[float, float] = (0.5, 2.0),
    num_frequencies: int = 2048,
    num_kept: int = 256,
    num_nodes: int = 8,
) -> Learner:
    """Predict by the exact posterior over sine waves of unknown amplitude, frequency and phase.

    Args:
      noise: standard deviation of ε, relative to the amplitude, of the tasks; predictions include it.
      amplitude, frequency: ranges of the tasks. Phases are uniform over the whole circle.
      num_frequencies: nodes of the grid of frequencies. A posterior's width is about `noise` over the root of the
        number of points and the spread of inputs, and a node should be no wider.
      num_kept: the most probable frequencies, which predict. Four points or fewer leave more open than 256 describe.
      num_nodes: nodes of the rule, for the phase and for the amplitude. Double all three to see the error.

    Returns:
      A learner without meta-parameters whose adapted state is a `WavePosterior`, and whose predictions are mixtures of
      normal distributions `[points, 1]`, with `num_kept num_nodes²` components: the exact marginal of each target.

    Raises:
      ValueError: if a number is not positive, a range is empty or not positive, or more frequencies are kept than there
        are.

    Example:
      >>> import jax, jax.numpy as jnp, jmeta
      >>> learner = exact_sinusoid(noise=0.01)
      >>> x = jnp.linspace(-4.0, 4.0, 8)[:, None]
      >>> posterior = learner.adapt({}, jmeta.Batch(x, 3 * jnp.sin(1.2 * x - 0.5)), jax.random.key(0))
      >>> prediction = learner.predict({}, posterior, jnp.array([[5.0]]), None)
      >>> bool(abs(prediction.mean()[0, 0] - 3 * jnp.sin(1.2 * 5.0 - 0.5)) < 0.05)
      True

    Reference:
      The tasks are those of Kim, Yoon, Dia, Kim, Bengio, Ahn, "Bayesian Model-Agnostic Meta-Learning", 2018,
      arXiv:1806.03836, section 5.1.
    """
    check_positive({"num_frequencies": num_frequencies, "num_kept": num_kept, "num_nodes": num_nodes})
    for name, (low, high) in {"amplitude": amplitude, "frequency": frequency}.items():
        if not 0 < low < high < math.inf:
            raise ValueError(f"{name}=({low}, {high}); expected a range (lowest, highest) of positive numbers")
    if not 0 < noise < math.inf or num_kept > num_frequencies:
        raise ValueError(
            f"noise={noise}, num_kept={num_kept} and num_frequencies={num_frequencies}; expected a positive standard "
            "deviation, and no more kept frequencies than there are"
        )
    inverse_ends = 1 / amplitude[1], 1 / amplitude[0]

    def init(key: RandomKey, task: Task) -> PyTree:
        del key, task
        return {}

    def adapt(meta_params: PyTree, support: Batch, key: RandomKey) -> WavePosterior:
        del meta_params, key
        x, y = (each[:, 0] for each in without_padding(support)[:2])
        is_real, count = real_examples(support).astype(y.dtype), num_real(support, y.dtype)
        inverse_scale = noise / jnp.sqrt(jnp.maximum(jnp.square(y).sum(), 1e-12))  # of u, whatever ω and φ are

        def inverse_centre(wave: Array) -> Array:
            return (wave * y).sum() / jnp.maximum(jnp.square(y).sum(), 1e-12)

        def log_joint(wave: Array, inverse: Array) -> Array:
            """Return the log of p(support, ω, φ, u), up to a constant, of a wave `[points]` that is 0 at padding."""
            squares = jnp.square(inverse * y - wave) * is_real
            return (count - 2) * jnp.log(inverse) - squares.sum() / (2 * noise**2)

        def approximate(frequency: Array) -> tuple[Array, Array, Array]:
            """Return the log probability of a frequency, about, and the mean and deviation of the phase given it."""
            phase, scale = _phase_given(frequency, x, y, is_real, noise)
            wave = jnp.sin(frequency * x - phase) * is_real
            inverse = jnp.clip(inverse_centre(wave), *inverse_ends)
            return log_joint(wave, inverse) + jnp.log(scale), phase, scale

        def around(frequency: Array, phase: Array, scale: Array) -> tuple[Array, Array]:
            """Return nodes `[num_nodes, num_nodes, 3]` of a frequency and their log probabilities, up to a constant."""

            def of_phase(phase: Array) -> tuple[Array, Array]:
                wave = jnp.sin(frequency * x - phase) * is_real
                low, high = (
                    jnp.clip(inverse_centre(wave) + sign * _MARGIN * inverse_scale, *inverse_ends) for sign in (-1, 1)
                )
                inverses = (low + high) / 2 + (high - low) / 2 * steps
                fixed = [jnp.full_like(inverses, number) for number in (frequency, phase)]
                log_cell = jnp.log(scale) + jnp.log(jnp.maximum(high - low, 1e-30))
                log_probs = jax.vmap(lambda inverse: log_joint(wave, inverse))(inverses) + log_cell
                return jnp.stack([*fixed, inverses], axis=-1), log_probs

            return jax.vmap(of_phase)(phase + scale * _MARGIN * steps)

        steps = jnp.asarray((2 * np.arange(num_nodes) + 1) / num_nodes - 1, y.dtype)  # middles of [-1, 1]
        cells = jnp.asarray((np.arange(num_frequencies) + 0.5) / num_frequencies, y.dtype)
        frequencies = frequency[0] + (frequency[1] - frequency[0]) * cells
        log_probs, phases, scales = jax.vmap(approximate)(frequencies)
        kept = jax.lax.top_k(log_probs, num_kept)[1]
        nodes, log_probs = jax.vmap(around)(*(each[kept] for each in (frequencies, phases, scales)))
        return WavePosterior(nodes.reshape(-1, 3), jax.nn.log_softmax(log_probs.reshape(-1)))

    def predict(
        meta_params: PyTree, adapted: WavePosterior, x: Float[Array, "points one"], key: RandomKey | None
    ) -> Mixture:
        del meta_params, key
        frequencies, phases, inverses = adapted.nodes.T[:, None, None]
        locs = jnp.sin(frequencies * x[..., None] - phases) / inverses
        log_probs = jnp.broadcast_to(adapted.log_probs, locs.shape)
        return Mixture(log_probs, Normal(locs, jnp.broadcast_to(noise / inverses, locs.shape)))

    return Learner(init, adapt, predict)


def _phase_given(frequency: Array, x: Array, y: Array, is_real: Array, noise: float) -> tuple[Array, Array]:
    """Return the least-squares phase of a frequency, and its standard deviation, at most what spans the circle."""
    features = jnp.stack([jnp.sin(frequency * x), -jnp.cos(frequency * x)]) * is_real[None]
    (a, b), (_, d) = features @ features.T + 1e-6 * jnp.eye(2, dtype=y.dtype)
    det = jnp.maximum(a * d - b * b, 1e-12)
    right = features @ y
    cosine, sine = (d * right[0] - b * right[1]) / det, (a * right[1] - b * right[0]) / det
    phase = jnp.arctan2(sine, cosine)
    across = jnp.stack([-jnp.sin(phase), jnp.cos(phase)])
    variance = (d * across[0] ** 2 - 2 * b * across[0] * across[1] + a * across[1] ** 2) / det
    return phase, jnp.minimum(noise * jnp.sqrt(jnp.maximum(variance, 1e-12)), math.pi / _MARGIN)
