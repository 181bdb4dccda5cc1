"""Methods that act, through the scripts: every one trains, is judged, resumes to the same bits, and refuses misfits."""

import dataclasses
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import parts
from experiments import evaluate, planning, recipes, run_state, train, worlds
from experiments.build import build
from experiments.diagnosis import examine_step
from jmeta import Batch
from jmeta.domains.rl.policies import StepInput

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
    "rl2 with a transformer": (BANDIT, parts.Transformer(width=8, num_layers=1, num_heads=2), parts.Rl2()),
    "rl2 with snail": (BANDIT, parts.Snail(8, 1, 4, 4, 4), parts.Rl2(entropy_schedule="linear")),
    "rl2 on robots": (parts.Robot("arm", num_rollouts=1), GRU, parts.Rl2()),
    "no adaptation": (parts.Robot("crawler", 1, tested_on="trained"), parts.Forgetful((4,)), parts.Rl2()),
    "varibad": (BANDIT, GRU, parts.Varibad(num_latents=2, decoder=(4,), trunk=(4,), num_elbo_terms=2)),
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
    like = recipes.load("navigation_maml" if isinstance(method, parts.MamlRl) else "bandit_rl2")
    return dataclasses.replace(like, data=data, model=model, method=method, training=training, testing=testing)


@pytest.mark.parametrize("name", SETTINGS)
def test_every_method_trains_goes_on_to_the_same_bits_and_is_judged(name, tmp_path):
    recipe = small(name)
    whole = train.train_one("tiny", recipe, tmp_path / "run")
    for newer in [path for path in (tmp_path / "run" / "checkpoints").iterdir() if path.name.endswith("4")]:
        shutil.rmtree(newer)
    state = train.train_one("tiny", recipe, tmp_path / "run")
    jax.tree.map(np.testing.assert_array_equal, state.meta.meta_params, whole.meta.meta_params)
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


def test_rollouts_are_judged_one_by_one():
    experiment = build(small("rl2 on mdps"))
    params = experiment.init(jax.random.key(0))
    result = evaluate.evaluated(experiment, params, tasks_at_once=2).evaluation.inductive
    total = result["return_of_rollout_1"].values + result["return_of_rollout_2"].values
    np.testing.assert_allclose(total, result["return"].values, rtol=1e-5)


def test_tasks_in_chunks_are_tasks_all_at_once():
    """A step of TRPO, whose decisions and objective go over the tasks by themselves; a solve amplifies rounding."""
    recipe = small("maml with trpo")
    stepped = {}
    for batching in ("vmap", "scan", 2):
        training = dataclasses.replace(recipe.training, tasks_per_step=4, batching=batching)
        experiment = build(dataclasses.replace(recipe, training=training))
        env_params = jax.vmap(experiment.source.meta_train)(jax.random.split(jax.random.key(1), 4))
        state = experiment.trainer.init(experiment.init(jax.random.key(0)))
        state, aux = jax.jit(experiment.trainer.update)(state, env_params, jax.random.key(2))
        stepped[batching] = (state.meta_params, aux)
    params, aux = stepped["vmap"]
    for batching in ("scan", 2):
        others, facts = stepped[batching]
        np.testing.assert_allclose(facts["grad_norm"], aux["grad_norm"], rtol=1e-5)
        np.testing.assert_allclose(facts["divergence"], aux["divergence"], rtol=0.1)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=5e-3), others, params)


def test_robots_are_tested_on_bodies_that_training_does_not_have():
    there = worlds.world(parts.Robot("crawler"))
    drawn = jax.vmap(there.sample)(jax.random.split(jax.random.key(0), 200))
    tested = jax.vmap(there.sample_test)(jax.random.split(jax.random.key(1), 200))
    assert float(drawn.mass.max()) <= float(tested.mass.min())
    assert float(tested.friction.max()) <= float(drawn.friction.min())
    dead = lambda params: set(np.unique(np.argwhere(np.asarray(params.motor_strength) == 0)[:, 1]).tolist())
    assert dead(drawn).isdisjoint(dead(tested))
    alike = worlds.world(parts.Robot("crawler", tested_on="trained"))
    assert alike.sample_test == alike.sample
    source = worlds.source_of(there, parts.Testing(), parts.Training(10, 1, 1, 1))
    assert "bodies outside of training's ranges" in source.protocol
    assert "bodies outside" not in source.valid_protocol


def test_a_policy_that_does_not_adapt_sees_the_present_observation_alone():
    experiment = build(small("no adaptation"))
    params = experiment.init(jax.random.key(0))
    key_observation, key_action, key_reward = jax.random.split(jax.random.key(1), 3)
    observation = jax.random.normal(key_observation, (3, 14))
    nothing = StepInput(observation, jnp.zeros((3, 4)), jnp.zeros(3), jnp.zeros(3, bool))
    action, reward = jax.random.normal(key_action, (3, 4)), jax.random.normal(key_reward, (3,))
    something = StepInput(observation, action, reward, jnp.ones(3, bool))
    adapted = experiment.learner.adapt(params, Batch(something, None), jax.random.key(2))
    assert adapted == ()
    before, after = (experiment.learner.predict(params, (), inputs, None) for inputs in (nothing, something))
    jax.tree.map(np.testing.assert_array_equal, before, after)
    other = experiment.learner.predict(params, (), nothing._replace(observation=-observation), None)
    assert float(jnp.abs(other.distribution.mean - before.distribution.mean).max()) > 0


def test_a_curve_of_inner_steps_is_of_returns():
    experiment = build(small("maml with trpo"))
    params = experiment.init(jax.random.key(0))
    by_steps = evaluate.curve(experiment, params, (0, 2), tasks_at_once=2)
    assert list(by_steps) == [0, 2]
    assert by_steps[2].evaluation.protocol.endswith("2 inner steps")


def test_a_step_is_looked_at_task_by_task():
    experiment = build(small("rl2 with ppo"))
    state = run_state.init_state(experiment, 0)
    reports = examine_step(experiment, state.meta.meta_params, state.key, 3)
    assert [report.is_finite for report in reports] == [True, True]


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"model": MLP}, "a policy that remembers needs a network with memory"),
        ({"model": parts.Forgetful(), "method": parts.Varibad()}, "VariBAD's network reads experience"),
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
