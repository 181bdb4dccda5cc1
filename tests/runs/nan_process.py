"""A hundred meta-steps on tasks of which one in a hundred is not finite, on all devices of a job.

Every process prints one JSON object: its number, which steps were skipped, and a digest of the bits of the state.
"""

import hashlib
import json
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jmeta
from jmeta import learners, losses, models, sharding, tasks, training
from jmeta.runs import processes

NUM_BLOCKS, NUM_TASKS, NUM_STEPS = 8, 8, 100


def faulty_sinusoid(key):
    """A task of sinusoid regression; the key decides whether it has NaN in place of an output."""
    task = tasks.sinusoid(num_shots=3, num_queries=3)(key)
    is_faulty = jax.random.uniform(jax.random.fold_in(key, 1)) < 0.01
    return task._replace(query=task.query._replace(y=jnp.where(is_faulty, jnp.nan, task.query.y)))


def main(arguments: list[str]) -> int:
    del arguments
    processes.join(detect=False)
    shared = sharding.Sharing(sharding.make_mesh({"tasks": jax.device_count()}), num_blocks=NUM_BLOCKS)
    learner = learners.maml(models.mlp([8, 8, 1]), losses.squared_error, optax.sgd(0.01), num_steps=1)
    grad_fn = jax.value_and_grad(jmeta.episode(learner, losses.squared_error), has_aux=True)
    trainer = shared.trainer(jmeta.meta_trainer(jmeta.over_tasks(grad_fn), optax.adam(1e-3)))
    state = shared.place(trainer.init(learner.init(jax.random.key(0), faulty_sinusoid(jax.random.key(1)))))
    sample, key = shared.replicate((shared.stacked(faulty_sinusoid, NUM_TASKS), jax.random.key(2)))
    state, aux = training.sampled_steps(trainer, num_steps=NUM_STEPS)(state, sample, key)
    state, is_skipped = sharding.to_local_device(state), np.asarray(sharding.to_local_device(aux["is_skipped"]))
    bits = b"".join(np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(state))
    result = {
        "process": jax.process_index(),
        "skipped": np.flatnonzero(is_skipped).tolist(),
        "num_skipped": int(state.num_skipped),
        "last_skipped_step": int(state.last_skipped_step),
        "is_finite": all(bool(np.isfinite(leaf).all()) for leaf in jax.tree.leaves(state.meta_params)),
        "digest": hashlib.sha256(bits).hexdigest(),
    }
    print(json.dumps(result), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(processes.run(main, sys.argv[1:]))
