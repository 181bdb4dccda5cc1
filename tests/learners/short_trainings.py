"""Short meta-trainings of several seeds at once, to see that a learner learns and stays finite."""

import jax
import optax

import jmeta
from jmeta import tasks


def losses_of_seeds(learner, loss_fn, sample, *, num_seeds=5, num_steps=30, lr=1e-2):
    """The training losses, `[seeds, steps]`, on meta-batches of eight tasks."""
    episode_fn, stacked = jmeta.episode(learner, loss_fn), tasks.stacked(sample, 8)
    grad_fn = jmeta.over_tasks(jax.value_and_grad(episode_fn, has_aux=True))
    trainer = jmeta.meta_trainer(grad_fn, optax.adam(lr))

    def train(key):
        key_init, key_task, key_steps = jax.random.split(key, 3)
        state = trainer.init(learner.init(key_init, sample(key_task)))

        def step(state, key):
            key_tasks, key_update = jax.random.split(key)
            state, aux = trainer.update(state, stacked(key_tasks), key_update)
            return state, (aux["loss"], state.num_skipped)

        return jax.lax.scan(step, state, jax.random.split(key_steps, num_steps))[1]

    losses, num_skipped = jax.jit(jax.vmap(train))(jax.random.split(jax.random.key(0), num_seeds))
    assert not num_skipped.any()
    return losses
