"""Classification of the rows of synthetic tables: the prior that a tabular classifier is fitted to.

A task draws the sizes of a table, the causes of its rows, a mechanism that makes columns of these, and a rule for the
label. So a learner that is trained on such tasks approximates Bayesian inference under this prior, and may be used on
tables that were never seen.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax.tree_util import Partial
from jaxtyping import Array, Bool, Float, Int

from ..types import Batch, RandomKey, Task
from .class_arrays import check_positive
from .gaussian_process import Count, count_ends
from .mechanisms import Mechanism, standardized

__all__ = ["tables"]


def tables(
    mechanisms: Sequence[Mechanism],
    *,
    num_support: Count,
    num_queries: int,
    num_features: Count,
    num_ways: Count,
    imbalance: float = 1.0,
    clusters: float = 0.4,
) -> Partial:
    """Build a sampler of random tables with a label for each row.

    The causes of a row are correlated normal or uniform numbers. In some tables the label is one of them: each class
    has a centre, and the rows lie around those. In the others the label follows from a mechanism's scores: their
    largest is the class, or the rows are put into the order of one score and cut into classes. Columns may be warped,
    so that they have long tails, or be categorical. Names of classes carry no meaning.

    Args:
      mechanisms: each table has one of them, all equally likely, such as `causal_network()` and `random_functions()`.
      num_support: labelled rows; a range is drawn from uniformly, both ends included, and padded and masked.
      num_queries: rows to predict. One whose class the support lacks is masked.
      num_features: columns, or the fewest and the most, drawn from log-uniformly. Those that a table lacks are zeros.
      num_ways: classes, or the fewest and the most, likewise. A class may have no row.
      imbalance: classes have weights exp(s nₖ), with nₖ normal and s uniform between 0 and this number. At 0 they are
        equally frequent but for chance, exactly so where an ordered score is cut.
      clusters: the share of tables whose label is a cause, in [0, 1].

    Returns:
      `sample(key) -> Task`, with `x` of shape `[rows, num_features]`, float64 where JAX computes in it, else float32,
      and int32 `y`. Both masks are set.

    Raises:
      ValueError: if there is no mechanism, or a number is out of its range.

    Example:
      >>> import jax
      >>> from jmeta.tasks import mechanisms
      >>> kinds = [mechanisms.causal_network(), mechanisms.random_functions()]
      >>> sample = tables(kinds, num_support=(20, 100), num_queries=30, num_features=(2, 16), num_ways=(2, 5))
      >>> task = sample(jax.random.key(0))
      >>> task.support.x.shape, task.query.y.shape
      ((100, 16), (30,))

    Reference:
      Hollmann, Müller, Eggensperger, Hutter, "TabPFN: A Transformer That Solves Small Tabular Classification Problems
      in a Second", 2022, arXiv:2207.01848, section 4 and appendix. The ranges and the tables of clusters are ours.
    """
    check_positive({"num_queries": num_queries})
    if not mechanisms:
        raise ValueError("mechanisms is empty; pass at least one, such as mechanisms.causal_network()")
    if not 0 <= imbalance < float("inf"):
        raise ValueError(f"imbalance={imbalance}; expected a standard deviation of at least 0")
    if not 0 <= clusters <= 1:
        raise ValueError(f"clusters={clusters}; expected a share of tables, in [0, 1]")
    support, features = count_ends("num_support", num_support, 1), count_ends("num_features", num_features, 1)
    ways = count_ends("num_ways", num_ways, 1)
    return Partial(_Tables(tuple(mechanisms), support, num_queries, features, ways, imbalance, clusters))


@dataclass(frozen=True)
class _Tables:
    mechanisms: tuple[Mechanism, ...]
    num_support: tuple[int, int]
    num_queries: int
    num_features: tuple[int, int]
    num_ways: tuple[int, int]
    imbalance: float
    clusters: float

    def __call__(self, key: RandomKey) -> Task:
        keys = iter(jax.random.split(key, 7))
        most_rows, most_features = self.num_support[1], self.num_features[1]
        num_support = jax.random.randint(next(keys), (), self.num_support[0], most_rows + 1)
        is_column = jnp.arange(most_features) < _few_or_many(next(keys), self.num_features)
        log_weights = self._log_weights(next(keys), _few_or_many(next(keys), self.num_ways))
        columns, labels = self._rows(next(keys), is_column, log_weights)
        columns = jnp.where(is_column[None], _distorted(next(keys), columns), 0.0)
        labels = _renamed(next(keys), labels, jnp.isfinite(log_weights))
        is_real = jnp.arange(most_rows) < num_support
        support = Batch(jnp.where(is_real[:, None], columns[:most_rows], 0.0),
                        jnp.where(is_real, labels[:most_rows], 0), is_real)  # fmt: skip
        is_known = (is_real[None] & (labels[most_rows:, None] == labels[None, :most_rows])).any(1)
        return Task(support, Batch(columns[most_rows:], labels[most_rows:], is_known))

    def _log_weights(self, key: RandomKey, num_ways: Int[Array, ""]) -> Float[Array, "ways"]:
        """Draw the logarithms of the classes' shares; -inf for those that the table does not have."""
        key_scale, key_each = jax.random.split(key)
        dtype, most = jnp.result_type(float), self.num_ways[1]
        scale = jax.random.uniform(key_scale, (), dtype, 0.0, self.imbalance)
        weights = scale * jax.random.normal(key_each, (most,), dtype)
        return jax.nn.log_softmax(jnp.where(jnp.arange(most) < num_ways, weights, -jnp.inf))

    def _rows(
        self, key: RandomKey, is_column: Bool[Array, "features"], log_weights: Float[Array, "ways"]
    ) -> tuple[Float[Array, "rows features"], Int[Array, "rows"]]:
        """Draw the rows of support and query, and label them."""
        key_label, key_causes, key_which, key_mechanism, key_rule, key_noise = jax.random.split(key, 6)
        num_rows, dtype = self.num_support[1] + self.num_queries, log_weights.dtype
        cause = jax.random.categorical(key_label, log_weights, shape=(num_rows,))
        unit = jax.random.uniform(key_rule, (), dtype)
        is_cluster, is_ordered = unit < self.clusters, unit > (1 + self.clusters) / 2
        causes = _causes(key_causes, cause, is_cluster, is_column, len(log_weights))
        keys = jax.random.split(key_mechanism, len(self.mechanisms))
        drawn = [each(k, causes, is_column, len(log_weights)) for each, k in zip(self.mechanisms, keys, strict=True)]
        which = jax.random.randint(key_which, (), 0, len(drawn))
        columns, scores = (
            jnp.stack(each)[which] for each in zip(*drawn, strict=True)
        )  # vmap of a switch computes all, too
        key_scale, key_each = jax.random.split(key_noise)
        noise = jax.random.normal(key_each, scores.shape, dtype)
        scores = standardized(scores) + jax.random.uniform(key_scale, (), dtype, 0.0, 0.5) * noise
        followed = jnp.where(is_ordered, _cut(scores[:, 0], log_weights), jnp.argmax(scores + log_weights[None], 1))
        return columns, jnp.where(is_cluster, cause, followed.astype(cause.dtype))


def _few_or_many(key: RandomKey, ends: tuple[int, int]) -> Int[Array, ""]:
    """Draw a number log-uniformly, both ends included."""
    low, high = jnp.log(jnp.array([ends[0], ends[1] + 1], jnp.float32))
    drawn = jnp.exp(jax.random.uniform(key, (), jnp.float32, low, high)).astype(jnp.int32)
    return jnp.clip(drawn, *ends)


def _causes(
    key: RandomKey, labels: Int[Array, "rows"], is_cluster: Array, is_column: Bool[Array, "features"], num_ways: int
) -> Float[Array, "rows features"]:
    """Draw correlated causes, around the centres of the classes where the label is a cause."""
    keys, dtype = jax.random.split(key, 8), jnp.result_type(float)
    shape, num_factors = (len(labels), len(is_column)), 3
    normal = jax.random.normal(keys[0], shape, dtype)
    uniform = jax.random.uniform(keys[1], shape, dtype, -(3**0.5), 3**0.5)
    own = jnp.where(jax.random.bernoulli(keys[2], 0.7), normal, uniform)
    loadings = jax.random.normal(keys[3], (num_factors, shape[1]), dtype)
    loadings = loadings / jnp.sqrt(jnp.square(loadings).sum(0, keepdims=True))
    shared = jax.random.uniform(keys[4], (), dtype, 0.0, 0.9)
    factors = jax.random.normal(keys[5], (shape[0], num_factors), dtype) @ loadings
    rows = jnp.sqrt(shared) * factors + jnp.sqrt(1 - shared) * own
    key_scale, key_part, key_centre = jax.random.split(keys[6], 3)
    share = jax.random.uniform(key_part, (), dtype, 0.1, 1.0)
    is_part = jax.random.bernoulli(keys[7], share, (shape[1],))
    scale = jnp.exp(jax.random.uniform(key_scale, (), dtype, -1.2, 1.2))
    centres = scale * jnp.where(is_part[None], jax.random.normal(key_centre, (num_ways, shape[1]), dtype), 0.0)
    return jnp.where(is_column[None], rows + jnp.where(is_cluster, centres[labels], 0.0), 0.0)


def _cut(scores: Float[Array, "rows"], log_weights: Float[Array, "ways"]) -> Int[Array, "rows"]:
    """Put rows into the order of their scores, and cut the order into classes of the given shares."""
    place = (jnp.argsort(jnp.argsort(scores)).astype(scores.dtype) + 0.5) / len(scores)
    ends = jnp.cumsum(jnp.exp(log_weights))
    last = jnp.isfinite(log_weights).sum() - 1
    return jnp.minimum((place[:, None] > ends[None]).sum(1), last)


def _distorted(key: RandomKey, columns: Float[Array, "rows features"]) -> Float[Array, "rows features"]:
    """Standardize the columns, warp some of them, and make some categorical."""
    keys, dtype = jax.random.split(key, 9), columns.dtype
    num_features, most_levels = columns.shape[1], 6
    each = lambda key, low, high: jax.random.uniform(key, (num_features,), dtype, low, high)[None]  # noqa: E731
    columns = standardized(columns)
    kind, power, rate = each(keys[0], 0.0, 1.0), each(keys[1], 0.4, 2.0), each(keys[2], -1.0, 1.0)
    magnitude = jnp.where(columns == 0, 1.0, jnp.abs(columns))
    powers = jnp.sign(columns) * magnitude**power
    warped = jnp.where(kind < 0.15, powers, jnp.where(kind < 0.3, jnp.exp(rate * columns), columns))
    thresholds = jax.random.normal(keys[3], (most_levels - 1, 1, num_features), dtype)
    num_levels = jax.random.randint(keys[4], (num_features,), 2, most_levels + 1)
    is_used = jnp.arange(most_levels - 1)[:, None] < (num_levels - 1)[None]
    levels = ((columns[None] > thresholds) & is_used[:, None]).sum(0)
    codes = jax.random.normal(keys[5], (most_levels, num_features), dtype)
    nominal = jnp.take_along_axis(codes, levels, 0)
    coded = jnp.where(each(keys[6], 0.0, 1.0) < 0.5, nominal, levels.astype(dtype))
    share = jnp.maximum(jax.random.uniform(keys[7], (), dtype, -1.0, 1.0), 0.0)
    return jnp.where(each(keys[8], 0.0, 1.0) < share, coded, warped)


def _renamed(key: RandomKey, labels: Int[Array, "rows"], is_class: Bool[Array, "ways"]) -> Int[Array, "rows"]:
    """Permute the names of the classes that there are, which are the first."""
    order = jnp.where(is_class, jax.random.uniform(key, is_class.shape), 2.0)
    return jnp.argsort(jnp.argsort(order))[labels].astype(jnp.int32)
