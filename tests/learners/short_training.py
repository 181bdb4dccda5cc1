"""A short meta-training from several starts at once, and the query loss before and after."""

import jax
import numpy as np
import optax

import jmeta
from jmeta import tasks


def query_losses(learner, loss_fn, sample, starts, key, *, num_steps=30, tasks_per_step=4, lr=1e-2):
    """Train from each start, stacked on the first axis; return the losses of 64 tasks before and after, `[2, starts]`.

    Every loss of training, and every parameter after it, is a finite number.
    """
    grad_fn = jmeta.over_tasks(jax.value_and_grad(jmeta.episode(learner, loss_fn), has_aux=True))
    optimizer = optax.adam(lr)
    key_train, key_test, key_adapt = jax.random.split(key, 3)
    held_out = tasks.stacked(sample, 64)(key_test)
    evaluate = jmeta.over_tasks(jmeta.plain_episode(learner, loss_fn))

    def step(carry, key):
        meta_params, state = carry
        key_tasks, key_episode = jax.random.split(key)
        (loss, _), grads = grad_fn(meta_params, tasks.stacked(sample, tasks_per_step)(key_tasks), key_episode)
        updates, state = optimizer.update(grads, state, meta_params)
        return (optax.apply_updates(meta_params, updates), state), loss

    def run(start):
        keys = jax.random.split(key_train, num_steps)
        (trained, _), losses = jax.lax.scan(step, (start, optimizer.init(start)), keys)
        return [evaluate(params, held_out, key_adapt)[0] for params in (start, trained)], losses, trained

    before_and_after, losses, trained = jax.jit(jax.vmap(run))(starts)
    assert np.isfinite(losses).all()
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(trained))
    return np.array(before_and_after)
