"""How good predictions are that say how sure they are: proper scores, calibration, sets and intervals, of one task.

`class_scores` judges logits, `number_scores` distributions over numbers (`jmeta.distributions`) and `binary_scores`
those over 0 and 1; each returns named scalars averaged over the real examples of a batch, as a loss's `aux` does.
`with_calibration` adds them to any loss, so `jmeta.evaluate` reports them with intervals over tasks, and pools the
`Reliability` of all tasks exactly.

Sources: Gneiting and Raftery, "Strictly Proper Scoring Rules, Prediction, and Estimation", 2007 (Brier, CRPS); Grimit,
Gneiting, Berrocal, Johnson, "The continuous ranked probability score for circular variables and its application to
mesoscale forecast ensemble verification", 2006, eq. 5 (CRPS of a mixture of normals); Guo, Pleiss, Sun, Weinberger, "On
Calibration of Modern Neural Networks", 2017, arXiv:1706.04599, eq. 2-3 (reliability diagrams and their error).
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Shaped

from .bounds import is_whole
from .distributions import Distribution, Mixture, Normal, is_binary
from .losses import checked_loss, cross_entropy, masked_mean, negative_log_likelihood, squared_error, without_padding
from .types import Aux, Batch, LossFn, PyTree

__all__ = [
    "LEVELS",
    "Reliability",
    "reliability",
    "class_scores",
    "number_scores",
    "binary_scores",
    "with_calibration",
    "quantiles",
    "crps",
]

LEVELS = (0.5, 0.9, 0.95)
"""The probabilities that sets and intervals are asked to have."""


class Reliability(NamedTuple):
    """A reliability diagram, as sums over predictions: those of several tasks add up to the diagram of all of them.

    Bin b of B has the predictions whose confidence, the probability of the predicted class, is in (b/B, (b + 1)/B].

    Attributes:
      counts: number of predictions in each bin, `[bins]`.
      confidence: sum of their confidences, `[bins]`.
      correct: number of those that are correct, `[bins]`.

    Example:
      >>> import numpy as np
      >>> one = Reliability(np.array([0.0, 4.0]), np.array([0.0, 3.2]), np.array([0.0, 3.0]))
      >>> two = Reliability(np.array([6.0, 0.0]), np.array([2.4, 0.0]), np.array([2.0, 0.0]))
      >>> pooled = Reliability(*(a + b for a, b in zip(one, two)))
      >>> pooled.accuracy().round(2).tolist(), round(float(pooled.calibration_error()), 2)
      ([0.33, 0.75], 0.06)
    """

    counts: Shaped[Array | np.ndarray, "*tasks bins"]
    confidence: Shaped[Array | np.ndarray, "*tasks bins"]
    correct: Shaped[Array | np.ndarray, "*tasks bins"]

    def calibration_error(self) -> Any:
        """Return the expected calibration error, Σ_b (n_b / n) |accuracy_b − confidence_b|, in [0, 1]; 0 of nothing."""
        return abs(self.correct - self.confidence).sum(-1) / self.counts.sum(-1).clip(1)

    def accuracy(self) -> Any:
        """Return the accuracy in each bin, in [0, 1]; NaN for an empty bin."""
        return self.correct / _or_nan(self.counts)

    def mean_confidence(self) -> Any:
        """Return the mean confidence in each bin, in [0, 1]; NaN for an empty bin."""
        return self.confidence / _or_nan(self.counts)


def _or_nan(counts: Any) -> Any:
    return (np if isinstance(counts, np.ndarray) else jnp).where(counts > 0, counts, float("nan"))


def reliability(logits: Float[Array, "examples ways"], batch: Batch, *, num_bins: int = 15) -> Reliability:
    """Compute the reliability diagram of one task, in bins of equal width.

    A prediction that is NaN makes the diagram NaN.

    Raises:
      ValueError: if `num_bins` is not positive, or at trace time if the labels do not go with the logits.

    Example:
      >>> import jax.numpy as jnp, jmeta
      >>> batch = jmeta.Batch(x=jnp.zeros((2, 1)), y=jnp.array([0, 1]))
      >>> diagram = reliability(jnp.log(jnp.array([[0.7, 0.3], [0.8, 0.2]])), batch, num_bins=5)
      >>> diagram.counts.tolist(), diagram.correct.tolist()
      ([0.0, 0.0, 0.0, 2.0, 0.0], [0.0, 0.0, 0.0, 1.0, 0.0])
    """
    if not is_whole(num_bins):
        raise ValueError(f"num_bins={num_bins}; expected at least one bin")
    cross_entropy(logits, batch)  # raises if the labels do not go with the logits
    logits, labels, _ = without_padding(Batch(logits, batch.y, batch.mask))
    confidence = jax.nn.softmax(logits).max(-1)
    correct = (logits.argmax(-1) == labels).astype(confidence.dtype)
    last = jnp.asarray(num_bins - 1, jnp.int32)
    bins = jnp.clip(jnp.ceil(confidence * num_bins).astype(jnp.int32) - 1, 0, last)
    in_bin = jax.nn.one_hot(bins, num_bins, dtype=confidence.dtype)
    in_bin = in_bin if batch.mask is None else jnp.where(batch.mask[:, None], in_bin, 0.0)
    return Reliability(in_bin.sum(0), (in_bin * confidence[:, None]).sum(0), (in_bin * correct[:, None]).sum(0))


def class_scores(
    logits: Float[Array, "examples ways"], batch: Batch, *, num_bins: int = 15, levels: Sequence[float] = LEVELS
) -> Aux:
    """Judge the class probabilities, the softmax of logits, of one task.

    Args:
      logits: a logit of -inf means that the task has no such class.
      batch: integer labels; a label out of range makes what depends on it NaN.
      num_bins: bins of the reliability diagram.
      levels: the probabilities of prediction sets, in (0, 1).

    Returns:
      By name, averaged over the real examples: `"negative_log_likelihood"`, in nats; `"brier_score"`,
      Σₖ (pₖ − 1{k = y})², in [0, 2]; `"calibration_error"` of the task alone, which is biased upwards by having few
      examples in a bin (pool the diagrams of many tasks for one that is not); and for each level, such as 90 %,
      `"set_size_90"`, the number of most probable classes that together have this probability or more, and
      `"coverage_90"`, how often the true class is among them. `"reliability"` is the task's `Reliability`.

    Raises:
      ValueError: if a level or `num_bins` is out of range, or at trace time if the labels do not go with the logits.

    Example:
      >>> import jax.numpy as jnp, jmeta
      >>> batch = jmeta.Batch(x=jnp.zeros((2, 1)), y=jnp.array([0, 1]))
      >>> scores = class_scores(jnp.log(jnp.array([[0.75, 0.25], [0.75, 0.25]])), batch)
      >>> float(scores["brier_score"].round(3)), float(scores["set_size_50"]), float(scores["coverage_50"])
      (0.625, 1.0, 0.5)
    """
    _check_levels(levels)
    nll, _ = cross_entropy(logits, batch)
    diagram = reliability(logits, batch, num_bins=num_bins)
    logits, labels, _ = without_padding(Batch(logits, batch.y, batch.mask))
    within = jnp.where(labels < 0, logits.shape[-1], labels)  # a negative index would count from the end

    def of_label(values: Float[Array, "examples ways"]) -> Float[Array, "examples"]:
        return jnp.take_along_axis(values, within[:, None], axis=-1, mode="fill")[:, 0]

    probs = jax.nn.softmax(logits)
    brier = jnp.square(probs).sum(-1) - 2 * of_label(probs) + 1
    scores = {"negative_log_likelihood": nll, "brier_score": masked_mean(brier, batch)}
    scores["calibration_error"] = diagram.calibration_error()
    before = _mass_before(probs)
    for level in levels:
        is_in_set = (before < level).astype(probs.dtype)
        scores[f"set_size_{_percent(level)}"] = masked_mean(is_in_set.sum(-1), batch)
        scores[f"coverage_{_percent(level)}"] = masked_mean(of_label(is_in_set), batch)
    return {**scores, "reliability": diagram}


def _mass_before(probs: Float[Array, "examples ways"]) -> Float[Array, "examples ways"]:
    """Return, for each class, the probability of all classes before it in the order of falling probability."""
    others, own = probs[:, None, :], probs[:, :, None]
    index = jnp.arange(probs.shape[-1])
    is_before = (others > own) | ((others == own) & (index[None, None, :] < index[None, :, None]))
    return jnp.where(is_before, others, 0.0).sum(-1)


def number_scores(outputs: PyTree, batch: Batch, *, levels: Sequence[float] = LEVELS) -> Aux:
    """Judge the predictions of numbers of one task.

    Args:
      outputs: a density of `[examples, ...]` numbers, or the numbers themselves: a prediction that is sure.
      batch: its `y` has the shape of the numbers.
      levels: the probabilities of central intervals, in (0, 1).

    Returns:
      By name, averaged over the numbers of an example, then over the real examples: `"crps"`, in the unit of `y` (see
      `crps`), which is the absolute error of a prediction that is sure; and of a distribution, for each level, such as
      90 %, `"coverage_90"`, how often `y` is in the central interval, between the quantiles of 5 and 95 %, and
      `"width_90"`, the mean width of those. `"negative_log_likelihood"`, in nats, is summed over the numbers of an
      example.

    Raises:
      ValueError: if a level is out of range, the numbers differ in shape from `batch.y`, or they are 0 or 1 (see
        `binary_scores`).

    Example:
      >>> import jax.numpy as jnp, jmeta
      >>> prediction = jmeta.distributions.Normal(jnp.zeros((2, 1)), jnp.ones((2, 1)))
      >>> batch = jmeta.Batch(x=jnp.zeros((2, 1)), y=jnp.array([[0.0], [1.0]]))
      >>> scores = number_scores(prediction, batch)
      >>> [round(float(scores[name]), 3) for name in ("crps", "coverage_50", "width_95")]
      [0.418, 0.5, 3.92]
    """
    _check_levels(levels)
    if is_binary(outputs):
        raise ValueError("number_scores expects densities, but these numbers are 0 or 1; use binary_scores")
    y = without_padding(batch).y

    def average(values: Float[Array, "examples ..."]) -> Float[Array, ""]:
        return masked_mean(values.reshape(values.shape[0], math.prod(values.shape[1:])).mean(-1), batch)

    if not isinstance(outputs, Distribution):
        squared_error(outputs, batch)  # raises if the shapes differ
        return {"crps": average(jnp.abs(outputs - y))}
    nll, _ = negative_log_likelihood(outputs, batch)
    scores = {"negative_log_likelihood": nll, "crps": average(crps(outputs, y))}
    rank = outputs.cdf(y)  # the probability integral transform: uniform, if the predictions are right
    tails = [(1 - level) / 2 for level in levels]
    ends = quantiles(outputs, [*tails, *(1 - tail for tail in tails)])
    for i, (level, tail) in enumerate(zip(levels, tails, strict=True)):
        is_covered = jnp.where(jnp.isnan(rank), rank, ((rank >= tail) & (rank <= 1 - tail)).astype(rank.dtype))
        scores[f"coverage_{_percent(level)}"] = average(is_covered)
        scores[f"width_{_percent(level)}"] = average(ends[len(levels) + i] - ends[i])
    return scores


def binary_scores(outputs: Distribution, batch: Batch, *, num_bins: int = 15, levels: Sequence[float] = LEVELS) -> Aux:
    """Judge the predictions of numbers that are 0 or 1, such as the pixels of a binary image, of one task.

    Args:
      outputs: a distribution of `[examples, ...]` numbers (`distributions.is_binary`).
      batch: its `y` has the shape of the numbers.
      num_bins, levels: as for `class_scores`.

    Returns:
      `class_scores` of the two classes 0 and 1 of every number, averaged over the numbers of an example; but the
      `"negative_log_likelihood"` is summed over them. The `"brier_score"` is 2 (p − y)², for a probability p of a 1.

    Raises:
      ValueError: if the predictions are of other numbers; otherwise as for `class_scores`.

    Example:
      >>> import jax.numpy as jnp, jmeta
      >>> prediction = jmeta.distributions.Bernoulli(jnp.log(jnp.array([[3.0], [3.0]])))  # 1 with 75 %
      >>> scores = binary_scores(prediction, jmeta.Batch(x=jnp.zeros((2, 1)), y=jnp.array([[0.0], [1.0]])))
      >>> round(float(scores["brier_score"]), 3), round(float(scores["calibration_error"]), 3)
      (0.625, 0.25)
    """
    if not is_binary(outputs):
        raise ValueError(f"binary_scores expects predictions of 0 and 1, but got a {type(outputs).__name__}")
    nll, _ = negative_log_likelihood(outputs, batch)
    y = without_padding(batch).y
    logits = jnp.stack([outputs.log_prob(jnp.zeros_like(y)), outputs.log_prob(jnp.ones_like(y))], -1).reshape(-1, 2)
    labels = y.reshape(-1).astype(jnp.int32)
    mask = None if batch.mask is None else jnp.repeat(batch.mask, math.prod(y.shape[1:]))
    scores = class_scores(logits, Batch(labels, labels, mask), num_bins=num_bins, levels=levels)
    return {**scores, "negative_log_likelihood": nll}


def with_calibration(loss_fn: LossFn, *, num_bins: int = 15, levels: Sequence[float] = LEVELS) -> LossFn:
    """Build the same loss, with `class_scores`, `number_scores` or `binary_scores` in its `aux`, as predictions need.

    Logits are predictions `[examples, ways]` of integer labels `[examples]`; distributions and arrays of the shape of
    `y` are predictions of numbers. What is neither gets no scores. What `loss_fn` reports keeps its name and value.

    Example:
      >>> import jax, jmeta
      >>> sample = jmeta.tasks.gaussian_blobs(num_ways=5, num_shots=1, num_queries=3)
      >>> learner = jmeta.learners.nearest_mean(num_ways=5)
      >>> loss_fn = with_calibration(jmeta.losses.cross_entropy)
      >>> result = jmeta.evaluate(learner, loss_fn, {}, sample, jax.random.key(0), protocol="blobs", num_tasks=20)
      >>> 0 < result.inductive["brier_score"].mean < 2
      True
      >>> diagram = result.reliability["inductive"]  # of all 300 predictions
      >>> float(diagram.counts.sum()), bool(0 < diagram.calibration_error() < 1)
      (300.0, True)
    """
    _check_levels(levels)

    def loss_with_scores(outputs: PyTree, batch: Batch) -> tuple[Any, Aux]:
        loss, aux = checked_loss(loss_fn(outputs, batch), "what loss_fn returns")
        return loss, {**_scores(outputs, batch, num_bins, levels), **aux}

    return loss_with_scores


def _scores(outputs: PyTree, batch: Batch, num_bins: int, levels: Sequence[float]) -> Aux:
    predicted = outputs.mean() if isinstance(outputs, Distribution) else outputs
    if not isinstance(predicted, jax.Array) or not isinstance(batch.y, jax.Array | np.ndarray):
        return {}
    if predicted.shape == batch.y.shape and jnp.issubdtype(batch.y.dtype, jnp.floating):
        if is_binary(outputs):
            return binary_scores(outputs, batch, num_bins=num_bins, levels=levels)
        return number_scores(outputs, batch, levels=levels)
    is_label = predicted.shape[:1] == batch.y.shape and jnp.issubdtype(batch.y.dtype, jnp.integer)
    if outputs is predicted and predicted.ndim == 2 and is_label:
        return class_scores(predicted, batch, num_bins=num_bins, levels=levels)
    return {}


def quantiles(distribution: Distribution, probabilities: Sequence[float]) -> Float[Array, "probabilities *shape"]:
    """Find quantiles by bisection of the distribution function, to the precision of its dtype.

    Bisection starts from Cantelli's inequality: with mean μ and standard deviation σ, the quantile of p is between
    μ − σ √((1 − p)/p) and μ + σ √(p/(1 − p)). Quantiles are constants to differentiation.

    Args:
      distribution: its variance is finite, or the result is NaN.
      probabilities: in (0, 1).

    Raises:
      ValueError: if a probability is not in (0, 1).

    Example:
      >>> import jax.numpy as jnp
      >>> from jmeta.distributions import Normal
      >>> [round(float(each), 2) for each in quantiles(Normal(jnp.ones(1), jnp.ones(1)), [0.5, 0.975])[:, 0]]
      [1.0, 2.96]
    """
    if not all(0 < each < 1 for each in probabilities):
        raise ValueError(f"probabilities={list(probabilities)}; expected numbers between 0 and 1")
    distribution = jax.lax.stop_gradient(distribution)
    mean, deviation = distribution.mean(), jnp.sqrt(distribution.variance())
    wanted = jnp.asarray(list(probabilities), mean.dtype).reshape(-1, *[1] * mean.ndim)
    root = 1.01 * jnp.sqrt(wanted / (1 - wanted))  # a little more, for rounding
    ends = mean[None] - deviation[None] * 1.01**2 / root, mean[None] + deviation[None] * root

    def halve(_: Any, ends: tuple[Array, Array]) -> tuple[Array, Array]:
        middle = ends[0] + (ends[1] - ends[0]) / 2
        is_below = jax.vmap(distribution.cdf)(middle) < wanted
        return jnp.where(is_below, middle, ends[0]), jnp.where(is_below, ends[1], middle)

    low, high = jax.lax.fori_loop(0, jnp.finfo(mean.dtype).nmant + 8, halve, ends)
    return low + (high - low) / 2


def crps(distribution: Distribution, y: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Compute the continuous ranked probability score, ∫ (F(x) − 1{x ≥ y})² dx = E|X − y| − ½ E|X − X'|.

    It is proper, in the unit of `y`, and the absolute error where a distribution is sure. Exact for numbers that are 0
    or 1, where it is (p − y)², for `Normal`, and for a `Mixture` of up to 500 normals, nested or not; otherwise the
    integral is computed by quadrature, to four digits or more.

    Args:
      distribution: of `[*shape]` numbers.
      y: what came true.

    Example:
      >>> import jax.numpy as jnp
      >>> from jmeta.distributions import Normal
      >>> scores = crps(Normal(jnp.zeros(2), jnp.array([1.0, 1e-6])), jnp.array([0.0, 2.0]))
      >>> [round(float(score), 3) for score in scores]
      [0.234, 2.0]
    """
    if is_binary(distribution):
        return jnp.square(distribution.mean() - y)
    normals = _weighted_normals(distribution)
    if normals is None or normals[0].shape[-1] > _MOST_PAIRED:
        return _integrated_crps(distribution, y)
    return _crps_of_normals(*normals, y)


_MOST_PAIRED = 500  # components; the exact score takes time for each pair of them, the integral for each component


def _weighted_normals(distribution: Distribution) -> tuple[Array, Normal] | None:
    """Return log weights and normals, `[*shape, components]`; `None` if the distribution is no mixture of normals."""
    if isinstance(distribution, Normal):
        normal = Normal(distribution.loc[..., None], distribution.scale[..., None])
        return jnp.zeros_like(normal.loc), normal
    if not isinstance(distribution, Mixture) or (nested := _weighted_normals(distribution.components)) is None:
        return None
    nested = (jax.nn.log_softmax(distribution.log_weights)[..., None] + nested[0], nested[1])
    return jax.tree.map(lambda leaf: leaf.reshape(*leaf.shape[:-2], leaf.shape[-2] * leaf.shape[-1]), nested)


def _crps_of_normals(
    log_weights: Float[Array, "*shape components"], normals: Normal, y: Float[Array, "*shape"]
) -> Float[Array, "*shape"]:
    """Return Σᵢ wᵢ A(y − μᵢ, σᵢ) − ½ Σᵢⱼ wᵢ wⱼ A(μᵢ − μⱼ, √(σᵢ² + σⱼ²)), with A(μ, σ) = E|μ + σ ε|."""
    weights, (loc, scale) = jnp.exp(log_weights), normals

    def from_all(others: Array, other_scales: Array) -> Array:
        return (weights * _mean_distance(others[..., None] - loc, jnp.hypot(other_scales[..., None], scale))).sum(-1)

    def add(total: Array, component: tuple[Array, Array, Array]) -> tuple[Array, None]:
        weight, other, other_scale = component
        return total + weight * from_all(other, other_scale), None

    components = jax.tree.map(lambda leaf: jnp.moveaxis(leaf, -1, 0), (weights, loc, scale))
    between, _ = jax.lax.scan(add, jnp.zeros_like(y), components)  # one by one: all pairs would not fit into memory
    to_y = (weights * _mean_distance(y[..., None] - loc, scale)).sum(-1)
    return to_y - between / 2


def _mean_distance(loc: Float[Array, "*shape"], scale: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Return E|loc + scale ε| for a standard normal ε."""
    z = loc / scale
    return scale * math.sqrt(2 / math.pi) * jnp.exp(-jnp.square(z) / 2) + loc * jax.lax.erf(z / math.sqrt(2))


_PANELS = (1e-6, 1e-4, 0.003, 0.03, 0.1, 0.2, 0.35, 0.5, 0.65, 0.8, 0.9, 0.97, 0.997, 1 - 1e-4, 1 - 1e-6)


def _integrated_crps(distribution: Distribution, y: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Integrate by a Gauss-Legendre rule between neighbouring quantiles; beyond the last, F is 0 or 1."""
    edges = quantiles(distribution, _PANELS)
    nodes, weights = np.polynomial.legendre.leggauss(32)

    def panel(low: Array, high: Array) -> Array:
        split = jnp.clip(y, low, high)

        def at_node(unit: Array, weight: Array) -> Array:
            below = distribution.cdf(low + (split - low) * unit)
            above = 1 - distribution.cdf(split + (high - split) * unit)
            return weight * ((split - low) * jnp.square(below) + (high - split) * jnp.square(above))

        units, halves = (jnp.asarray(each, y.dtype) for each in ((nodes + 1) / 2, weights / 2))
        return jax.vmap(at_node)(units, halves).sum(0)

    beyond = jnp.abs(y - jnp.clip(y, edges[0], edges[-1]))
    return jax.vmap(panel)(edges[:-1], edges[1:]).sum(0) + beyond


def _check_levels(levels: Sequence[float]) -> None:
    if not all(0 < level < 1 for level in levels):
        raise ValueError(f"levels={tuple(levels)}; expected probabilities between 0 and 1, such as 0.9")


def _percent(level: float) -> str:
    return f"{100 * level:g}"
