"""Sawtooth waves, mixtures of samplers, and the protocols of regression that they are part of."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jmeta import tasks
from jmeta.tasks import gaussian_process, kernels, mixture, regression_protocol, sawtooth, stacked

RBF = kernels.rbf(length_scale=0.5)


def test_a_sawtooth_is_a_line_but_for_whole_jumps(float64):
    """Between two points of a wave, y differs by ±ω times the distance, and by a whole number."""
    sample = sawtooth(num_shots=2, num_queries=1, noise=1e-9, frequency=(3.0, 3.0))
    drawn = jax.jit(stacked(sample, 400))(jax.random.key(0))
    x, y = (np.asarray(each)[..., 0] for each in drawn.support[:2])
    assert ((y > -1e-6) & (y < 1 + 1e-6)).all()
    apart = np.diff(y, axis=1)[:, 0], 3 * np.diff(x, axis=1)[:, 0]
    jumps = np.stack([apart[0] - apart[1], apart[0] + apart[1]])
    is_whole = abs(jumps - jumps.round()) < 1e-6
    assert is_whole.any(0).all()
    np.testing.assert_allclose(is_whole.mean(1), 0.5, atol=0.12)  # rising and falling
    np.testing.assert_allclose(y.mean(), 0.5, atol=0.05)


def test_noise_and_frequencies_of_sawtooths_have_their_moments():
    same_places = {"inputs": (0.0, 1e-6), "query_inputs": (0.0, 1e-6)}
    drawn = jax.jit(stacked(sawtooth(num_shots=2, num_queries=1, noise=0.1, **same_places), 4000))(jax.random.key(0))
    differences = np.diff(np.asarray(drawn.support.y)[..., 0], axis=1)
    close = differences[abs(differences) < 0.6]  # not on both sides of a jump
    np.testing.assert_allclose(close.std(), 0.1 * np.sqrt(2), rtol=0.05)


def test_a_mixture_draws_from_each_sampler_equally_often_and_whole():
    """One sampler's tasks are at places of its own, so that every task tells where it is from."""
    kinds = [gaussian_process(RBF, num_shots=3, num_queries=2, noise=0.1, inputs=(float(i), i + 0.5)) for i in range(3)]
    drawn = jax.jit(stacked(mixture(*kinds), 3000))(jax.random.key(0))
    of_support, of_query = (np.floor(np.asarray(batch.x)[..., 0]) for batch in drawn[:2])
    assert (of_support == of_support[:, :1]).all()
    assert (of_query == of_support[:, :1]).all()
    np.testing.assert_allclose(np.bincount(of_support[:, 0].astype(int)) / 3000, 1 / 3, atol=0.04)


def test_what_does_not_go_together_is_refused():
    with pytest.raises(ValueError, match="no samplers"):
        mixture()
    one, other = (sawtooth(num_shots=shots, num_queries=2, noise=0.1) for shots in (3, 4))
    with pytest.raises(ValueError, match=r"sampler 1 are .*\[4, 1\].*the same numbers of points"):
        mixture(one, other)
    with pytest.raises(ValueError, match=r"frequency=\(0.0, 1.0\)"):
        sawtooth(num_shots=3, num_queries=2, noise=0.1, frequency=(0.0, 1.0))
    with pytest.raises(ValueError, match="different protocols"):
        regression_protocol("tnp_rbf", tested_on="np_eq")
    with pytest.raises(ValueError, match="no process 'rbf'"):
        inspect.unwrap(regression_protocol)("rbf")  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("process", ["np_sawtooth", "np_weakly_periodic"])
@pytest.mark.parametrize(
    ("region", "support", "query"),
    [("interpolation", (-2, 2), (-2, 2)), ("beyond", (2, 6), (2, 6)), ("extrapolation", (-2, 2), (2, 6))],
)
def test_regions_say_where_points_of_tests_lie(process, region, support, query):
    protocol = regression_protocol(process, region=region)
    task = jax.jit(protocol.source.meta_test)(jax.random.key(0))
    assert (task.support.x.shape, task.query.x.shape, task.query.mask) == ((30, 1), (50, 1), None)
    for batch, (low, high) in ((task.support, support), (task.query, query)):
        real = np.asarray(batch.x)[slice(None) if batch.mask is None else np.asarray(batch.mask)]
        assert ((low <= real) & (real <= high)).all()
    trained = np.asarray(protocol.source.meta_train()(jax.random.key(0)).query.x)
    assert abs(trained).max() <= 2
    np.testing.assert_allclose(protocol.noise**2, 0.05)


def test_the_mixture_has_the_form_of_its_parts():
    key = jax.random.key(0)
    mixed, part = (jax.eval_shape(regression_protocol(name).source.meta_test, key) for name in ("np_mixture", "np_eq"))
    assert mixed == part


def test_tnp_tests_on_other_kernels_than_it_trains_on():
    protocol = regression_protocol("tnp_rbf", tested_on="tnp_periodic", is_joint=True)
    assert protocol.source.describe(5).startswith("TNP regression/periodic, joint density, 3 to 46 shots")
    assert protocol.source.describe_valid(5).startswith("TNP regression/RBF, joint density")
    assert (protocol.noise, protocol.tested_kernel) == (0.02, None)
    rbf = kernels.rbf(length_scale=(0.1, 0.6), scale=(0.1, 1.0))
    gram = lambda kernel: kernel.gram(jnp.full(2, 0.5), jnp.zeros((1, 1)), jnp.ones((1, 1)))
    np.testing.assert_allclose(gram(protocol.trained_kernel), gram(rbf))
    drawn = jax.jit(stacked(protocol.source.meta_test, 200))(jax.random.key(0))
    counts = np.asarray(drawn.support.mask.sum(1)), np.asarray(drawn.query.mask.sum(1))
    assert sum(counts).max() <= 49
    assert min(map(np.min, counts)) >= 3


def test_a_finite_source_trains_on_its_set_and_tests_on_new_tasks():
    source = tasks.finite_sinusoid_source(num_train_tasks=3, train_shots=4, train_queries=2, num_shots=5, num_queries=6)
    seen = {float(source.meta_train()(jax.random.key(i)).support.x[0, 0]) for i in range(20)}
    others = {float(source.meta_valid(jax.random.key(i)).support.x[0, 0]) for i in range(20)}
    assert (len(seen), len(others), len(seen & others)) == (3, 20, 0)
    task = source.meta_test(jax.random.key(0))
    assert (task.support.x.shape, task.query.x.shape) == ((5, 1), (6, 1))
    assert "4-shot, 2 queries" in source.describe_valid(7)
