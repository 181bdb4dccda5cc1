"""Meta-gradients at the size and in the form that they are used: compilers err where toys do not show it."""

import jax
import jax.numpy as jnp
import optax
import pytest

import jmeta
from jmeta import Batch, Task, adjoints, learners, losses, models

pytestmark = [pytest.mark.optimized, pytest.mark.slow]  # scaling: the network and the tasks of the papers
WAYS, STEPS = 5, 4
ROUTES = {
    "unrolled, scan": (adjoints.unrolled(), "scan"),
    "unrolled, vmap": (adjoints.unrolled(), "vmap"),
    "rematerialized, scan": (adjoints.rematerialized(), "scan"),
    "mixed_mode, scan": (adjoints.mixed_mode(), "scan"),
    "mixed_mode, vmap": (adjoints.mixed_mode(), "vmap"),
    "mixed_mode in blocks, scan": (adjoints.mixed_mode(block_size="sqrt"), "scan"),
}


def omniglot_like(key):
    """28x28, 5-way 1-shot, 75 queries."""
    key_patterns, *keys = jax.random.split(key, 3)
    patterns = jax.random.uniform(key_patterns, (WAYS, 28, 28, 1))

    def batch(key, shots):
        y = jnp.tile(jnp.arange(WAYS), shots)
        return Batch(patterns[y] + 0.3 * jax.random.normal(key, (len(y), 28, 28, 1)), y)

    return Task(batch(keys[0], 1), batch(keys[1], 15))


def meta_gradient(adjoint, batching, num_tasks=2):
    """Of second-order MAML on conv4-64 with batch norm and maxima: `(grad_fn, arguments)`."""
    model = models.conv4(WAYS)
    learner = learners.maml(model, losses.cross_entropy, optax.sgd(0.1), num_steps=STEPS, adjoint=adjoint)
    task = omniglot_like(jax.random.key(2))
    tasks = jax.tree.map(lambda leaf: jnp.stack(num_tasks * [leaf]), task)  # of equal ones, which are quickly compared
    meta_params = jax.jit(learner.init)(jax.random.key(0), task)
    grad_fn = jmeta.over_tasks(jax.value_and_grad(jmeta.episode(learner, losses.cross_entropy), has_aux=True), batching)
    return grad_fn, (meta_params, tasks, jax.random.key(1))


def test_compiled_meta_gradients_are_the_one_that_nobody_compiled():
    """To what float32 leaves: where two pixels are nearly equal, rounding decides which of them is the maximum.

    Gradients were 8e-4 off, all routes alike; the compilers' errors that this looks for were 10 % and more.
    """
    grad_fn, arguments = meta_gradient(adjoints.unrolled(), "vmap", num_tasks=1)
    with jax.disable_jit():  # operation by operation: no compiler sees two of them together
        (expected_loss, _), expected = grad_fn(*arguments)
    errors = {}
    for name, route in ROUTES.items():
        grad_fn, arguments = meta_gradient(*route)
        (loss, _), grads = jax.jit(grad_fn)(*arguments)
        difference = optax.tree.norm(jax.tree.map(jnp.subtract, grads, expected))
        errors[name] = abs(loss / expected_loss - 1), difference / optax.tree.norm(expected)
    assert all(of_loss < 5e-3 and of_gradient < 2e-2 for of_loss, of_gradient in errors.values()), errors
