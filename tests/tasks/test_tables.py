"""Synthetic tables: sizes, shares of classes, mechanisms against formulas, and labels that columns tell."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jmeta.tasks import kernels, mechanisms, stacked, tables
from jmeta.tasks.tables import _cut

BOTH = [mechanisms.causal_network(num_layers=2, width=8), mechanisms.random_functions(num_waves=8)]
SIZES = {"num_support": (10, 40), "num_queries": 20, "num_features": (2, 6), "num_ways": (2, 4)}


@pytest.fixture(scope="module")
def drawn():
    return jax.tree.map(np.asarray, jax.jit(stacked(tables(BOTH, **SIZES), 400))(jax.random.key(0)))


def test_sizes_are_drawn_from_their_ranges_and_what_is_missing_is_zero(drawn):
    (x, y, mask), query = drawn.support, drawn.query
    counts = mask.sum(1)
    assert (counts.min(), counts.max()) == (10, 40)
    np.testing.assert_allclose(counts.mean(), 25, atol=4 * 31 / np.sqrt(12 * 400))
    assert not x[~mask].any()
    assert not y[~mask].any()
    num_columns = np.array([(each != 0).any(0).sum() for each in np.concatenate([x, query.x], 1)])
    is_last = [(each[:, :n] != 0).any(0).all() for each, n in zip(x, num_columns, strict=True)]
    assert np.mean(is_last) > 0.97  # the columns that there are stand first; a few are constant
    shares = np.bincount(num_columns, minlength=7)[2:] / 400
    np.testing.assert_allclose(shares, np.diff(np.log(np.arange(2, 8))) / np.log(7 / 2), atol=0.09)  # log-uniform


def test_a_query_of_an_unknown_class_is_masked(drawn):
    for labels, is_real, asked, is_known in zip(
        drawn.support.y, drawn.support.mask, drawn.query.y, drawn.query.mask, strict=True
    ):
        np.testing.assert_array_equal(np.isin(asked, labels[is_real]), is_known)
    assert 0.9 < drawn.query.mask.mean() < 1
    assert np.isfinite(drawn.support.x).all()


@pytest.mark.parametrize("imbalance", [0.0, 3.0])
def test_the_shares_of_classes_are_as_unequal_as_asked(imbalance):
    sample = tables(
        BOTH[1:], num_support=200, num_queries=1, num_features=1, num_ways=4, imbalance=imbalance, clusters=1.0
    )
    labels = np.asarray(jax.jit(stacked(sample, 300))(jax.random.key(1)).support.y)
    found = np.sort([np.bincount(each, minlength=4) / 200 for each in labels])[:, ::-1]
    rng = np.random.default_rng(0)
    weights = np.exp(rng.uniform(0, imbalance, (4000, 1)) * rng.normal(size=(4000, 4)))
    counts = rng.multinomial(200, weights / weights.sum(1, keepdims=True))
    np.testing.assert_allclose(found.mean(0), np.sort(counts)[:, ::-1].mean(0) / 200, atol=0.04)
    np.testing.assert_allclose([(labels == c).mean() for c in range(4)], 0.25, atol=0.05)  # names carry no meaning


def test_an_ordered_score_is_cut_into_exact_shares(float64):
    scores = jax.random.normal(jax.random.key(0), (40,))
    weights = jnp.log(jnp.array([0.5, 0.2, 0.3, 0.0]))
    labels = np.asarray(_cut(scores, weights))
    assert np.bincount(labels).tolist() == [20, 8, 12]
    assert (np.diff(labels[np.argsort(scores)]) >= 0).all()


def test_random_functions_have_the_covariance_of_a_gaussian_process(float64):
    """Over many scores of one table, of a single column: its relevance is 1."""
    x = jnp.linspace(-1.0, 1.0, 4)[:, None]
    mechanism = mechanisms.random_functions(num_waves=4000, length_scale=(0.7, 0.7))
    columns, scores = mechanism(jax.random.key(0), x, jnp.ones(1, bool), 4000)
    expected = kernels.rbf(length_scale=0.7).gram(jnp.zeros(0), x, x)
    np.testing.assert_allclose(scores @ scores.T / 4000, expected, atol=0.1)  # standard errors up to 0.03
    np.testing.assert_array_equal(columns, x)


def test_random_functions_ignore_columns_that_a_table_lacks(float64):
    x = jax.random.normal(jax.random.key(0), (5, 3))
    mechanism, is_column = mechanisms.random_functions(), jnp.array([True, False, True])
    scores = mechanism(jax.random.key(1), x, is_column, 2)[1]
    np.testing.assert_array_equal(mechanism(jax.random.key(1), x.at[:, 1].set(7.0), is_column, 2)[1], scores)
    assert abs(mechanism(jax.random.key(1), x.at[:, 0].set(7.0), is_column, 2)[1] - scores).max() > 1e-3


def test_columns_and_scores_of_a_network_are_different_nodes_and_depend_on_each_other():
    causes = jax.random.normal(jax.random.key(0), (200, 4))
    draw = jax.jit(lambda key: mechanisms.causal_network()(key, causes, jnp.ones(4, bool), 3))
    strongest = []
    for key in jax.random.split(jax.random.key(1), 20):
        nodes = np.concatenate(draw(key), 1)
        assert np.isfinite(nodes).all()
        correlations = np.abs(np.nan_to_num(np.corrcoef(nodes + 1e-9 * np.arange(200)[:, None], rowvar=False)))
        np.fill_diagonal(correlations, 0.0)
        assert correlations.max() < 0.99999
        strongest.append(correlations[:4, 4:].max())
    assert np.median(strongest) > 0.3  # without dependence, the strongest of 12 is about 0.15


def test_labels_follow_from_columns():
    """The nearest mean of standardized columns is right more often than the most frequent class."""
    sample = tables(BOTH, num_support=60, num_queries=60, num_features=4, num_ways=2, imbalance=0.0)
    task = jax.tree.map(np.asarray, jax.jit(stacked(sample, 100))(jax.random.key(0)))
    right, most_frequent = [], []
    for x, y, new_x, new_y in zip(task.support.x, task.support.y, task.query.x, task.query.y, strict=True):
        if len(np.unique(y)) < 2:
            continue
        scale = x.std(0) + 1e-9
        distances = [np.square((new_x - x[y == c].mean(0)) / scale).sum(1) for c in (0, 1)]
        right.append((np.argmin(distances, 0) == new_y).mean())
        most_frequent.append(np.bincount(new_y).max() / 60)
    assert np.mean(right) > np.mean(most_frequent) + 0.08


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"num_support": (5, 3)}, r"num_support=\(5, 3\)"),
        ({"num_queries": 0}, "num_queries"),
        ({"num_features": 0}, "num_features=0"),
        ({"num_ways": (3, 2)}, r"num_ways=\(3, 2\)"),
        ({"imbalance": -1.0}, "imbalance=-1.0"),
        ({"clusters": 1.5}, "clusters=1.5"),
    ],
)
def test_impossible_numbers_are_refused(changed, message):
    with pytest.raises(ValueError, match=message):
        tables(BOTH, **SIZES | changed)


def test_impossible_mechanisms_are_refused(key):
    with pytest.raises(ValueError, match="mechanisms is empty"):
        tables([], **SIZES)
    with pytest.raises(ValueError, match="num_waves"):
        mechanisms.random_functions(num_waves=0)
    with pytest.raises(ValueError, match=r"length_scale=\(0.0, 1.0\)"):
        mechanisms.random_functions(length_scale=(0.0, 1.0))
    with pytest.raises(ValueError, match="width=2 is less than the 3 scores"):
        mechanisms.causal_network(width=2)(key, jnp.ones((5, 4)), jnp.ones(4, bool), 3)
