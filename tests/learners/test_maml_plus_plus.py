"""MAML++: its identities with MAML, and its three parts, each against the same thing written out."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jmeta
from jmeta import Model, learners

from ..networks import regression_task, smooth_mlp
from .test_gradient_based import INNER, LOSS, LR, STEPS, assert_trees_close, meta_gradient


def test_maml_plus_plus_at_its_start_is_maml(float64, key):
    model, task = smooth_mlp(), regression_task(key)
    plus = learners.maml_plus_plus(model, LOSS, num_steps=STEPS, initial_lr=LR)
    maml = learners.maml(model, LOSS, INNER, num_steps=STEPS)
    meta_params = plus.init(jax.random.key(1), task)
    params = model.init(jax.random.key(1), task.support.x)
    assert_trees_close(meta_gradient(plus, meta_params, task, key)["params"], meta_gradient(maml, params, task, key))


def normalised_model() -> Model:
    """One layer with a norm by the statistics of the call, under the names that Flax gives."""

    def init(key, x):
        kernel = jax.random.normal(key, (x.shape[-1], 4)) * 0.5
        return {"dense": kernel, "norm_0": {"scale": jnp.ones(4), "bias": jnp.zeros(4)}, "head": jnp.ones((4, 1))}

    def apply(params, x, key):
        h = x @ params["dense"]
        h = (h - h.mean(0, keepdims=True)) / jnp.sqrt(h.var(0, keepdims=True) + 1e-3)
        return jnp.tanh(h * params["norm_0"]["scale"][None] + params["norm_0"]["bias"][None]) @ params["head"]

    return Model(init, apply)


def test_maml_plus_plus_keeps_norm_parameters_for_each_step_and_does_not_adapt_them(float64, key):
    model, task = normalised_model(), regression_task(key)
    learner = learners.maml_plus_plus(model, LOSS, num_steps=STEPS, initial_lr=LR)
    meta_params = learner.init(jax.random.key(1), task)
    assert meta_params["norms"]["norm_0"]["scale"].shape == (STEPS, 4)
    assert meta_params["params"]["norm_0"] == {"scale": None, "bias": None}
    scale = jnp.arange(1.0, STEPS + 1)[:, None] * jnp.ones((STEPS, 4))
    meta_params["norms"]["norm_0"]["scale"] = scale
    adapted = learner.adapt(meta_params, task.support, key)
    np.testing.assert_array_equal(adapted["norm_0"]["scale"], scale[-1])
    # the same loop by hand
    params = model.init(jax.random.key(1), task.support.x)
    for step in range(STEPS):
        params["norm_0"]["scale"] = scale[step]
        grads = jax.grad(lambda p: LOSS(model.apply(p, task.support.x, None), task.support)[0])(params)
        for name in ("dense", "head"):
            params[name] = params[name] - LR * grads[name]
    assert_trees_close(adapted, params)


def test_maml_plus_plus_repeats_its_last_step_when_tested_with_more(float64, key):
    task = regression_task(key)
    make = lambda steps: learners.maml_plus_plus(smooth_mlp(), LOSS, num_steps=steps, initial_lr=LR)
    meta_params = make(2).init(jax.random.key(1), task)
    meta_params["lr"] = jax.tree.map(lambda leaf: leaf * jnp.array([1.0, 0.5]), meta_params["lr"])
    longer = {**meta_params, "lr": jax.tree.map(lambda leaf: leaf[jnp.array([0, 1, 1, 1])], meta_params["lr"])}
    assert_trees_close(
        make(4).adapt(meta_params, task.support, key), make(4).adapt(longer, task.support, key), rtol=1e-14
    )


def test_the_parts_of_maml_plus_plus_make_another_learner(float64, key):
    """Per-step rates in the loop of MAML: with constant rates and with a schedule it is MAML with that optimizer."""
    model, task = smooth_mlp(), regression_task(key)
    params = model.init(jax.random.key(1), task.support.x)
    for rates in (jnp.full(STEPS, LR), jnp.array([0.1, 0.05, 0.2])):
        inner = learners.per_step_rates(jax.tree.map(lambda _, rates=rates: rates, params))
        schedule = optax.sgd(lambda count, rates=rates: rates[count])
        adapted = [
            learners.maml(model, LOSS, optimizer, num_steps=STEPS).adapt(params, task.support, key)
            for optimizer in (inner, schedule)
        ]
        assert_trees_close(*adapted)
    plus = learners.maml_plus_plus(model, LOSS, num_steps=STEPS, initial_lr=LR)
    start = plus.init(jax.random.key(1), task)
    start["lr"] = jax.tree.map(lambda _: rates, params)
    assert_trees_close(plus.adapt(start, task.support, key), adapted[0])


def test_the_multi_step_loss_of_plain_steps_is_the_mean_of_the_losses_after_each(float64, key):
    model, task = smooth_mlp(), regression_task(key)._replace(progress=jnp.zeros(()))
    one = learners.maml(model, LOSS, INNER, num_steps=1)
    steps = learners.InnerSteps(
        lambda meta_params: meta_params,
        lambda meta_params, params, support, index, key: one.adapt(params, support, key),
        lambda meta_params, params, support, index, key: params,
    )
    episode_fn = learners.multi_step_loss(steps, one.predict, num_steps=STEPS)(LOSS)
    params = model.init(jax.random.key(1), task.support.x)
    after = [
        jmeta.plain_episode(learners.maml(model, LOSS, INNER, num_steps=count), LOSS)(params, task, key)[0]
        for count in range(1, STEPS + 1)
    ]
    np.testing.assert_allclose(episode_fn(params, task, key)[0], sum(after) / STEPS, rtol=1e-12)


def test_the_multi_step_loss_ends_as_the_plain_episode(float64, key):
    model, task = normalised_model(), regression_task(key)
    learner = learners.maml_plus_plus(model, LOSS, num_steps=STEPS, initial_lr=LR, annealed_until=0.5)
    multi = jmeta.episode(learner, LOSS)
    meta_params = learner.init(jax.random.key(1), task)
    at = lambda progress: task._replace(progress=jnp.asarray(progress))
    plain, aux = jmeta.plain_episode(learner, LOSS)(meta_params, task, key)
    late, late_aux = multi(meta_params, at(0.7), key)
    np.testing.assert_allclose(late, plain, rtol=1e-12)
    np.testing.assert_allclose(late_aux["squared_error"], aux["squared_error"], rtol=1e-12)
    early, _ = multi(meta_params, at(0.0), key)
    each = []
    for steps in range(1, STEPS + 1):
        shorter = learners.maml_plus_plus(model, LOSS, num_steps=steps, initial_lr=LR)
        each.append(jmeta.plain_episode(shorter, LOSS)(meta_params, task, key)[0])
    np.testing.assert_allclose(early, sum(each) / STEPS, rtol=1e-12)


@pytest.mark.parametrize(
    ("progress", "expected"),
    [(0.0, [0.5, 0.5]), (0.05, [0.25, 0.75]), (0.099, [0.015, 0.985]), (0.1, [0.0, 1.0]), (0.9, [0.0, 1.0])],
)
def test_the_weights_of_the_multi_step_loss_move_to_the_last_step(progress, expected):
    weights = learners.multi_step_weights(jnp.asarray(progress), num_steps=2, annealed_until=0.1)
    np.testing.assert_allclose(weights, expected, atol=1e-7)


def test_the_weights_of_the_multi_step_loss_are_those_of_the_authors_code():
    """Its rule, epoch by epoch: every weight but the last falls by 1 / (N E) an epoch, to 0.03 / N, while epoch < E."""
    num_steps, num_epochs = 5, 50
    for epoch in range(num_epochs):
        other = max(1 / num_steps - epoch / (num_steps * num_epochs), 0.03 / num_steps)
        last = min((1 + epoch * (num_steps - 1) / num_epochs) / num_steps, 1 - (num_steps - 1) * 0.03 / num_steps)
        progress = jnp.asarray(0.1 * epoch / num_epochs)
        weights = learners.multi_step_weights(progress, num_steps=num_steps, annealed_until=0.1)
        np.testing.assert_allclose(weights, [other] * (num_steps - 1) + [last], rtol=1e-5)


def test_maml_plus_plus_is_trained_with_progress_and_evaluated_without(key):
    learner, task = learners.maml_plus_plus(smooth_mlp(), LOSS, num_steps=2, initial_lr=LR), regression_task(key)
    meta_params = learner.init(key, task)
    with pytest.raises(ValueError, match="needs task.progress; pass num_total_steps"):
        jmeta.episode(learner, LOSS)(meta_params, task, key)
    assert np.isfinite(jmeta.plain_episode(learner, LOSS)(meta_params, task, key)[0])
