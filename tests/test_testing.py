"""Every check of `jmeta.testing` passes a sound method and fails one that is broken on purpose."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jmeta
from jmeta import Batch, Learner, Task, learners, losses, models, tasks, testing

WAYS = 3
SAMPLE = tasks.gaussian_blobs(num_ways=WAYS, num_shots=2, num_queries=2, num_features=4)


def prototypes(embed=lambda params, x: x @ params["w"]) -> Learner:
    """The smallest sound learner: distances to the class means of a linear embedding."""

    def init(key, task):
        return {"w": jax.random.normal(key, (task.support.x.shape[-1], 4)) / 2}

    def adapt(meta_params, support, key):
        real = jnp.ones(support.y.shape) if support.mask is None else support.mask.astype(float)
        weights = jax.nn.one_hot(support.y, WAYS) * real[:, None]
        return weights.T @ embed(meta_params, support.x) / weights.sum(0)[:, None]

    def predict(meta_params, adapted, x, key):
        return -jnp.square(embed(meta_params, x)[:, None] - adapted[None]).sum(-1)

    return Learner(init, adapt, predict)


def check(learner, key, **declared):
    testing.check_learner(learner, losses.cross_entropy, SAMPLE, key, **declared)


def test_a_sound_learner_passes(key):
    check(prototypes(), key)


def test_a_learner_that_returns_the_wrong_number_of_outputs(key):
    sound = prototypes()
    broken = sound._replace(predict=lambda *args: sound.predict(*args)[:-1])
    with pytest.raises(AssertionError, match="5 outputs for 6 queries"):
        check(broken, key)


def test_a_learner_whose_init_looks_at_the_data(key):
    broken = prototypes()._replace(init=lambda key, task: {"w": jnp.eye(4) * task.support.x.mean()})
    with pytest.raises(AssertionError, match="`init` depends on values"):
        check(broken, key)


def test_a_learner_that_behaves_otherwise_under_jit(key):
    def embed(params, x):
        return x @ params["w"] * (1.0 if isinstance(x, jax.core.Tracer) else 2.0)

    with pytest.raises(AssertionError, match=r"another result under jax.jit"):
        check(prototypes(embed), key)


def test_a_learner_that_mixes_up_tasks(key):
    sound = prototypes()

    def adapt(meta_params, support, key):
        adapted = sound.adapt(meta_params, support, key)
        return adapted * 2 if type(support.x).__name__ == "BatchTracer" else adapted

    with pytest.raises(AssertionError, match=r"jax.vmap over tasks differs"):
        check(sound._replace(adapt=adapt), key)


def test_a_learner_that_compiles_anew_after_a_meta_step(key):
    sound = prototypes()
    broken = prototypes(lambda params, x: x @ params["w"] * params["scale"])._replace(
        init=lambda key, task: {**sound.init(key, task), "scale": jnp.asarray(1.0)}  # of a weak type
    )
    with pytest.raises(AssertionError, match="compiled 2 times"):
        check(broken, key)


def test_a_learner_with_an_infinite_meta_gradient(key):
    broken = prototypes(lambda params, x: x @ params["w"] + jnp.sqrt(jnp.abs(0.0 * params["w"].sum())))
    with pytest.raises(AssertionError, match="meta-gradient is not finite"):
        check(broken, key)


def test_a_learner_with_a_silently_zero_meta_gradient(key):
    sound = prototypes()
    broken = sound._replace(init=lambda key, task: {**sound.init(key, task), "forgotten": jnp.ones(2, "float32")})
    with pytest.raises(AssertionError, match=r"exactly zero for \['forgotten'\]"):
        check(broken, key)
    check(broken, key, is_constant=lambda path: path == "forgotten")
    statistics = sound._replace(init=lambda key, task: {**sound.init(key, task), "stats": jnp.ones(2, "float32")})
    check(statistics, key)


def test_a_training_episode_that_trains_nothing_or_not_everything(key):
    with pytest.raises(AssertionError, match=r"exactly zero for \['w'\]"):
        check(prototypes()._replace(episode=lambda loss_fn: lambda meta_params, task, key: (jnp.zeros(()), {})), key)
    pretrained = learners.fine_tune(models.mlp([4]), optax.sgd(0.1), num_classes=5, num_ways=WAYS, num_steps=1)
    with pytest.raises(AssertionError, match=r"exactly zero for \['head/weights'\]"):
        check(pretrained._replace(episode=None), key)


def test_a_training_episode_that_behaves_otherwise_under_jit(key):
    def episode(loss_fn):
        plain = jmeta.plain_episode(prototypes(), loss_fn)

        def episode_fn(meta_params, task, key):
            loss, aux = plain(meta_params, task, key)
            return loss * (1.0 if isinstance(loss, jax.core.Tracer) else 2.0), aux

        return episode_fn

    with pytest.raises(AssertionError, match=r"another result under jax.jit"):
        check(prototypes()._replace(episode=episode), key)


def test_a_training_episode_is_tried_at_the_beginning_and_at_the_end_of_training(key):
    def only_if(progress):
        def episode(loss_fn):
            plain = jmeta.plain_episode(prototypes(), loss_fn)

            def episode_fn(meta_params, task, key):
                loss, aux = plain(meta_params, task, key)
                return jnp.where(task.progress == progress, jnp.nan, 1.0) * loss, aux

            return episode_fn

        return episode

    for progress in (0.0, 1.0):
        with pytest.raises(AssertionError, match="not finite"):
            check(prototypes()._replace(episode=only_if(progress)), key)


def test_a_learner_that_depends_on_the_order_of_the_support(key):
    sound = prototypes()

    def adapt(meta_params, support, key):
        return sound.adapt(meta_params, support, key) + 0.1 * support.x[:1] @ meta_params["w"] * jnp.eye(3)[:, :1]

    broken = sound._replace(adapt=adapt)
    with pytest.raises(AssertionError, match="depends_on_order"):
        check(broken, key)
    check(broken, key, depends_on_order=True)


def test_a_learner_that_ignores_the_mask(key):
    sound = prototypes()
    broken = sound._replace(
        adapt=lambda meta_params, support, key: sound.adapt(meta_params, support._replace(mask=None), key)
    )
    with pytest.raises(AssertionError, match="ignores_padding"):
        check(broken, key)
    check(broken, key, ignores_padding=False)


def test_a_learner_whose_padding_spoils_the_gradient_alone(key):
    """A root of what is masked afterwards: the value is right, and the gradient NaN or infinite."""
    sound = prototypes(lambda params, x: x @ params["w"])

    def adapt(meta_params, support, key):
        norms = jnp.sqrt(jnp.square(support.x).sum(-1))
        norms = norms if support.mask is None else jnp.where(support.mask, norms, 0.0)
        return sound.adapt(meta_params, support, key) + 0.0 * (norms * meta_params["w"].sum()).sum()

    check(sound._replace(adapt=adapt), key)  # zeros: a root of a constant has no part in the gradient

    def adapt_badly(meta_params, support, key):
        norms = jnp.sqrt(jnp.square(support.x @ meta_params["w"]).sum(-1))
        norms = norms if support.mask is None else jnp.where(support.mask, norms, 0.0)
        return sound.adapt(meta_params, support, key) + 0.1 * norms.sum()

    with pytest.raises(AssertionError, match="padding under the mask changes the meta-gradient"):
        check(sound._replace(adapt=adapt_badly), key)


def test_labels_that_a_learner_has_no_outputs_for(key):
    shifted = lambda key: jax.tree.map(lambda leaf: leaf + 1 if leaf.dtype == jnp.int32 else leaf, SAMPLE(key))
    with pytest.raises(AssertionError, match="the support has labels 1, 2, 3, but the learner tells 3 classes apart"):
        testing.check_learner(prototypes(), losses.cross_entropy, shifted, key)


def test_a_sound_sampler_passes(key):
    testing.check_sampler(SAMPLE, key, num_ways=WAYS)


def drawn(x, y=None):
    batch = Batch(x, jnp.zeros(len(x), jnp.int32) if y is None else y)
    return Task(batch, batch)


def masked(x, mask):
    batch = Batch(x, jnp.zeros(len(x), jnp.int32), mask)
    return Task(batch, batch)


@pytest.mark.parametrize(
    ("sample", "message"),
    [
        (lambda key: drawn(jnp.zeros((2, 1))), "two keys give the same task"),
        (lambda key: drawn(jnp.asarray(np.random.default_rng().random((2, 1)))), "the same key gives another task"),
        (lambda key: drawn(jax.random.normal(key, (2, 1)) / 0), "not finite"),
        (lambda key: drawn(jax.random.normal(key, (2, 1)), jnp.array([0, WAYS])), r"labels are not integers in 0\.\.2"),
        (lambda key: drawn(jax.random.normal(key, (2, 1)), jnp.zeros(2)), "labels are not integers"),
        (lambda key: drawn(jnp.ones((4, 1)), jax.random.randint(key, 4, 0, WAYS)), r"constant: every number is 1\.0"),
        (lambda key: drawn(jax.random.normal(key, (2, 1)), jnp.zeros(3, jnp.int32)), "the support's leaves have"),
        (lambda key: masked(jax.random.normal(key, (2, 1)), jnp.ones(2, jnp.int32)), "mask is not one bool"),
        (lambda key: masked(jax.random.normal(key, (2, 1)), jnp.ones((2, 1), bool)), "mask is not one bool"),
        (lambda key: drawn(jax.random.normal(key, (2, 1)) + isinstance(key, jax.core.Tracer)), r"jax\.jit gives"),
    ],
)
def test_a_broken_sampler_fails(sample, message, key):
    with pytest.raises(AssertionError, match=message):
        testing.check_sampler(sample, key, num_ways=WAYS)


def test_a_sampler_whose_shapes_depend_on_the_key(key):
    sample = lambda key: drawn(jnp.ones((int(jax.random.randint(key, (), 2, 1000)), 1)))
    with pytest.raises(AssertionError, match="different shapes"):
        testing.check_sampler(sample, key)


def reverse(episode_fn):
    return jax.value_and_grad(episode_fn, has_aux=True)


def through(change):
    """An estimator whose result is changed."""

    def estimator(episode_fn):
        return lambda meta_params, task, key: change(reverse(episode_fn)(meta_params, task, key), task, key)

    return estimator


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda result, task, key: result[::-1], "differs in structure"),
        (lambda result, task, key: (result[0], jax.tree.map(lambda g: g / 0, result[1])), "not finite"),
        (
            lambda result, task, key: (
                result[0],
                {"w": result[1]["w"] + np.random.default_rng().random()},
            ),
            "the same key gives another estimate",
        ),
        (
            lambda result, task, key: (
                result[0],
                {"w": result[1]["w"] + isinstance(task.support.x, jax.core.Tracer)},
            ),
            r"jax\.jit gives another estimate",
        ),
    ],
)
def test_a_broken_estimator_fails(change, message, key):
    learner, task = prototypes(), SAMPLE(key)
    arguments = (jmeta.episode(learner, losses.cross_entropy), learner.init(key, task), task, key)
    testing.check_estimator(reverse, *arguments)
    with pytest.raises(AssertionError, match=message):
        testing.check_estimator(through(change), *arguments)


@pytest.mark.parametrize(("norm", "is_leaking"), [("batch", True), ("group", False), ("support", False)])
def test_the_leak_detector_flags_batch_statistics_of_the_query(norm, is_leaking, key):
    x = jax.random.uniform(key, (6, 16, 16, 1))
    batch = Batch(x, jnp.arange(6) % WAYS)
    task = Task(batch, batch._replace(x=x[::-1]))
    learner = learners.protonet(models.conv4(None, num_filters=4, norm=norm), num_ways=WAYS)
    report = testing.leaks(learner, learner.init(key, task), task, key)
    assert report.is_leaking == is_leaking
    assert (report.change_when_dropped > report.tolerance) == is_leaking
