"""Every method that acts learns something that only adapting can give, in seconds, from its recipe's parts.

The bandit has two arms and ten pulls: without memory 5, with the best there is 6.02. On short navigation a policy
before its gradient step has about −8, wherever it goes; the step is worth more the better the start has been learned.
The GRU under PPO is in `tests/domains/rl/learners/test_rl2.py`, and ProMP in `test_maml_rl.py`.
"""

import dataclasses

import jax
import pytest
from experiments.build import build

from configs import parts
from experiments import evaluate, recipes, train

pytestmark = pytest.mark.optimized
LONG = pytest.mark.slow  # each learns for half a minute; one of either kind shows in `make test` that learning happens
PPO = parts.Rl2(discount=1.0, gae_lambda=0.3, entropy_weight=0.05, num_epochs=4, num_minibatches=2)
A2C = dataclasses.replace(PPO, loss="a2c", num_epochs=1, num_minibatches=4)
VARIBAD = parts.Varibad(acting=PPO, num_latents=4, decoder=(16,), trunk=(16,))
REMEMBERING = {
    "lstm": (parts.Recurrent("lstm", 16), PPO, 150),
    "transformer": (parts.Transformer(width=16, num_layers=1, num_heads=2), PPO, 150),
    "snail": (parts.Snail(8, 1, 8, 8, 8), PPO, 150),
    "a2c": (parts.Recurrent("gru", 32), A2C, 300),
    "varibad": (parts.Recurrent("gru", 16), VARIBAD, 150),
}
ROLLOUTS = {"num_rollouts": 20, "horizon": 20}
DESCENDING = {
    "maml with trpo": parts.MamlRl(**ROLLOUTS),
    "maml with dice": parts.MamlRl(**ROLLOUTS, surrogate="dice", outer="ppo", num_epochs=3),
    "e-maml": parts.MamlRl(**ROLLOUTS, exploration_weight=0.1),
}


@pytest.mark.parametrize("name", [name if name == "a2c" else pytest.param(name, marks=LONG) for name in REMEMBERING])
def test_a_bandit_is_explored_and_exploited(name, tmp_path):
    """From 5.59 to 6.11 over methods and two seeds; standard error 0.05."""
    model, method, num_steps = REMEMBERING[name]
    recipe = dataclasses.replace(
        recipes.load("bandit_rl2"),
        data=parts.Bandit(num_arms=2, num_pulls=10),
        model=model,
        method=method,
        training=_training(num_steps, tasks_per_step=256),
        testing=parts.Testing(num_tasks=2000, tasks_at_once=500),
    )
    state = train.train_one("learning", recipe, tmp_path)
    judged = evaluate.evaluated(build(recipe), state.meta.meta_params, tasks_at_once=500).evaluation
    assert judged.inductive["return"].mean > 5.2


@pytest.mark.parametrize("name", [name if name == "e-maml" else pytest.param(name, marks=LONG) for name in DESCENDING])
def test_a_gradient_step_is_worth_more_from_a_learned_start(name, tmp_path):
    """About −9.1 after a step from a start not learned, and −3.9 to −3.2 from one that is."""
    recipe = dataclasses.replace(
        recipes.load("navigation_maml"),
        model=parts.Mlp((32,)),
        method=DESCENDING[name],
        training=_training(60, tasks_per_step=20),
        testing=parts.Testing(num_tasks=50, tasks_at_once=50),
    )
    state, experiment = train.train_one("learning", recipe, tmp_path), build(recipe)
    new = experiment.init(jax.random.key(0))
    before, after = (
        {
            steps: each.evaluation.inductive["return"].mean
            for steps, each in evaluate.curve(experiment, params, (0, 1), tasks_at_once=50).items()
        }
        for params in (new, state.meta.meta_params)
    )
    assert after[1] > before[1] + 3
    assert after[1] - after[0] > before[1] - before[0] + 2


def _training(num_steps, tasks_per_step):
    return parts.Training(
        num_steps=num_steps,
        tasks_per_step=tasks_per_step,
        steps_per_dispatch=10,
        evaluate_every=num_steps,
        num_valid_tasks=20,
        lr=1e-2,
        schedule="linear",
    )
