"""Meta-gradients by other means than reverse mode: that they are exact, or unbiased, and what they refuse."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jmeta
from jmeta import adjoints, estimators, learners, losses, testing

from ..networks import regression_task, smooth_mlp, stacked_regression_tasks

reverse = lambda episode_fn: jax.value_and_grad(episode_fn, has_aux=True)


def maml_episode(adjoint=adjoints.unrolled()):
    learner = learners.maml(smooth_mlp(), losses.squared_error, optax.sgd(0.1), num_steps=2, adjoint=adjoint)
    return learner, jmeta.episode(learner, losses.squared_error)


def coin_episode(logits, task, key):
    """Draw one of three outcomes with costs that depend on the logits, too."""
    log_probs = jax.nn.log_softmax(logits)
    drawn = jax.random.categorical(key, logits)
    return costs(logits, task)[drawn], {"log_prob": log_probs[drawn]}


def costs(logits, task):
    return task + jnp.sin(jnp.arange(3) * logits)


ESTIMATORS = {
    "reverse": reverse,
    "forward_mode": estimators.forward_mode,
    "forward_mode in batches": lambda episode_fn: estimators.forward_mode(episode_fn, directions_at_once=5),
    "evolution_strategies": lambda episode_fn: estimators.evolution_strategies(episode_fn, num_pairs=4, sigma=0.1),
}


@pytest.mark.parametrize("name", ESTIMATORS)
def test_every_estimator_keeps_the_contract_and_serves_over_tasks(name, key):
    learner, episode_fn = maml_episode()
    tasks = stacked_regression_tasks(key, 2)
    one = jax.tree.map(lambda leaf: leaf[0], tasks)
    meta_params = learner.init(key, one)
    testing.check_estimator(ESTIMATORS[name], episode_fn, meta_params, one, key)
    grad_fn = ESTIMATORS[name](episode_fn)
    testing.check_meta_gradient(grad_fn, meta_params, tasks, key)
    together, one_by_one = (
        jax.jit(jmeta.over_tasks(grad_fn, how))(meta_params, tasks, key) for how in ("vmap", "scan")
    )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), together, one_by_one)


def test_the_score_function_keeps_the_contract(key):
    estimator = lambda episode_fn: estimators.score_function(episode_fn, num_samples=3)
    testing.check_estimator(estimator, coin_episode, jnp.array([0.1, -0.3, 0.2]), jnp.arange(3.0), key)


@pytest.mark.parametrize("directions_at_once", [None, 1, 4, 1000])
def test_forward_mode_is_reverse_mode(float64, key, directions_at_once):
    learner, episode_fn = maml_episode()
    task = regression_task(key)
    meta_params = learner.init(key, task)
    forward = estimators.forward_mode(episode_fn, directions_at_once=directions_at_once)
    got, expected = (jax.jit(each)(meta_params, task, key) for each in (forward, reverse(episode_fn)))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12), got, expected)


@pytest.mark.parametrize("adjoint", [adjoints.mixed_mode(), adjoints.mixed_mode(block_size=2)])
def test_forward_mode_refuses_what_it_cannot_go_through(key, adjoint):
    learner, episode_fn = maml_episode(adjoint)
    task = regression_task(key)
    with pytest.raises(ValueError, match="forward mode cannot differentiate this episode"):
        estimators.forward_mode(episode_fn)(learner.init(key, task), task, key)


def test_an_evolution_strategy_of_a_linear_loss_is_the_regression_on_its_own_noise(float64, key):
    """(L(θ + σε) − L(θ − σε)) ε / 2σ is (g·ε) ε whatever σ: the estimate is linear in g, and exact on average."""
    slope = jnp.arange(1.0, 5.0)
    episode_fn = lambda meta_params, task, key: (meta_params @ slope, {})
    estimate = lambda sigma: estimators.evolution_strategies(episode_fn, num_pairs=4000, sigma=sigma)(
        jnp.ones(4), None, key
    )[1]
    np.testing.assert_allclose(estimate(0.01), estimate(10.0), rtol=1e-9)
    # each number has the variance (g·g + gᵢ²) / pairs
    deviation = jnp.sqrt((slope @ slope + slope**2) / 4000)
    assert (jnp.abs(estimate(1.0) - slope) < 4 * deviation).all()


def test_evolution_strategies_tend_to_the_gradient_and_batches_change_nothing(float64, key):
    learner, episode_fn = maml_episode()
    task = regression_task(key)
    meta_params = learner.init(key, task)
    (loss, aux), exact = jax.jit(reverse(episode_fn))(meta_params, task, jax.random.split(key)[0])
    cosines = []
    for num_pairs in (10, 100, 2000):
        estimator = estimators.evolution_strategies(episode_fn, num_pairs=num_pairs, sigma=1e-3, pairs_at_once=10)
        got, grads = jax.jit(estimator)(meta_params, task, key)
        np.testing.assert_allclose(got[0], loss, rtol=1e-9)  # at the meta-parameters themselves
        cosines.append(cosine(grads, exact))
    assert cosines == sorted(cosines)
    assert cosines[-1] > 0.98
    np.testing.assert_allclose(aux["squared_error"], loss)
    at_once, in_batches = (
        jax.jit(estimators.evolution_strategies(episode_fn, num_pairs=10, sigma=1e-3, pairs_at_once=each))(
            meta_params, task, key
        )
        for each in (None, 5)
    )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-7), at_once, in_batches)


def cosine(a, b):
    return float(optax.tree.vdot(a, b) / (optax.tree.norm(a) * optax.tree.norm(b)))


@pytest.mark.parametrize("num_samples", [1, 2, 5])
def test_the_score_function_is_unbiased(float64, key, num_samples):
    """The expectation is a finite sum: differentiate that."""
    logits, task = jnp.array([0.1, -0.3, 0.2]), jnp.arange(3.0)
    expected = jax.grad(lambda logits: jax.nn.softmax(logits) @ costs(logits, task))(logits)
    grad_fn = estimators.score_function(coin_episode, num_samples=num_samples)
    estimates = jax.vmap(lambda key: grad_fn(logits, task, key)[1])(jax.random.split(key, 20_000))
    deviation = estimates.std(0) / np.sqrt(20_000)
    assert (jnp.abs(estimates.mean(0) - expected) < 4 * deviation).all()


def test_the_baseline_takes_noise_away(float64, key):
    """Two samples with their baselines have less than half the variance of one."""
    logits, task = jnp.array([0.1, -0.3, 0.2]), 10 + jnp.arange(3.0)

    def variance(num_samples):
        grad_fn = estimators.score_function(coin_episode, num_samples=num_samples)
        return jax.vmap(lambda key: grad_fn(logits, task, key)[1])(jax.random.split(key, 4000)).var(0).sum()

    assert variance(2) < 0.1 * variance(1)


def test_magic_boxes_have_the_second_derivatives_of_the_expectation(float64):
    """Σ p(a) □(log p(a)) c(a), with p held constant outside, is differentiated twice like Σ p(a) c(a)."""
    cost = jnp.array([1.0, -2.0, 0.5])

    def boxed(logits):
        log_probs = jax.nn.log_softmax(logits)
        return (jax.lax.stop_gradient(jnp.exp(log_probs)) * estimators.magic_box(log_probs)) @ cost

    logits = jnp.array([0.1, -0.3, 0.2])
    expected = lambda logits: jax.nn.softmax(logits) @ cost
    np.testing.assert_allclose(jax.hessian(boxed)(logits), jax.hessian(expected)(logits), rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize(
    ("aux", "message"), [({}, r"the aux has \[\]"), ({"log_prob": jnp.zeros(2)}, "a log_prob that is no scalar")]
)
def test_the_score_function_asks_for_the_log_probability(key, aux, message):
    with pytest.raises(ValueError, match=message):
        estimators.score_function(lambda meta_params, task, key: (meta_params, aux))(1.0, None, key)


def descent_unroll(rate, x, task, key):
    """Two steps of gradient descent on task · x²/2; the loss after them."""
    for _ in range(2):
        x = x - rate * task * x
    return x, x**2, {"position": x}


def persistent(num_pairs, num_unrolls=3, sigma=0.02):
    return estimators.persistent_evolution_strategies(
        descent_unroll,
        lambda rate, task, key: jnp.ones(()),
        num_unrolls=num_unrolls,
        num_pairs=num_pairs,
        sigma=sigma,
    )


def sum_over_one_loop(estimator, rate, task, key):
    state = estimator.init(rate, task, key)
    total = 0.0
    for key_unroll in jax.random.split(key, 3):
        state, (_, gradient) = jax.jit(estimator.update)(state, rate, task, key_unroll)
        total += gradient
    return state, total


def test_persistent_evolution_gives_the_gradient_of_the_whole_loop(float64, key):
    rate, task = jnp.asarray(0.1), jnp.asarray(1.5)

    def whole(rate, is_cut):
        x, total = jnp.ones(()), 0.0
        for _ in range(3):
            x, loss, _ = descent_unroll(rate, jax.lax.stop_gradient(x) if is_cut else x, task, key)
            total += loss
        return total

    exact, cut = (jax.grad(lambda rate, is_cut=is_cut: whole(rate, is_cut))(rate) for is_cut in (False, True))
    _, estimated = sum_over_one_loop(persistent(20_000), rate, task, key)
    assert abs(estimated - exact) < 0.05 * abs(exact)
    assert abs(cut - exact) > 0.3 * abs(exact)  # what truncation would give


def test_particles_begin_anew_after_the_last_unroll(key):
    estimator = persistent(4)
    rate, task = jnp.asarray(0.1), jnp.asarray(1.5)
    state, _ = sum_over_one_loop(estimator, rate, task, key)
    fresh = estimator.init(rate, task, key)
    jax.tree.map(np.testing.assert_array_equal, state, fresh)
    state, ((loss, aux), gradient) = estimator.update(state, rate, task, key)
    assert int(state.num_unrolls) == 1
    assert {loss.shape, aux["position"].shape, gradient.shape} == {()}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda f: estimators.forward_mode(f, directions_at_once=0), "directions_at_once=0"),
        (lambda f: estimators.evolution_strategies(f, num_pairs=0, sigma=1.0), "num_pairs=0"),
        (lambda f: estimators.evolution_strategies(f, num_pairs=1, sigma=0.0), "sigma=0"),
        (lambda f: estimators.evolution_strategies(f, num_pairs=4, sigma=1.0, pairs_at_once=3), "pairs_at_once=3"),
        (lambda f: estimators.score_function(f, num_samples=0), "num_samples=0"),
        (lambda f: persistent(0), "num_pairs=0"),
        (lambda f: persistent(1, num_unrolls=0), "num_unrolls=0"),
    ],
)
def test_impossible_numbers_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make(maml_episode()[1])


def test_forward_mode_refuses_what_is_not_of_floating_point(key):
    grad_fn = estimators.forward_mode(lambda meta_params, task, key: (meta_params["rate"] * 1.0, {}))
    with pytest.raises(TypeError, match="one is int32"):
        grad_fn({"rate": 1.0, "count": jnp.arange(2)}, None, key)
    with pytest.raises(ValueError, match="without a single leaf"):
        grad_fn({}, None, key)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32])
@pytest.mark.parametrize("loss_dtype", [jnp.float32, jnp.float64])
def test_estimates_have_the_dtypes_of_what_is_learned(float64, key, dtype, loss_dtype):
    """Whatever the loss has, as gradients of reverse mode do."""
    meta_params = {"rate": jnp.ones(3, dtype), "start": jnp.ones((), dtype)}
    loss = lambda meta_params: sum(leaf.astype(loss_dtype).sum() for leaf in jax.tree.leaves(meta_params))
    es = estimators.evolution_strategies(lambda meta_params, task, key: (loss(meta_params), {}), num_pairs=4, sigma=0.1)
    pes = estimators.persistent_evolution_strategies(
        lambda meta_params, inner, task, key: (inner, loss(meta_params), {}),
        lambda meta_params, task, key: jnp.zeros(()),
        num_unrolls=2,
        num_pairs=4,
        sigma=0.1,
    )
    _, grads = jax.jit(es)(meta_params, None, key)
    state, (_, persistent_grads) = jax.jit(pes.update)(pes.init(meta_params, None, key), meta_params, None, key)
    assert jax.tree.map(jnp.result_type, state.felt) == jax.tree.map(jnp.result_type, meta_params)
    for each in (grads, persistent_grads):
        assert jax.tree.map(jnp.result_type, each) == jax.tree.map(jnp.result_type, meta_params)
