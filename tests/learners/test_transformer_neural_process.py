"""Transformer neural processes: contexts that grow, joint densities in one pass, and learning in the forward pass."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jmeta
from jmeta import Batch, learners, losses, models, tasks, training
from jmeta.learners.autoregressive import random_ranks

from ..registry import LEARNERS, process
from ..slow import slow
from .few_shot_tasks import in_double, padded

LEARNER = LEARNERS["transformer_neural_process"].learner
NLL = losses.negative_log_likelihood


@pytest.fixture
def task(float64, key):
    return jax.jit(process)(key)


@pytest.fixture
def meta_params(task):
    return in_double(jax.jit(LEARNER.init)(jax.random.key(1), task))


@jax.jit
def log_probs(meta_params, support, query):
    context = LEARNER.adapt(meta_params, support, jax.random.key(0))
    return LEARNER.predict(meta_params, context, query.x, None).log_prob(query.y)


@jax.jit
def joint(meta_params, task, key):
    """By one pass, over real queries."""
    loss, _ = jmeta.episode(LEARNER, NLL)(meta_params, task, key)
    return -loss * (task.query.y.shape[0] if task.query.mask is None else task.query.mask.sum())


def test_an_example_joins_the_context_as_if_it_were_encoded_anew(task, meta_params):
    """Whether its mask opens, or the support is longer; and it matters."""
    found = {}
    for count in (3, 4):
        anew = jax.tree.map(lambda leaf, count=count: leaf[:count], task.support)
        opened = task.support._replace(mask=jnp.arange(5) < count)
        found[count] = log_probs(meta_params, anew, task.query)
        np.testing.assert_allclose(log_probs(meta_params, opened, task.query), found[count], rtol=1e-9)
    assert abs(found[3] - found[4]).max() > 1e-4


def test_an_empty_context_predicts(task, meta_params):
    nothing = jax.tree.map(lambda leaf: leaf[:0], task.support)
    masked = task.support._replace(mask=jnp.zeros(5, bool))
    found = log_probs(meta_params, nothing, task.query)
    assert np.isfinite(found).all()
    np.testing.assert_allclose(log_probs(meta_params, masked, task.query), found, rtol=1e-9)


def test_the_first_target_of_the_joint_density_is_predicted_as_ever_and_the_last_sees_all_others(
    task, meta_params, key
):
    """A change of a target changes the densities of later ones alone, besides its own."""

    @jax.jit
    def of_each(y):
        query = task.query._replace(y=y)
        loss_fn = lambda outputs, batch: (outputs.log_prob(batch.y).sum(), {"each": outputs.log_prob(batch.y)[:, 0]})
        return jmeta.episode(LEARNER, loss_fn)(meta_params, task._replace(query=query), key)[1]["each"]

    ranks = random_ranks(jax.random.split(key, 4)[2], jnp.ones(4, bool))
    first = np.argmin(ranks)
    np.testing.assert_allclose(
        of_each(task.query.y)[first], log_probs(meta_params, task.support, task.query)[first, 0], rtol=1e-9
    )
    depends = jax.jit(jax.jacobian(of_each))(task.query.y)[:, :, 0] != 0
    np.testing.assert_array_equal(depends, ranks[:, None] >= ranks[None])


def test_padding_anywhere_changes_no_joint_density(task, meta_params, key):
    value_and_grad = jax.jit(jax.value_and_grad(joint))
    expected = value_and_grad(meta_params, task, key)
    rows = jnp.array([0, 2, 3, 6])
    fill = lambda leaf: jnp.full((7, 1), jnp.nan).at[rows].set(leaf)
    query = Batch(fill(task.query.x), fill(task.query.y), jnp.zeros(7, bool).at[rows].set(True))
    support = padded(Batch(task.support.x, task.support.y[:, 0]), np.random.default_rng(0))
    found = value_and_grad(meta_params, task._replace(support=support._replace(y=support.y[:, None]), query=query), key)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-8, atol=1e-10), found, expected)


def test_with_one_layer_targets_join_the_context_either_way(float64, task, key):
    """Keys and values of one layer are those of single tokens, so one pass equals a context anew for each target."""
    transformer = models.set_transformer(width=8, num_layers=1, num_heads=2)
    head = models.normal_outputs(models.mlp([2]))
    learner = learners.transformer_neural_process(models.mlp([8]), transformer, head, autoregressive=True)
    meta_params = in_double(learner.init(key, task))
    by_order = jax.jit(learners.log_joint(learner))
    one_pass = jax.jit(lambda key: -jmeta.episode(learner, NLL)(meta_params, task, key)[0] * 4)
    ranks = lambda key: random_ranks(key, jnp.ones(4, bool)).tolist()
    keys = [jax.random.key(seed) for seed in range(100)]
    ours = ranks(jax.random.split(key, 4)[2])
    same_order = next(k for k in keys if ranks(jax.random.split(jax.random.split(k, 1)[0])[0]) == ours)
    found = by_order(meta_params, task.support, task.query, same_order)
    np.testing.assert_allclose(found, one_pass(key), rtol=1e-9)


def test_integer_targets_are_refused(key):
    task = tasks.gaussian_blobs(num_ways=2, num_shots=1, num_queries=1)(key)
    with pytest.raises(ValueError, match=r"y has shape \(2,\) and dtype int32; .*learners.in_context"):
        LEARNER.init(key, task)


@pytest.mark.parametrize("kind", ["normal", *slow("autoregressive", "binned")])
def test_it_learns_to_infer(kind, key):
    """The prior's own density is -1.42 nats; five seeds of normal outputs had -0.70 to -0.86."""
    kernel = tasks.kernels.rbf(length_scale=1.0)
    sample = tasks.gaussian_process(kernel, num_shots=6, num_queries=6, noise=0.1)
    head = models.normal_outputs(models.mlp([2]), min_scale=0.01)
    if kind == "binned":
        head = models.binned_outputs(models.mlp([20]), np.linspace(-3, 3, 21))
    learner = learners.transformer_neural_process(
        models.mlp([16, 16]),
        models.set_transformer(width=16, num_layers=1, num_heads=2),
        head,
        autoregressive=kind == "autoregressive",
    )
    grad_fn = jmeta.over_tasks(jax.value_and_grad(jmeta.episode(learner, NLL), has_aux=True))
    trainer = jmeta.meta_trainer(grad_fn, optax.adam(5e-3))
    run = training.sampled_steps(trainer, num_steps=150)
    of_prior = 0.5 * np.log(2 * np.pi * 1.01) + 0.5
    for seed in range(5):
        start = learner.init(jax.random.key(seed), sample(key))
        state, aux = run(trainer.init(start), tasks.stacked(sample, 8), jax.random.key(seed))
        assert int(state.num_skipped) == 0
        assert aux["loss"][-20:].mean() < of_prior - 0.25
