"""Golden losses: a few numbers for each learner that no refactoring may change.

They are the losses of the first meta-steps of every learner in the registry. After a change that is meant to alter
them, write them anew and say why in the commit; after a new learner, write its own:

    python -m tests.test_golden [NAME ...]
"""

import json
import pathlib
import sys

import jax
import numpy as np
import optax
import pytest

import jmeta
from jmeta import tasks, training

from .registry import LEARNERS

GOLDEN = pathlib.Path(__file__).parent / "golden" / "losses.json"
NUM_STEPS = 4


def first_losses(name: str) -> list[float]:
    entry = LEARNERS[name]
    episode_fn = jmeta.episode(entry.learner, entry.loss_fn)
    meta_params = entry.learner.init(jax.random.key(0), entry.sample(jax.random.key(1)))
    stacked = tasks.stacked(entry.sample, 4)
    if not entry.has_meta_params:
        episodes = jax.jit(jmeta.over_tasks(episode_fn))
        keys = [training.step_keys(jax.random.key(2), step) for step in range(NUM_STEPS)]
        return [float(episodes(meta_params, stacked(key_tasks), key)[0]) for key_tasks, key in keys]
    grad_fn = jmeta.over_tasks(jax.value_and_grad(episode_fn, has_aux=True))
    trainer = jmeta.meta_trainer(grad_fn, optax.sgd(0.05))
    run = training.sampled_steps(trainer, num_steps=NUM_STEPS, num_total_steps=NUM_STEPS)
    _, aux = run(trainer.init(meta_params), stacked, jax.random.key(2))
    return [float(loss) for loss in aux["loss"]]


@pytest.mark.slow
@pytest.mark.parametrize("name", LEARNERS)
def test_the_first_losses_are_what_they_were(name):
    np.testing.assert_allclose(first_losses(name), json.loads(GOLDEN.read_text())[name], rtol=2e-4, atol=1e-6)


def test_there_is_no_golden_loss_without_a_learner():
    assert set(json.loads(GOLDEN.read_text())) == set(LEARNERS)


if __name__ == "__main__":
    jax.config.update("jax_platforms", "cpu")
    GOLDEN.parent.mkdir(exist_ok=True)
    names = sys.argv[1:] or list(LEARNERS)
    kept = json.loads(GOLDEN.read_text()) if GOLDEN.exists() else {}
    written = {name: [round(loss, 6) for loss in first_losses(name)] for name in names}
    losses = {name: (kept | written)[name] for name in LEARNERS}
    GOLDEN.write_text(json.dumps(losses, indent=1) + "\n")
    print(f"wrote {len(written)} rows to {GOLDEN.name}")
