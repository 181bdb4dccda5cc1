"""Ensembles: one is the learner, several are the mean of their members, and their members differ as their draws do."""

import jax
import numpy as np
import optax
import pytest

import jmeta
from jmeta import learners, losses, models, tasks
from jmeta.calibration import class_scores

WAYS = 3
BLOBS = tasks.gaussian_blobs(num_ways=WAYS, num_shots=2, num_queries=4, num_features=4)
SINUSOID = tasks.sinusoid(num_shots=5, num_queries=4)
INNER = optax.sgd(0.1)


def classifier(**options):
    return learners.maml(models.mlp([8, WAYS], **options), losses.cross_entropy, INNER, num_steps=2)


def regressor():
    model = models.normal_outputs(models.mlp([8, 2]))
    return learners.from_scratch(model, losses.negative_log_likelihood, optax.sgd(0.01), num_steps=2)


def predicted(learner, meta_params, task, key, key_predict=None):
    run = jax.jit(lambda task, key, key_predict: learner.predict(
        meta_params, learner.adapt(meta_params, task.support, key), task.query.x, key_predict))  # fmt: skip
    return run(task, key, key_predict)


def test_an_ensemble_of_one_is_the_learner(key):
    one = classifier(dropout_rate=0.5)
    task = BLOBS(key)
    meta_params = one.init(key, task)
    (key_of_one,) = jax.random.split(key, 1)
    found = predicted(learners.ensembled(one, num_samples=1), meta_params, task, key)
    expected = jax.nn.log_softmax(predicted(one, meta_params, task, key_of_one))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)
    one, task = regressor(), SINUSOID(key)
    found = predicted(learners.ensembled(one, num_samples=1), {}, task, key)
    expected = predicted(one, {}, task, key_of_one)
    for name in ("mean", "variance"):
        np.testing.assert_allclose(getattr(found, name)(), getattr(expected, name)(), rtol=1e-4, atol=1e-6)
    for name in ("log_prob", "cdf"):
        values = (getattr(each, name)(task.query.y) for each in (found, expected))
        np.testing.assert_allclose(*values, rtol=1e-4, atol=1e-6)


def test_an_ensemble_predicts_the_mean_of_its_members(key):
    one, task = classifier(dropout_rate=0.5), BLOBS(key)
    meta_params = one.init(key, task)
    found = predicted(learners.ensembled(one, num_samples=4), meta_params, task, key)
    members = [predicted(one, meta_params, task, each) for each in jax.random.split(key, 4)]
    probs = np.stack([jax.nn.softmax(logits) for logits in members])
    assert probs.std(0).max() > 0.02  # dropout in inner steps
    np.testing.assert_allclose(np.exp(found), probs.mean(0), rtol=1e-4)
    scores = [class_scores(logits, task.query) for logits in (found, *members)]
    for name in ("negative_log_likelihood", "brier_score"):  # by Jensen's inequality
        assert scores[0][name] < np.mean([each[name] for each in scores[1:]])
    one, task = regressor(), SINUSOID(key)
    found = predicted(learners.ensembled(one, num_samples=4), {}, task, key)
    members = [predicted(one, {}, task, each) for each in jax.random.split(key, 4)]
    densities = np.mean([np.exp(each.log_prob(task.query.y)) for each in members], axis=0)
    np.testing.assert_allclose(found.log_prob(task.query.y), np.log(densities), rtol=1e-4)


def test_a_learner_that_draws_nothing_is_its_ensemble(key):
    one, task = classifier(), BLOBS(key)
    meta_params = one.init(key, task)
    found = predicted(learners.ensembled(one, num_samples=3), meta_params, task, key)
    np.testing.assert_allclose(found, jax.nn.log_softmax(predicted(one, meta_params, task, key)), rtol=1e-4, atol=1e-6)


def test_a_key_of_predictions_draws_dropout_for_every_member(key):
    one, task = classifier(dropout_rate=0.5), BLOBS(key)
    meta_params, key_predict = one.init(key, task), jax.random.key(7)
    ensemble = learners.ensembled(one, num_samples=2)
    found = predicted(ensemble, meta_params, task, key, key_predict)
    pairs = zip(jax.random.split(key, 2), jax.random.split(key_predict, 2), strict=True)
    probs = [jax.nn.softmax(predicted(one, meta_params, task, *pair)) for pair in pairs]
    np.testing.assert_allclose(np.exp(found), np.mean(probs, axis=0), rtol=1e-4)
    assert not np.allclose(found, predicted(ensemble, meta_params, task, key))


def test_members_of_a_deep_ensemble_are_trained_each_by_its_own_objective(key):
    one, task = classifier(), BLOBS(key)
    ensemble = learners.deep_ensemble(one, num_members=2)
    meta_params = ensemble.init(key, task)
    grad_fn = lambda learner: jax.jit(jax.grad(jmeta.episode(learner, losses.cross_entropy), has_aux=True))
    grads, _ = grad_fn(ensemble)(meta_params, task, key)
    adapted = ensemble.adapt(meta_params, task.support, key)
    probs = np.exp(ensemble.predict(meta_params, adapted, task.query.x, None))
    of_members = []
    for i, each in enumerate(jax.random.split(key, 2)):
        member = jax.tree.map(lambda leaf, i=i: leaf[i], meta_params)
        expected, _ = grad_fn(one)(member, task, each)
        for found, wanted in zip(jax.tree.leaves(grads), jax.tree.leaves(expected), strict=True):
            np.testing.assert_allclose(2 * found[i], wanted, rtol=1e-4, atol=1e-6)
        of_members.append(jax.nn.softmax(predicted(one, member, task, each)))
    np.testing.assert_allclose(probs, np.mean(of_members, axis=0), rtol=1e-4)
    assert np.std(of_members, axis=0).max() > 0.02  # they start from different places


def test_an_episode_of_its_own_is_kept():
    reptile = learners.reptile(models.mlp([4, WAYS]), losses.cross_entropy, INNER, num_steps=2)
    assert learners.ensembled(reptile, num_samples=2).episode is reptile.episode
    assert learners.ensembled(classifier(), num_samples=2).episode is None


def test_faults_are_named(key):
    with pytest.raises(ValueError, match="num_samples=0; expected the number of adapted states"):
        learners.ensembled(regressor(), num_samples=0)
    with pytest.raises(ValueError, match="num_members=0; expected the number of members"):
        learners.deep_ensemble(regressor(), num_members=0)
    points = learners.maml(models.mlp([4, 1]), losses.squared_error, INNER, num_steps=1)
    task = SINUSOID(key)
    with pytest.raises(ValueError, match="expected a distribution of numbers"):
        predicted(learners.ensembled(points, num_samples=2), points.init(key, task), task, key)
