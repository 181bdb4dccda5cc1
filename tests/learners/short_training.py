"""A short meta-training from several starts in one program: does it learn, and does everything stay finite?"""

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jmeta
from jmeta import tasks

WAVES = tasks.sinusoid(num_shots=10, num_queries=10, phase=(0.0, 0.5), inputs=(-2.0, 2.0))
"""Waves that resemble each other, so that a few meta-steps show."""


def starts_of_seeds(learner, sample, num_seeds=5):
    """Initial meta-parameters of several seeds, stacked."""
    task = sample(jax.random.key(0))
    return jax.vmap(lambda key: learner.init(key, task))(jax.random.split(jax.random.key(1), num_seeds))


def query_losses(learner, loss_fn, sample, *, starts=None, num_steps=30, tasks_per_step=4, lr=1e-2):
    """Train from each start (by default, those of five seeds); no number is infinite or NaN, no step is skipped.

    Returns the plain query losses of 32 tasks before and after, `[starts]` each, and what training reported,
    `[starts, steps]`.
    """
    grad_fn = jmeta.over_tasks(jax.value_and_grad(jmeta.episode(learner, loss_fn), has_aux=True))
    trainer = jmeta.meta_trainer(grad_fn, optax.adam(lr))
    judge = jmeta.over_tasks(jmeta.plain_episode(learner, loss_fn))
    key_train, key_test, key_judge = jax.random.split(jax.random.key(2), 3)

    def run(start):
        held_out = tasks.stacked(sample, 32)(key_test)

        def step(state, key):
            key_tasks, key_update = jax.random.split(key)
            return trainer.update(state, tasks.stacked(sample, tasks_per_step)(key_tasks), key_update)

        state, aux = jax.lax.scan(step, trainer.init(start), jax.random.split(key_train, num_steps))
        both = jax.tree.map(lambda *leaves: jnp.stack(leaves), start, state.meta_params)
        return jax.lax.map(lambda params: judge(params, held_out, key_judge)[0], both), aux, state.meta_params

    losses, aux, trained = jax.jit(jax.vmap(run))(starts_of_seeds(learner, sample) if starts is None else starts)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((losses, aux, trained)))
    assert not aux["is_skipped"].any()
    return *np.asarray(losses).T, aux
