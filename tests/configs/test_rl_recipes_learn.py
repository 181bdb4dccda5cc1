"""Every method that acts learns something that only adapting can give, in seconds, by its recipe.

The bandit has two arms and ten pulls: without memory 5, with the best there is 6.02. On short navigation a policy
before its gradient step has about −8, wherever it goes; the step is worth more the better the start has been learned.
Beside it, in `tests/domains/rl/learners`, are the GRU under PPO, VariBAD and ProMP.
"""

import dataclasses

import jax
import pytest

from configs import bandit_rl2, bandit_rl2_snail, bandit_rl2_transformer, navigation_maml
from jmeta import runs, tasks, training
from jmeta.runs import evaluate

pytestmark = pytest.mark.optimized
BANDIT = {
    "num_arms": 2,
    "discount": 1.0,
    "gae_lambda": 0.3,
    "entropy_weight": 0.05,
    "num_epochs": 4,
    "num_minibatches": 2,
    "meta_lr": 1e-2,
    "clip_norm": 1e6,
}
REMEMBERING = {
    "lstm": (bandit_rl2, {"cell": "lstm", "width": 16}, 150),
    "transformer": (bandit_rl2_transformer, {"width": 16, "num_layers": 1, "num_heads": 2}, 150),
    "snail": (bandit_rl2_snail, {"width": 8, "num_blocks": 1, "num_filters": 8, "key_width": 8, "value_width": 8}, 150),
    "a2c": (bandit_rl2, {"width": 32, "loss": "a2c", "num_epochs": 1, "num_minibatches": 4}, 300),
}
DESCENDING = {
    "maml with trpo": {},
    "maml with dice": {"surrogate": "dice", "outer": "ppo", "num_epochs": 3, "meta_lr": 1e-2},
    "e-maml": {"exploration_weight": 0.1},
}


def trained(experiment):
    """The meta-parameters at the end of a run, without a run folder."""
    key_init, key_train = jax.random.split(jax.random.key(0))
    run = training.sampled_steps(experiment.trainer, num_steps=experiment.training.num_steps)
    sample = tasks.stacked(experiment.meta_train, experiment.training.tasks_per_step)
    state, _ = run(experiment.trainer.init(experiment.init_fn(key_init)), sample, key_train)
    assert not int(state.num_skipped)
    return state.meta_params


def outer_loop(num_steps, tasks_per_step):
    return runs.Training(num_steps, tasks_per_step, steps_per_dispatch=10, evaluate_every=num_steps)


@pytest.mark.slow
@pytest.mark.parametrize("name", REMEMBERING)
def test_a_bandit_is_explored_and_exploited(name):
    """From 5.59 to 6.11 over methods and two seeds; standard error 0.05."""
    module, changes, num_steps = REMEMBERING[name]
    sizes = {"training": outer_loop(num_steps, 256), "testing": runs.Testing(2000, tasks_at_once=500)}
    experiment = module.build(dataclasses.replace(module.Options(), **(BANDIT | changes), **sizes))
    judged = evaluate.evaluated(experiment, trained(experiment)).evaluation
    assert judged.inductive["return"].mean > 5.2


@pytest.mark.slow
@pytest.mark.parametrize("name", DESCENDING)
def test_a_gradient_step_is_worth_more_from_a_learned_start(name):
    """About −9.1 after a step from a start not learned, and −3.9 to −3.2 from one that is."""
    sizes = {"training": outer_loop(60, 20), "testing": runs.Testing(50, tasks_at_once=50)}
    numbers = {"horizon": 20, "hidden": (32,), "later_inner_lr": None, **DESCENDING[name]}
    experiment = navigation_maml.build(dataclasses.replace(navigation_maml.Options(), **numbers, **sizes))
    before, after = (
        {
            steps: each.evaluation.inductive["return"].mean
            for steps, each in evaluate.curve(experiment, params, (0, 1)).items()
        }
        for params in (experiment.init_fn(jax.random.key(0)), trained(experiment))
    )
    assert after[1] > before[1] + 3
    assert after[1] - after[0] > before[1] - before[0] + 2
