"""MAML and its family: closed forms, finite differences, and the identities that tie one method to another."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jmeta
from jmeta import Batch, Task, adjoints, learners, losses, models

from ..differences import assert_gradient_is_central_difference
from ..networks import identity, in_default_precision, regression_task, smooth_mlp
from .few_shot_tasks import predict

LOSS, INNER, STEPS, LR = losses.squared_error, optax.sgd(0.1), 3, 0.1


def assert_trees_close(a, b, rtol=1e-10):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=rtol, atol=1e-12), a, b)


def meta_gradient(learner, meta_params, task, key):
    episode_fn = jmeta.plain_episode(learner, LOSS)
    return jax.jit(jax.grad(lambda params: episode_fn(params, task, key)[0]))(meta_params)


def family():
    model, body, head = smooth_mlp(), smooth_mlp(4), in_default_precision(models.mlp([1]))
    return {
        "maml": learners.maml(model, LOSS, INNER, num_steps=STEPS),
        "anil": learners.anil(body, head, LOSS, INNER, num_steps=STEPS),
        "boil": learners.boil(body, head, LOSS, INNER, num_steps=STEPS),
        "meta_sgd": learners.meta_sgd(model, LOSS, num_steps=STEPS, initial_lr=LR),
        "maml_plus_plus": learners.maml_plus_plus(model, LOSS, num_steps=STEPS, initial_lr=LR),
        "cavia": learners.cavia(model, LOSS, INNER, num_steps=STEPS, num_context=2),
    }


@pytest.mark.parametrize("name", family())
def test_the_meta_gradient_is_the_central_difference(float64, name, key):
    learner, task = family()[name], regression_task(key)
    episode_fn = jmeta.plain_episode(learner, LOSS)
    meta_params = learner.init(jax.random.key(1), task)
    assert_gradient_is_central_difference(lambda params: episode_fn(params, task, key)[0], meta_params)


@pytest.mark.parametrize("name", family())
def test_the_inner_loop_lowers_the_support_loss(float64, name, key):
    learner, task = family()[name], regression_task(key)
    meta_params = learner.init(jax.random.key(1), task)
    adapted = learner.adapt(meta_params, task.support, key)
    none = Batch(task.support.x, task.support.y, jnp.zeros(5, bool))  # no example, no gradient, no adaptation
    unadapted = learner.adapt(meta_params, none, key)
    before, after = (
        LOSS(learner.predict(meta_params, state, task.support.x, None), task.support)[0]
        for state in (unadapted, adapted)
    )
    assert after < before


def test_first_order_maml_is_the_query_gradient_at_the_adapted_parameters(float64, key):
    model, task = smooth_mlp(), regression_task(key)
    learner = learners.first_order_maml(model, LOSS, INNER, num_steps=STEPS)
    meta_params = learner.init(jax.random.key(1), task)
    adapted = learner.adapt(meta_params, task.support, key)
    expected = jax.grad(lambda params: LOSS(model.apply(params, task.query.x, None), task.query)[0])(adapted)
    assert_trees_close(meta_gradient(learner, meta_params, task, key), expected)


def test_maml_is_first_order_plus_second_derivatives_written_out(float64, key):
    """One step: ∇θ L(θ − α∇L(θ)) = (I − αH) g, with the Hessian formed explicitly."""
    model, task = smooth_mlp(), regression_task(key)
    learner = learners.maml(model, LOSS, INNER, num_steps=1)
    meta_params = learner.init(jax.random.key(1), task)
    flat, unravel = jax.flatten_util.ravel_pytree(meta_params)
    loss = lambda vector, batch: LOSS(model.apply(unravel(vector), batch.x, None), batch)[0]
    hessian, gradient = jax.jit(jax.hessian(loss))(flat, task.support), jax.jit(jax.grad(loss))
    adapted = flat - LR * gradient(flat, task.support)
    expected = (jnp.eye(flat.size) - LR * hessian) @ gradient(adapted, task.query)
    got, _ = jax.flatten_util.ravel_pytree(meta_gradient(learner, meta_params, task, key))
    np.testing.assert_allclose(got, expected, rtol=1e-9)


def test_anil_of_an_empty_body_is_maml(float64, key):
    model, task = smooth_mlp(), regression_task(key)
    anil = learners.anil(identity(), model, LOSS, INNER, num_steps=STEPS)
    maml = learners.maml(model, LOSS, INNER, num_steps=STEPS)
    params = model.init(jax.random.key(1), task.support.x)
    got = meta_gradient(anil, {"body": {}, "head": params}, task, key)["head"]
    assert_trees_close(got, meta_gradient(maml, params, task, key))


def test_anil_is_maml_that_adapts_the_head_of_a_chain(float64, key):
    body, head, task = smooth_mlp(4), in_default_precision(models.mlp([1])), regression_task(key)
    anil = learners.anil(body, head, LOSS, INNER, num_steps=STEPS)
    is_of_head = lambda path: path.startswith("head/")
    whole = learners.maml(models.chain(body, head), LOSS, INNER, num_steps=STEPS, is_adapted=is_of_head)
    meta_params = anil.init(jax.random.key(1), task)
    assert_trees_close(meta_gradient(anil, meta_params, task, key), meta_gradient(whole, meta_params, task, key))


def test_boil_with_an_empty_head_is_maml(float64, key):
    model, task = smooth_mlp(), regression_task(key)
    boil = learners.boil(model, identity(), LOSS, INNER, num_steps=STEPS)
    maml = learners.maml(model, LOSS, INNER, num_steps=STEPS)
    params = model.init(jax.random.key(1), task.support.x)
    got = meta_gradient(boil, {"body": params, "head": {}}, task, key)["body"]
    assert_trees_close(got, meta_gradient(maml, params, task, key))


def test_anil_leaves_the_body_and_boil_the_head_alone(key):
    task, body, head = regression_task(key), smooth_mlp(4), models.mlp([1])
    for name, still, moving in (("anil", "body", "head"), ("boil", "head", "body")):
        learner = getattr(learners, name)(body, head, LOSS, INNER, num_steps=STEPS)
        meta_params = learner.init(key, task)
        adapted = learner.adapt(meta_params, task.support, key)
        jax.tree.map(np.testing.assert_array_equal, adapted[still], meta_params[still])
        assert not np.allclose(*(jax.flatten_util.ravel_pytree(tree[moving])[0] for tree in (adapted, meta_params)))


def test_meta_sgd_with_constant_rates_is_maml(float64, key):
    model, task = smooth_mlp(), regression_task(key)
    meta_sgd = learners.meta_sgd(model, LOSS, num_steps=STEPS, initial_lr=LR)
    maml = learners.maml(model, LOSS, INNER, num_steps=STEPS)
    meta_params = meta_sgd.init(jax.random.key(1), task)
    got = meta_gradient(meta_sgd, meta_params, task, key)
    assert_trees_close(got["params"], meta_gradient(maml, meta_params["params"], task, key))
    # and the derivative of one common rate is the sum of those of all rates
    common = jax.grad(
        lambda rate: jmeta.episode(learners.maml(model, LOSS, optax.sgd(rate), num_steps=STEPS), LOSS)(
            meta_params["params"], task, key
        )[0]
    )(LR)
    np.testing.assert_allclose(sum(leaf.sum() for leaf in jax.tree.leaves(got["lr"])), common, rtol=1e-9)


@pytest.mark.parametrize("name", ["meta_sgd", "maml_plus_plus"])
def test_learned_rates_keep_their_gradient_at_first_order(float64, name, key):
    task = regression_task(key)
    learner = getattr(learners, name)(
        smooth_mlp(), LOSS, num_steps=STEPS, initial_lr=LR, adjoint=adjoints.first_order()
    )
    grads = meta_gradient(learner, learner.init(jax.random.key(1), task), task, key)
    assert all(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(grads["lr"]))


def test_cavia_adapts_the_context_alone_and_starts_from_none(float64, key):
    model, task = smooth_mlp(), regression_task(key)
    learner = learners.cavia(model, LOSS, INNER, num_steps=STEPS, num_context=2)
    meta_params = learner.init(jax.random.key(1), task)
    adapted = learner.adapt(meta_params, task.support, key)
    assert np.abs(adapted.context).max() > 0
    context = jnp.zeros(2)
    for _ in range(STEPS):
        with_context = lambda c: jnp.concatenate([task.support.x, jnp.tile(c, (5, 1))], 1)
        loss = lambda c: LOSS(model.apply(meta_params, with_context(c), None), task.support)[0]
        context = context - LR * jax.grad(loss)(context)
    np.testing.assert_allclose(adapted.context, context, rtol=1e-10)


def test_cavia_appends_constant_channels_to_images():
    from jmeta.learners.cavia import _append

    images = _append(jnp.zeros((3, 4, 4, 1)), jnp.array([1.0, 2.0]))
    assert images.shape == (3, 4, 4, 3)
    np.testing.assert_array_equal(images[..., 1:], jnp.broadcast_to(jnp.array([1.0, 2.0]), (3, 4, 4, 2)))


def classification_task(key) -> Task:
    key_support, key_query = jax.random.split(key)
    labels = jnp.array([0, 1, 2, 0, 1, 2])
    centres = 2 * jax.nn.one_hot(labels, 3)
    return Task(
        Batch(centres + jax.random.normal(key_support, (6, 3)), labels),
        Batch(centres + jax.random.normal(key_query, (6, 3)), labels),
    )


def test_proto_maml_without_steps_is_a_prototypical_network(float64, key):
    model, task = smooth_mlp(4), classification_task(key)
    proto_maml = learners.proto_maml(model, losses.cross_entropy, INNER, num_ways=3, num_steps=0)
    protonet = learners.protonet(model, num_ways=3)
    params = proto_maml.init(key, task)
    outputs = [
        jax.nn.log_softmax(
            learner.predict(meta_params, learner.adapt(meta_params, task.support, key), task.query.x, None)
        )
        for learner, meta_params in ((proto_maml, params), (protonet, {"params": params}))
    ]
    np.testing.assert_allclose(*outputs, rtol=1e-9)


def test_proto_maml_adapts_body_and_head_and_its_gradient_is_the_central_difference(float64, key):
    task = classification_task(key)
    learner = learners.proto_maml(smooth_mlp(4), losses.cross_entropy, INNER, num_ways=3, num_steps=2)
    meta_params = learner.init(key, task)
    adapted = learner.adapt(meta_params, task.support, key)
    assert not np.allclose(adapted.body["params"]["head"]["kernel"], meta_params["params"]["head"]["kernel"])
    episode_fn = jmeta.episode(learner, losses.cross_entropy)
    assert_gradient_is_central_difference(lambda params: episode_fn(params, task, key)[0], meta_params)


def test_proto_maml_gives_an_absent_class_no_probability(key):
    task = classification_task(key)
    learner = learners.proto_maml(smooth_mlp(4), losses.cross_entropy, INNER, num_ways=4, num_steps=2)
    meta_params = learner.init(key, task)
    outputs = predict(learner, meta_params, task)
    assert np.all(outputs[:, 3] == -np.inf)
    grads = jax.jit(jax.grad(lambda p: jmeta.episode(learner, losses.cross_entropy)(p, task, key)[0]))(meta_params)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(grads))


def test_reptile_goes_through_shuffled_passes_of_the_real_examples(key):
    from jmeta.learners.reptile import _minibatch

    support = Batch(jnp.arange(10.0)[:, None], jnp.arange(10), jnp.arange(10) < 6)
    labels = np.stack([_minibatch(support, 4, step, key).y for step in range(60)])
    passes = labels.reshape(-1, 6)  # 60 batches of 4 are 40 passes over 6
    np.testing.assert_array_equal(np.sort(passes), np.tile(np.arange(6), (40, 1)))
    assert len({tuple(order) for order in passes}) > 30
    assert _minibatch(support, 4, 0, key).mask.all()
    np.testing.assert_array_equal(_minibatch(support, 10, 0, key).mask.sum(), 6)


def test_reptile_learns_the_state_of_its_optimizer(float64, key):
    """The way to the adapted state is the meta-gradient of the state, too, and a task starts where it is."""
    decay, task, model = 0.9, regression_task(key), smooth_mlp()
    inner = optax.rmsprop(0.01, decay=decay, eps_in_sqrt=False, initial_scale=0.5)
    learner = learners.reptile(model, LOSS, inner, num_steps=1, learns_optimizer_state=True)
    meta_params = learner.init(jax.random.key(1), task)
    inner_grads = jax.jit(jax.grad(lambda params: LOSS(model.apply(params, task.support.x, None), task.support)[0]))
    expected = inner_grads(meta_params.params)
    squares = jax.tree.map(lambda g: decay * 0.5 + (1 - decay) * g**2, expected)
    adapted = jax.jit(learner.adapt)(meta_params, task.support, key)
    stepped = jax.tree.map(lambda p, g, v: p - 0.01 * g / (jnp.sqrt(v) + 1e-8), meta_params.params, expected, squares)
    assert_trees_close(adapted.params, stepped)
    grads = jax.jit(jax.grad(jmeta.episode(learner, LOSS), has_aux=True))(meta_params, task, key)[0]
    moved = jax.tree.leaves(meta_params.optimizer_state), jax.tree.leaves(grads.optimizer_state)
    for before, way, after in zip(*moved, jax.tree.leaves(squares), strict=True):
        np.testing.assert_allclose(before - way, after, rtol=1e-10)


def test_reptile_refuses_to_learn_a_count_of_steps(key):
    learner = learners.reptile(smooth_mlp(), LOSS, optax.adam(0.1), num_steps=1, learns_optimizer_state=True)
    with pytest.raises(ValueError, match=r"count \(int32\) cannot move by degrees"):
        learner.init(key, regression_task(key))


def test_reptile_on_the_whole_support_is_first_order_maml(float64, key):
    model, task = smooth_mlp(), regression_task(key)
    reptile = learners.reptile(model, LOSS, INNER, num_steps=STEPS)
    maml = learners.maml(model, LOSS, INNER, num_steps=STEPS)
    meta_params = reptile.init(jax.random.key(1), task)
    assert_trees_close(*(learner.adapt(meta_params, task.support, key) for learner in (reptile, maml)))


def test_maml_refuses_to_adapt_nothing(key):
    task = regression_task(key)
    learner = learners.maml(smooth_mlp(), LOSS, INNER, num_steps=1, is_adapted=lambda path: "absent" in path)
    with pytest.raises(ValueError, match="adapt nothing"):
        learner.adapt(learner.init(key, task), task.support, key)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: learners.maml(smooth_mlp(), LOSS, INNER, num_steps=-1), "num_steps=-1"),
        (lambda: learners.cavia(smooth_mlp(), LOSS, INNER, num_steps=1, num_context=0), "num_context=0"),
        (lambda: learners.reptile(smooth_mlp(), LOSS, INNER, num_steps=1, batch_size=0), "batch_size=0"),
        (
            lambda: learners.maml_plus_plus(smooth_mlp(), LOSS, num_steps=1, initial_lr=LR, annealed_until=0.0),
            r"annealed_until=0\.0",
        ),
        (
            lambda: jmeta.episode(learners.maml_plus_plus(smooth_mlp(), LOSS, num_steps=0, initial_lr=LR), LOSS),
            "num_steps=0",
        ),
    ],
)
def test_impossible_numbers_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
