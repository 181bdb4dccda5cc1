"""Scores and calibration: closed forms against integrals, draws and NumPy; tasks pooled against all their queries."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from jax.test_util import check_grads

import jmeta
from jmeta import Batch, calibration, learners, losses, models, tasks
from jmeta.calibration import Reliability
from jmeta.distributions import Bernoulli, Mixture, Normal, mix

LOGITS = 2 * np.random.default_rng(0).normal(size=(200, 4))
LABELS = np.random.default_rng(1).integers(0, 4, 200)

crps = jax.jit(calibration.crps)
class_scores = jax.jit(calibration.class_scores, static_argnames=("num_bins", "levels"))
number_scores = jax.jit(calibration.number_scores)
quantiles = jax.jit(calibration.quantiles, static_argnums=1)


class Logistic(NamedTuple):
    """Logistic distributions: neither normal nor a mixture of normals."""

    loc: jax.Array
    scale: jax.Array

    def log_prob(self, y):
        return jax.scipy.stats.logistic.logpdf(y, self.loc, self.scale)

    def mean(self):
        return self.loc

    def variance(self):
        return (self.scale * jnp.pi) ** 2 / 3

    def sample(self, key):
        return self.loc + self.scale * jax.random.logistic(key, self.loc.shape, self.loc.dtype)

    def cdf(self, y):
        return jax.nn.sigmoid((y - self.loc) / self.scale)


def batch_of(y, mask=None):
    return Batch(jnp.zeros((len(y), 1)), jnp.asarray(y), mask)


def softmax(logits):
    return np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)


def _normal():
    return Normal(jnp.array([-1.0, 0.5, 3.0]), jnp.array([0.5, 2.0, 0.1]))


def _mixture():
    locs, scales = jnp.array([[-1.0, 1.0], [0.0, 0.5], [-4.0, 4.0]]), jnp.array([[0.5, 0.25], [1.0, 2.0], [0.1, 0.2]])
    return Mixture(jnp.broadcast_to(jnp.log(jnp.array([0.3, 0.7])), (3, 2)), Normal(locs, scales))


def _nested():
    stacked = jax.tree.map(
        lambda *leaves: jnp.stack(leaves), _mixture(), _mixture()._replace(log_weights=jnp.eye(3, 2))
    )
    return mix(stacked)


def _logistic():
    return Logistic(jnp.array([-1.0, 0.5, 3.0]), jnp.array([0.5, 2.0, 0.1]))


def _logistics():
    return Mixture(jnp.zeros((3, 2)), Logistic(_mixture().components.loc, _mixture().components.scale))


DISTRIBUTIONS = pytest.mark.parametrize("make", [_normal, _mixture, _nested, _logistic, _logistics])


@DISTRIBUTIONS
def test_the_crps_is_the_integral_over_the_distribution_function(float64, make):
    distribution, y = make(), jnp.array([[-1.2, 0.4, 2.9], [0.0, -30.0, 3.0], [40.0, 8.0, -2.0]])
    grid = np.linspace(-80.0, 80.0, 160_001)
    ranks = np.asarray(jax.jit(jax.vmap(lambda x: distribution.cdf(jnp.full(3, x))))(jnp.asarray(grid)))
    found = jax.jit(jax.vmap(calibration.crps, in_axes=(None, 0)))(distribution, y)
    for values, targets in zip(found, np.asarray(y), strict=True):
        expected = np.trapezoid((ranks - (grid[:, None] >= targets)) ** 2, grid, axis=0)
        np.testing.assert_allclose(values, expected, atol=1e-3, rtol=1e-5)


@DISTRIBUTIONS
def test_the_crps_is_a_difference_of_mean_distances(float64, make):
    distribution, y = make(), jnp.array([-1.2, 0.4, 2.9])
    draws = jax.jit(jax.vmap(distribution.sample))(jax.random.split(jax.random.key(0), 40_000))
    draws, others = np.asarray(draws).reshape(2, 20_000, 3)
    values = np.abs(draws - np.asarray(y)) - np.abs(draws - others) / 2
    error = values.std(0) / np.sqrt(20_000)
    assert (np.abs(crps(distribution, y) - values.mean(0)) < 4 * error).all()


def test_the_crps_of_a_normal_is_its_closed_form(float64):
    """σ (z (2Φ(z) − 1) + 2φ(z) − 1/√π), which a mixture of one component has, too."""
    distribution, y = _normal(), jnp.array([-1.2, 0.4, 2.9])
    z, normal = (y - distribution.loc) / distribution.scale, scipy.stats.norm
    expected = distribution.scale * (z * (2 * normal.cdf(z) - 1) + 2 * normal.pdf(z) - 1 / np.sqrt(np.pi))
    np.testing.assert_allclose(crps(distribution, y), expected, rtol=1e-12)
    alone = mix(jax.tree.map(lambda leaf: leaf[None], distribution))
    np.testing.assert_allclose(crps(alone, y), expected, rtol=1e-12)


def test_the_two_routes_to_the_crps_agree(float64):
    """The closed form of a mixture, and the integral that any distribution gets."""
    y = jnp.array([-1.2, 0.4, 2.9])
    for distribution in (_normal(), _mixture(), _nested()):
        integrated = jax.jit(calibration._integrated_crps)(distribution, y)
        np.testing.assert_allclose(integrated, crps(distribution, y), atol=1e-5)


def test_the_crps_has_the_gradient_of_finite_differences(float64):
    y = jnp.array([-1.2, 0.4, 2.9])
    for distribution in (_normal(), _mixture(), _logistic()):
        check_grads(jax.jit(lambda d: calibration.crps(d, y).sum()), (distribution,), 1, ["rev"], rtol=1e-4)


@DISTRIBUTIONS
def test_quantiles_invert_the_distribution_function(float64, make):
    distribution, probabilities = make(), (1e-4, 0.025, 0.3, 0.5, 0.975)
    found = quantiles(distribution, probabilities)
    ranks = jax.jit(jax.vmap(distribution.cdf))(found)
    np.testing.assert_allclose(ranks, np.broadcast_to(np.array(probabilities)[:, None], (5, 3)), rtol=1e-6)


def test_quantiles_of_a_normal_are_those_of_scipy():
    found = quantiles(_normal(), (0.025, 0.5, 0.9))
    expected = scipy.stats.norm(*map(np.asarray, _normal())).ppf(np.array([[0.025], [0.5], [0.9]]))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)  # in float32


def test_intervals_of_the_exact_posterior_cover_as_often_as_they_say(float64):
    kernel = tasks.kernels.rbf(length_scale=(0.2, 0.8))
    sample = tasks.gaussian_process(kernel, num_shots=5, num_queries=1, noise=0.3)
    learner = learners.exact_gaussian_process(kernel, noise=0.3, num_nodes=4)
    loss_fn = calibration.with_calibration(losses.negative_log_likelihood)
    numbers = {"protocol": "one query of each task", "num_tasks": 1000, "tasks_at_once": 100}
    result = jmeta.evaluate(learner, loss_fn, {}, sample, jax.random.key(0), **numbers)
    for level in calibration.LEVELS:
        share = result.inductive[f"coverage_{100 * level:g}"].mean
        assert abs(share - level) < 3.3 * np.sqrt(level * (1 - level) / 1000)
    assert result.inductive["width_50"].mean < result.inductive["width_90"].mean
    sharper = learners.exact_gaussian_process(kernel, noise=0.03, num_nodes=4)  # a learner too sure of itself
    other = jmeta.evaluate(sharper, loss_fn, {}, sample, jax.random.key(0), **numbers).inductive
    assert other["coverage_90"].mean < 0.8
    for name in ("crps", "negative_log_likelihood"):  # proper: nothing is better than the truth
        assert jmeta.evaluation.paired_difference(other[name], result.inductive[name]).mean > 0


def test_scores_of_numbers_are_those_of_numpy(float64):
    loc, scale = np.random.default_rng(0).normal(size=(2, 30, 2))
    y, scale = np.random.default_rng(1).normal(size=(30, 2)), np.exp(scale)
    scores = number_scores(Normal(jnp.asarray(loc), jnp.asarray(scale)), batch_of(y))
    exact = scipy.stats.norm(loc, scale)
    np.testing.assert_allclose(scores["negative_log_likelihood"], -exact.logpdf(y).sum(-1).mean(), rtol=1e-12)
    for level in calibration.LEVELS:
        low, high = exact.interval(level)
        np.testing.assert_allclose(scores[f"coverage_{100 * level:g}"], ((low <= y) & (y <= high)).mean(), rtol=1e-12)
        np.testing.assert_allclose(scores[f"width_{100 * level:g}"], (high - low).mean(), rtol=1e-9)
    sure = number_scores(jnp.asarray(loc), batch_of(y))
    np.testing.assert_allclose(sure["crps"], np.abs(loc - y).mean(), rtol=1e-12)
    nearly = number_scores(Normal(jnp.asarray(loc), jnp.full_like(loc, 1e-9)), batch_of(y))
    np.testing.assert_allclose(sure["crps"], nearly["crps"], rtol=1e-7)


def test_scores_of_classes_are_those_of_numpy(float64):
    scores = class_scores(jnp.asarray(LOGITS), batch_of(LABELS), num_bins=10)
    probs, one_hot = softmax(LOGITS), np.eye(4)[LABELS]
    np.testing.assert_allclose(scores["brier_score"], ((probs - one_hot) ** 2).sum(-1).mean(), rtol=1e-12)
    nll = -np.log(probs[np.arange(200), LABELS]).mean()
    np.testing.assert_allclose(scores["negative_log_likelihood"], nll, rtol=1e-12)
    confidence, error = probs.max(-1), 0.0
    for b in range(10):
        chosen = (confidence > b / 10) & (confidence <= (b + 1) / 10)
        if chosen.any():
            accuracy = (probs.argmax(-1) == LABELS)[chosen].mean()
            error += chosen.mean() * abs(accuracy - confidence[chosen].mean())
    np.testing.assert_allclose(scores["calibration_error"], error, rtol=1e-12)
    for level in calibration.LEVELS:
        sets = []
        for row in probs:
            order = sorted(range(4), key=lambda k: -row[k])
            size = next(n for n in range(1, 5) if row[order[:n]].sum() >= level)
            sets.append(order[:size])
        np.testing.assert_allclose(scores[f"set_size_{100 * level:g}"], np.mean([len(each) for each in sets]))
        covered = np.mean([label in each for label, each in zip(LABELS, sets, strict=True)])
        np.testing.assert_allclose(scores[f"coverage_{100 * level:g}"], covered)


def test_calibrated_predictions_have_no_calibration_error_and_cover(float64, key):
    """Labels drawn from the predicted probabilities: the error tends to 0, and sets cover at least as asked."""
    logits = 2 * jax.random.normal(key, (40_000, 5))
    labels = jax.random.categorical(jax.random.key(1), logits)
    scores = class_scores(logits, batch_of(labels))
    few = class_scores(logits[:100], batch_of(labels[:100]))
    assert scores["calibration_error"] < 0.01 < few["calibration_error"]
    sharper = class_scores(3 * logits, batch_of(labels))
    assert sharper["calibration_error"] > 0.1
    assert sharper["brier_score"] > scores["brier_score"]
    expected = 1 - jnp.square(jax.nn.softmax(logits)).sum(-1).mean()  # E[Brier | p] = 1 − Σ pₖ²
    np.testing.assert_allclose(scores["brier_score"], expected, atol=0.01)
    for level in calibration.LEVELS:
        assert scores[f"coverage_{100 * level:g}"] > level - 0.01


def test_the_brier_score_is_reliability_minus_resolution_plus_uncertainty(float64):
    """Murphy's decomposition of two classes, of predictions that take three values."""
    rng = np.random.default_rng(0)
    p = rng.choice([0.2, 0.5, 0.9], 500)
    labels = (rng.random(500) < 0.6 * p + 0.1).astype(int)
    logits = np.log(np.stack([1 - p, p], -1))
    scores = class_scores(jnp.asarray(logits), batch_of(labels))
    base = labels.mean()
    terms = 0.0
    for value in (0.2, 0.5, 0.9):
        rate, share = labels[p == value].mean(), (p == value).mean()
        terms += share * ((value - rate) ** 2 - (rate - base) ** 2)
    np.testing.assert_allclose(scores["brier_score"], 2 * (terms + base * (1 - base)), rtol=1e-10)


def test_an_absent_class_is_in_no_set():
    logits = jnp.array([[0.0, -jnp.inf, 1.0], [2.0, -jnp.inf, 0.0]])
    scores = class_scores(logits, batch_of([0, 2]), levels=(0.999,))
    assert float(scores["set_size_99.9"]) == 2.0
    assert float(scores["coverage_99.9"]) == 1.0


def test_a_label_out_of_range_is_not_scored():
    for label in (-1, 3):
        scores = class_scores(jnp.zeros((2, 3)), batch_of([0, label]))
        for name in ("negative_log_likelihood", "brier_score", "coverage_90"):
            assert np.isnan(scores[name]), name


def test_padding_changes_nothing(float64):
    def padded(array, value):
        return jnp.concatenate([jnp.asarray(array), jnp.full((3, *array.shape[1:]), value, array.dtype)])

    mask = jnp.arange(203) < 200
    plain = class_scores(jnp.asarray(LOGITS), batch_of(LABELS))
    masked = class_scores(padded(LOGITS, jnp.nan), batch_of(padded(LABELS, -1), mask))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12), masked, plain)
    y, loc = LOGITS[:, :2], LOGITS[:, 2:]
    for make in (
        lambda loc: Normal(loc, jnp.ones_like(loc)),
        lambda loc: Logistic(loc, jnp.ones_like(loc)),
        lambda loc: loc,
    ):
        plain = number_scores(make(jnp.asarray(loc)), batch_of(y))
        masked = number_scores(make(padded(loc, jnp.nan)), batch_of(padded(y, jnp.nan), mask))
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12), masked, plain)


def test_a_task_of_padding_alone_scores_zero():
    nothing = jnp.zeros(2, bool)
    for scores in (
        class_scores(jnp.full((2, 3), jnp.nan), batch_of([-1, -1], nothing)),
        number_scores(Normal(jnp.zeros((2, 1)), jnp.ones((2, 1))), batch_of(np.ones((2, 1)), nothing)),
    ):
        assert all(not np.any(leaf) for leaf in jax.tree.leaves(scores))


def _evaluated(sample, **numbers):
    learner = learners.nearest_mean(num_ways=4)
    loss_fn = calibration.with_calibration(losses.cross_entropy)
    return jmeta.evaluate(learner, loss_fn, {}, sample, jax.random.key(5), protocol="blobs", **numbers)


def test_the_pooled_diagram_is_that_of_all_queries_together():
    """Of tasks with unequal numbers of queries, so that the mean of the tasks' own errors is another number."""
    sample = tasks.ragged(tasks.gaussian_blobs(num_ways=4, num_shots=2, num_queries=6, num_features=2), num_ways=4)
    learner, batches, of_tasks = learners.nearest_mean(num_ways=4), [], []

    @jax.jit
    def predictions(key):
        task = sample(key)
        outputs = learner.predict({}, learner.adapt({}, task.support, key), task.query.x, None)
        return task.query._replace(x=outputs), calibration.class_scores(outputs, task.query)["calibration_error"]

    for key_of_task in jax.random.split(jax.random.key(5), 30):
        batch, error = jax.device_get(predictions(jax.random.split(key_of_task)[0]))
        batches.append([batch.x[batch.mask], batch.y[batch.mask]])
        of_tasks.append(error)
    outputs, labels = (np.concatenate(each) for each in zip(*batches, strict=True))
    expected = jax.jit(calibration.reliability)(outputs, batch_of(labels))
    result = _evaluated(sample, num_tasks=30, tasks_at_once=7)  # the last chunk is padded
    pooled = result.reliability["inductive"]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), pooled, expected)
    np.testing.assert_allclose(pooled.calibration_error(), expected.calibration_error(), rtol=1e-4)
    np.testing.assert_allclose(result.inductive["calibration_error"].values, of_tasks, atol=1e-5)
    assert result.inductive["calibration_error"].mean > 1.5 * pooled.calibration_error()
    assert f"pooled calibration_error {pooled.calibration_error():.4f}" in str(result)


def test_the_scores_change_no_bit_of_what_a_loss_reports(key):
    sample = tasks.gaussian_blobs(num_ways=4, num_shots=2, num_queries=6)
    plain = jmeta.evaluate(
        learners.nearest_mean(num_ways=4), losses.cross_entropy, {}, sample, jax.random.key(5), protocol="", num_tasks=9
    )
    scored = _evaluated(sample, num_tasks=9)
    assert plain.reliability == {}
    assert set(plain.inductive) == {"loss", "accuracy"} < set(scored.inductive)
    for name, expected in plain.inductive.items():
        np.testing.assert_array_equal(scored.inductive[name].values, expected.values)


def test_a_transductive_learner_has_two_diagrams(key):
    nearest, sample = learners.nearest_mean(num_ways=4), tasks.gaussian_blobs(num_ways=4, num_shots=2, num_queries=6)
    centred = lambda m, adapted, x, key: nearest.predict(m, adapted, x - x.mean(0, keepdims=True), key)
    loss_fn = calibration.with_calibration(losses.cross_entropy)
    learner = nearest._replace(predict=centred)
    result = jmeta.evaluate(learner, loss_fn, {}, sample, key, protocol="blobs", num_tasks=5)
    assert set(result.reliability) == {"inductive", "transductive"}
    assert all(diagram.counts.sum() == 5 * 4 * 6 for diagram in result.reliability.values())
    assert not np.allclose(result.reliability["inductive"].confidence, result.reliability["transductive"].confidence)


def test_a_task_that_is_nan_is_left_out_of_the_diagram():
    blobs = tasks.gaussian_blobs(num_ways=4, num_shots=2, num_queries=6)

    def sample(key):
        task = blobs(key)
        fault = jnp.where(jax.random.uniform(key) < 0.5, jnp.nan, 1.0)
        return task._replace(query=task.query._replace(x=task.query.x * fault))

    result = _evaluated(sample, num_tasks=10)
    num_left_out = result.inductive["calibration_error"].num_undefined
    assert 0 < num_left_out < 10
    assert result.reliability["inductive"].counts.sum() == (10 - num_left_out) * 24
    assert np.isfinite(result.reliability["inductive"].calibration_error())


def test_a_loss_gets_the_scores_of_what_its_predictions_are(key):
    judge = lambda loss_fn, outputs, y: calibration.with_calibration(loss_fn)(outputs, batch_of(y))[1]
    one = lambda outputs, batch: (jnp.zeros(()), {"crps": jnp.ones(())})
    assert {"brier_score", "accuracy"} <= set(judge(losses.cross_entropy, jnp.zeros((2, 3)), np.array([0, 2])))
    assert set(judge(losses.squared_error, jnp.zeros((2, 3)), np.zeros((2, 3)))) == {"squared_error", "crps"}
    assert float(judge(one, jnp.zeros((2, 3)), np.zeros((2, 3)))["crps"]) == 1.0  # the loss's own number stays
    assert set(judge(one, jnp.zeros((2, 3)), np.zeros(2))) == {"crps"}
    assert set(judge(one, {"of a method": jnp.zeros(2)}, np.zeros(2))) == {"crps"}
    model = models.normal_outputs(models.mlp([4, 2]))
    prediction = model.apply(model.init(key, jnp.zeros((3, 1))), jnp.zeros((3, 1)), None)
    assert "width_95" in judge(losses.negative_log_likelihood, prediction, np.zeros((3, 1)))


def test_a_diagram_of_nothing_has_no_error():
    nothing = Reliability(*np.zeros((3, 5)))
    assert nothing.calibration_error() == 0
    assert np.isnan(nothing.accuracy()).all()
    assert np.isnan(nothing.mean_confidence()).all()


def test_faults_are_named():
    with pytest.raises(ValueError, match="num_bins=0; expected at least one"):
        calibration.reliability(jnp.zeros((2, 3)), batch_of([0, 1]), num_bins=0)
    with pytest.raises(ValueError, match="expected probabilities between 0 and 1, such as 0.9"):
        calibration.with_calibration(losses.cross_entropy, levels=(90.0,))
    with pytest.raises(ValueError, match="expected numbers between 0 and 1"):
        quantiles(_normal(), (0.5, 1.0))
    with pytest.raises(ValueError, match="one integer label for each"):
        class_scores(jnp.zeros((2, 3)), batch_of([[0], [1]]))
    for outputs in (jnp.zeros((2, 1)), Normal(jnp.zeros((2, 1)), jnp.ones((2, 1)))):
        with pytest.raises(ValueError, match="one shape"):
            number_scores(outputs, batch_of(np.zeros(2)))


def test_numbers_that_are_0_or_1_are_judged_as_two_classes(float64):
    """Against NumPy; with padding, and for a mixture."""
    logits, mask = jnp.asarray(LOGITS).reshape(4, 100, 2), jnp.arange(100) < 80
    y = (np.random.default_rng(2).random((100, 2)) < 0.3).astype(float)
    outputs = mix(Bernoulli(logits))
    batch = batch_of(np.where(mask[:, None], y, np.nan), mask)
    loss, aux = calibration.with_calibration(losses.negative_log_likelihood)(outputs, batch)
    probs, kept = (1 / (1 + np.exp(-np.asarray(logits)))).mean(0)[:80], y[:80]
    nats = -np.log(np.where(kept == 1, probs, 1 - probs))
    np.testing.assert_allclose([loss, aux["negative_log_likelihood"]], nats.sum(1).mean(), rtol=1e-12)
    brier = np.square(probs - kept).mean()
    np.testing.assert_allclose([aux["squared_error"], aux["brier_score"] / 2], brier, rtol=1e-12)
    np.testing.assert_allclose(crps(outputs, jnp.asarray(y))[:80].mean(), brier, rtol=1e-12)
    confident, correct = np.maximum(probs, 1 - probs).ravel(), ((probs > 0.5) == kept).ravel()
    bins = np.ceil(confident * 15).astype(int)
    error = sum(abs(correct[bins == b].sum() - confident[bins == b].sum()) for b in range(16)) / correct.size
    np.testing.assert_allclose(aux["calibration_error"], error, rtol=1e-9)
    np.testing.assert_allclose(aux["coverage_90"], ((confident < 0.9) | correct.reshape(-1)).mean(), rtol=1e-12)
    assert float(aux["reliability"].counts.sum()) == 160


def test_scores_of_other_numbers_are_refused():
    batch = batch_of(jnp.zeros((3, 1)))
    with pytest.raises(ValueError, match="use binary_scores"):
        calibration.number_scores(Bernoulli(jnp.zeros((3, 1))), batch)
    with pytest.raises(ValueError, match="got a Normal"):
        calibration.binary_scores(Normal(jnp.zeros((3, 1)), jnp.ones((3, 1))), batch)
