"""Trust-region steps: the natural gradient by two routes, the bound, and steps that are not taken."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jmeta.domains.rl.policies import Categorical
from jmeta.domains.rl.trust_region import trust_region_trainer

TARGET = np.array([1.0, -2.0, 0.5])


def decide(params, tasks, key):
    return Categorical(tasks @ params)


def divergence(old, new, tasks):
    return old.kl(new).mean()


def loss_fn(params, tasks, key):
    probabilities = jax.nn.softmax(tasks @ params)
    return -(probabilities @ jnp.asarray(TARGET)).mean(), {}


@pytest.fixture
def problem(float64):
    tasks = jax.random.normal(jax.random.key(0), (20, 4), jnp.float64)
    return tasks, 0.1 * jax.random.normal(jax.random.key(1), (4, 3), jnp.float64)


def test_the_step_is_along_the_natural_gradient(problem, key):
    """By conjugate gradients on products, and by the whole Hessian of the KL divergence."""
    tasks, params = problem
    damping = 1e-3
    trainer = trust_region_trainer(loss_fn, decide, divergence, max_divergence=1e-4, num_cg_steps=50, damping=damping)
    state, aux = jax.jit(trainer.update)(trainer.init(params), tasks, key)
    old = decide(params, tasks, key)
    divergence_of = lambda flat: divergence(old, decide(flat.reshape(4, 3), tasks, key), tasks)
    fisher = jax.jit(jax.hessian(divergence_of))(params.ravel())
    gradient = jax.grad(lambda at: loss_fn(at, tasks, key)[0])(params).ravel()
    natural = -np.linalg.solve(np.asarray(fisher) + damping * np.eye(12), gradient)
    moved = np.asarray(state.meta_params - params).ravel()
    assert float(aux["step_share"]) == 1.0
    np.testing.assert_allclose(moved / np.linalg.norm(moved), natural / np.linalg.norm(natural), atol=1e-6)


@pytest.mark.parametrize("bound", [1e-4, 1e-2])
def test_the_divergence_is_at_the_bound_and_not_above(problem, bound, key):
    tasks, params = problem
    trainer = trust_region_trainer(loss_fn, decide, divergence, max_divergence=bound)
    _, aux = trainer.update(trainer.init(params), tasks, key)
    assert 0.5 * bound < float(aux["divergence"]) <= 1.001 * bound


def test_many_steps_go_down(problem, key):
    tasks, params = problem
    trainer = trust_region_trainer(loss_fn, decide, divergence, max_divergence=0.05)
    update, state, losses = jax.jit(trainer.update), trainer.init(params), []
    for _ in range(20):
        state, aux = update(state, tasks, key)
        losses.append(float(aux["loss"]))
    assert (np.diff(losses) < 0).all()
    assert int(state.step) == 20


def test_no_step_is_taken_where_none_lowers_the_loss(problem, key):
    """The loss is at its lowest for the parameters as they are, but its gradient says otherwise."""
    tasks, params = problem

    def misleading(at, tasks, key):
        distance = ((at - params) ** 2).sum()
        return distance + (at - jax.lax.stop_gradient(at)).sum(), {}

    trainer = trust_region_trainer(misleading, decide, divergence)
    state, aux = trainer.update(trainer.init(params), tasks, key)
    assert float(aux["step_share"]) == 0.0
    np.testing.assert_array_equal(state.meta_params, params)


def test_a_gradient_that_is_not_finite_is_skipped(problem, key):
    tasks, params = problem
    trainer = trust_region_trainer(lambda at, tasks, key: (jnp.nan * at.sum(), {}), decide, divergence)
    state, aux = trainer.update(trainer.init(params), tasks, key)
    assert int(aux["is_skipped"]) == int(state.num_skipped) == 1
    np.testing.assert_array_equal(state.meta_params, params)


@pytest.mark.parametrize(
    "numbers", [{"max_divergence": 0.0}, {"damping": -1.0}, {"shrink": 1.0}, {"num_backtracks": 0}]
)
def test_numbers_out_of_range_are_refused(numbers):
    with pytest.raises(ValueError, match="expected"):
        trust_region_trainer(loss_fn, decide, divergence, **numbers)
