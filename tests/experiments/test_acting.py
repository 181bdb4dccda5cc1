"""Methods that act, through the scripts: every one trains, is judged, resumes to the same bits, and refuses misfits."""

import dataclasses
import shutil

import jax
import numpy as np
import pytest

from configs import parts
from experiments import evaluate, loop, planning, recipes, train
from experiments.build import build
from experiments.diagnosis import examine_step

BANDIT = parts.Bandit(num_arms=2, num_pulls=4)
NAVIGATION = parts.Navigation("dense")
SHORT_ROLLOUTS = {"num_rollouts": 2, "horizon": 5}
GRU, MLP = parts.Recurrent("gru", 4), parts.Mlp((4,))
SETTINGS = {
    "rl2 with ppo": (BANDIT, GRU, parts.Rl2()),
    "rl2 with a2c": (BANDIT, GRU, parts.Rl2("a2c", num_epochs=1, num_minibatches=1)),
    "rl2 with an lstm": (BANDIT, parts.Recurrent("lstm", 4, max_span=4), parts.Rl2()),
    "rl2 on gaussian bandits": (parts.Bandit(2, 4, "gaussian"), GRU, parts.Rl2(is_greedy=False)),
    "rl2 on mdps": (parts.TabularMdp(2, 3, 2, 4), GRU, parts.Rl2()),
    "rl2 on navigation": (parts.Navigation("sparse", 2), GRU, parts.Rl2()),
    "maml with trpo": (NAVIGATION, MLP, parts.MamlRl(**SHORT_ROLLOUTS, later_inner_lr=0.05)),
    "promp": (
        NAVIGATION,
        MLP,
        parts.MamlRl(**SHORT_ROLLOUTS, surrogate="likelihood_ratio", outer="ppo", num_epochs=2, kl_weight=5e-4),
    ),
    "maml with dice": (NAVIGATION, MLP, parts.MamlRl(**SHORT_ROLLOUTS, num_steps=2, surrogate="dice", outer="ppo")),
    "e-maml": (NAVIGATION, MLP, parts.MamlRl(**SHORT_ROLLOUTS, exploration_weight=1.0)),
}


def small(name):
    """A recipe of a few meta-steps on a few tasks."""
    data, model, method = SETTINGS[name]
    training = parts.Training(
        num_steps=4, tasks_per_step=2, steps_per_dispatch=2, evaluate_every=2, num_valid_tasks=4, lr=1e-2
    )
    testing = parts.Testing(num_tasks=4, tasks_at_once=2)
    like = recipes.load("bandit_rl2" if isinstance(method, parts.Rl2) else "navigation_maml")
    return dataclasses.replace(like, data=data, model=model, method=method, training=training, testing=testing)


@pytest.mark.parametrize("name", SETTINGS)
def test_every_method_trains_and_is_judged(name, tmp_path):
    recipe = small(name)
    state = train.train_one("tiny", recipe, tmp_path / "run")
    assert int(state.meta.step) == 4
    assert int(state.meta.num_skipped) == 0
    assert np.isfinite(float(state.best_score))
    experiment = build(recipe)
    result = evaluate.evaluated(experiment, state.best_meta_params, tasks_at_once=2).evaluation
    assert evaluate.main_metric(result) == "return"
    assert result.transductive is None
    before = experiment.init(jax.random.split(jax.random.key(0))[0])
    moved = [bool((a != b).any()) for a, b in zip(*map(jax.tree.leaves, (before, state.meta.meta_params)), strict=True)]
    assert any(moved)


@pytest.mark.optimized
@pytest.mark.parametrize("name", ["rl2 with ppo", "maml with trpo", "promp"])
def test_a_run_that_stopped_goes_on_to_the_same_bits(name, tmp_path):
    recipe = small(name)
    whole = train.train_one("tiny", recipe, tmp_path / "whole")
    checkpoints = tmp_path / "whole" / "checkpoints"
    for newer in [path for path in checkpoints.iterdir() if path.name.endswith("4")]:
        shutil.rmtree(newer)
    resumed = train.train_one("tiny", recipe, tmp_path / "whole")
    jax.tree.map(np.testing.assert_array_equal, resumed.meta.meta_params, whole.meta.meta_params)


def test_rollouts_are_judged_one_by_one():
    experiment = build(small("rl2 on mdps"))
    params = experiment.init(jax.random.key(0))
    result = evaluate.evaluated(experiment, params, tasks_at_once=2).evaluation.inductive
    total = result["return_of_rollout_1"].values + result["return_of_rollout_2"].values
    np.testing.assert_allclose(total, result["return"].values, rtol=1e-5)


def test_a_curve_of_inner_steps_is_of_returns():
    experiment = build(small("maml with trpo"))
    params = experiment.init(jax.random.key(0))
    by_steps = evaluate.curve(experiment, params, (0, 2), tasks_at_once=2)
    assert list(by_steps) == [0, 2]
    assert by_steps[2].evaluation.protocol.endswith("2 inner steps")


def test_a_step_is_looked_at_task_by_task():
    experiment = build(small("rl2 with ppo"))
    state = loop.init_state(experiment, 0)
    reports = examine_step(experiment, state.meta.meta_params, state.key, 3)
    assert [report.is_finite for report in reports] == [True, True]


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"model": MLP}, "a policy that remembers needs a network with memory"),
        ({"method": parts.MamlRl()}, "has no memory: its network is an Mlp"),
        ({"method": parts.Protonet()}, "Protonet does not act in environments"),
        ({"data": parts.Blobs()}, "Rl2 acts in environments"),
    ],
)
def test_parts_that_do_not_fit_are_refused(changed, words):
    with pytest.raises(ValueError, match=words):
        build(dataclasses.replace(small("rl2 with ppo"), **changed))


def test_networks_with_memory_are_refused_where_nothing_acts(tiny_blobs):
    with pytest.raises(ValueError, match="a network with memory is for methods that act"):
        build(dataclasses.replace(tiny_blobs, model=GRU))


def test_a_plan_of_memory_is_refused(tmp_path):
    with pytest.raises(ValueError, match="acts"):
        planning.planned(small("rl2 with ppo"), 1.0, tmp_path)
