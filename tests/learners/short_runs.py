"""Short meta-trainings of several seeds in one program: do they learn, and do they stay finite?"""

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jmeta
from jmeta import tasks

SEEDS = 5
WAVES = tasks.sinusoid(num_shots=10, num_queries=10, phase=(0.0, 0.5), inputs=(-2.0, 2.0))
"""Waves that resemble each other, so that a few meta-steps show."""


def assert_all_seeds_learn(learner, loss_fn, sample, *, meta_lr=1e-2, num_steps=30, tasks_per_step=4, factor=0.9):
    """After 30 meta-steps the plain loss is below `factor` times that of the start, and no step was skipped."""
    trainer = jmeta.meta_trainer(
        jmeta.over_tasks(jax.value_and_grad(jmeta.episode(learner, loss_fn), has_aux=True)), optax.adam(meta_lr)
    )
    episodes = jax.vmap(jmeta.plain_episode(learner, loss_fn), in_axes=(None, 0, None))

    def run(key):
        key_init, key_steps, key_test, key_judge = jax.random.split(key, 4)
        start = learner.init(key_init, sample(key_test))
        judged = lambda meta_params: episodes(meta_params, tasks.stacked(sample, 32)(key_test), key_judge)[0].mean()

        def step(state, key):
            key_tasks, key_update = jax.random.split(key)
            return trainer.update(state, tasks.stacked(sample, tasks_per_step)(key_tasks), key_update)

        state, aux = jax.lax.scan(step, trainer.init(start), jax.random.split(key_steps, num_steps))
        both = jax.tree.map(lambda *leaves: jnp.stack(leaves), start, state.meta_params)
        return jax.lax.map(judged, both), aux, state.meta_params

    losses, aux, meta_params = jax.jit(jax.vmap(run))(jax.random.split(jax.random.key(0), SEEDS))
    before, after = losses.T
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((aux, meta_params)))
    assert not aux["is_skipped"].any()
    np.testing.assert_array_less(after, factor * before)
    assert (jnp.abs(aux["kl"]) > 0).all()
