"""Recipes that act: each is traced at its own size, each variant trains two steps, two are run as users run them."""

import dataclasses
import itertools
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jmeta import Batch, runs, tasks, training
from jmeta.domains.rl.policies import PolicyInput
from jmeta.runs import evaluate, loop, options, recipes, state, train
from jmeta.runs.diagnosis import examine_step
from jmeta.runs.main import run as command

RECIPES = [name for name in recipes.names() if name.startswith(("bandit", "navigation", "robot", "tabular_mdp"))]
BANDIT = {"num_arms": 2, "num_pulls": 4, "num_epochs": 1}
GRU = {"width": 4, "num_epochs": 1}
ROLLOUTS = {"num_rollouts": 2, "horizon": 5, "hidden": (4,)}
VARIANTS = {
    "a2c, an lstm, gaussian rewards, entropy that fades": (
        "bandit_rl2",
        BANDIT
        | GRU
        | {"loss": "a2c", "cell": "lstm", "max_span": 4, "kind": "gaussian"}
        | {"entropy_schedule": "linear", "is_greedy": False},
    ),
    "a transformer on transitions of mdps": (
        "tabular_mdp_rl2_transformer",
        {"num_rollouts": 2, "num_states": 3, "num_actions": 2, "horizon": 2, "width": 8, "num_epochs": 1},
    ),
    "snail": (
        "bandit_rl2_snail",
        {**BANDIT, "num_pulls": 2, "width": 8, "num_blocks": 1, "num_filters": 4, "key_width": 4, "value_width": 4},
    ),
    "sparse navigation": ("navigation_rl2", {**GRU, "reward": "sparse", "num_rollouts": 2, "horizon": 4}),
    "varibad": (
        "navigation_varibad",
        {**GRU, "num_rollouts": 2, "horizon": 4, "num_latents": 2, "decoder": (4,), "trunk": (4,), "num_elbo_terms": 2},
    ),
    "no adaptation": ("robot_unadapted", {"hidden": (4,), "num_rollouts": 1, "num_epochs": 1, "robot": "arm"}),
    "dice, ppo, two inner steps": (
        "navigation_maml",
        {**ROLLOUTS, "num_steps": 2, "surrogate": "dice", "outer": "ppo", "num_epochs": 1},
    ),
    "e-maml": ("navigation_maml", {**ROLLOUTS, "later_inner_lr": None, "exploration_weight": 1.0}),
    "promp, rates that are halved": ("navigation_promp", {**ROLLOUTS, "num_epochs": 2, "halve_lr_every": 1}),
}
TRACED = ["a transformer on transitions of mdps", "snail", "sparse navigation", "dice, ppo, two inner steps"]
"""Variants that are built and traced only: other tests run their parts."""
TINY = runs.Training(num_steps=4, tasks_per_step=2, steps_per_dispatch=2, evaluate_every=2, num_valid_tasks=4)


def small(name, **changes):
    """`(recipe, options)`: a few meta-steps on a few tasks."""
    recipe = recipes.load(name)
    default = recipe.options(training=TINY, testing=runs.Testing(num_tasks=4, tasks_at_once=2))
    return recipe, dataclasses.replace(default, **changes)


def built(name, **changes):
    recipe, chosen = small(name, **changes)
    return recipe.build(chosen)


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_is_built_and_traced_at_its_own_size(name):
    recipe = recipes.load(name)
    experiment = recipe.build(recipe.options())
    key = jax.random.key(0)
    params = jax.eval_shape(experiment.init_fn, key)
    sample = tasks.stacked(experiment.meta_train, experiment.training.tasks_per_step)
    start = jax.eval_shape(experiment.trainer.init, params)
    after, aux = jax.eval_shape(lambda start, key: experiment.trainer.update(start, sample(key), key), start, key)
    assert jax.tree.map(jnp.shape, after) == jax.tree.map(jnp.shape, start)
    assert {"loss", "is_skipped"} <= set(aux)
    test_task = jax.eval_shape(experiment.source.meta_test, key)
    _, judged = jax.eval_shape(experiment.tested, params, test_task, key)
    assert judged["return"].shape == ()
    assert experiment.metric == "return"
    assert experiment.training_names["loss"] == "objective"
    assert f"{experiment.num_test_tasks} tasks" in experiment.test_protocol


@pytest.mark.parametrize("name", VARIANTS)
def test_a_variant_trains_and_is_judged(name):
    experiment = built(VARIANTS[name][0], **VARIANTS[name][1])
    sample = tasks.stacked(experiment.meta_train, 2)

    def trained_and_judged(key):
        key_init, key_train, key_test = jax.random.split(key, 3)
        params = experiment.init_fn(key_init)
        run = training.sampled_steps(experiment.trainer, num_steps=2)
        after, aux = run(experiment.trainer.init(params), sample, key_train)
        _, judged = experiment.tested(after.meta_params, experiment.source.meta_test(key_test), key_test)
        return params, after, aux, judged

    if name in TRACED:
        params, after, *_ = jax.eval_shape(trained_and_judged, jax.random.key(0))
        assert jax.tree.structure(params) == jax.tree.structure(after.meta_params)
        return
    params, after, aux, judged = jax.jit(trained_and_judged)(jax.random.key(0))
    assert int(after.step) == 2
    assert not int(after.num_skipped)
    assert np.isfinite(aux["loss"]).all()
    assert np.isfinite(judged["return"])
    assert any(bool((a != b).any()) for a, b in zip(*map(jax.tree.leaves, (params, after.meta_params)), strict=True))


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """`recipe -> (folder, final state, the same of the run resumed without its last checkpoint)`, each run once."""
    found = {}

    def run_of(name):
        if name not in found:
            changes = {"bandit_rl2": {**BANDIT, **GRU}, "navigation_maml": ROLLOUTS}[name]
            folder = tmp_path_factory.mktemp(name) / "run"
            recipe, chosen = small(name, **changes)
            whole = train.train_one(recipe, chosen, folder)
            for newer in [path for path in (folder / "checkpoints").iterdir() if path.name.endswith("4")]:
                shutil.rmtree(newer)
            found[name] = folder, whole, train.train_one(recipe, chosen, folder)
        return found[name]

    return run_of


@pytest.mark.parametrize("name", ["bandit_rl2", "navigation_maml"])
def test_a_run_goes_on_to_the_same_bits(name, trained):
    _, whole, resumed = trained(name)
    jax.tree.map(np.testing.assert_array_equal, resumed.meta.meta_params, whole.meta.meta_params)
    assert int(resumed.meta.step) == 4
    assert np.isfinite(float(resumed.best_score))


def test_a_run_is_judged_by_returns_and_after_any_number_of_inner_steps(trained):
    folder, _, _ = trained("navigation_maml")
    assert command(["evaluate", str(folder), "--inner-steps", "0", "2", "--testing.num-tasks", "6"]) == 0
    stored = json.loads((folder / "evaluation.json").read_text())
    after = [entry for entry in stored.values() if entry["protocol"].endswith("6 tasks, 2 inner steps")]
    assert np.isfinite(after[0]["inductive"]["return"]["mean"])
    assert (folder / "adaptation_curve.png").exists()
    recipe, chosen = evaluate.recipe_of(folder, None)
    with pytest.raises(ValueError, match="other shapes"):
        evaluate.tested_otherwise(recipe, chosen, dataclasses.replace(chosen, hidden=(3,)))


def test_a_step_is_looked_at_task_by_task(trained):
    folder, _, _ = trained("bandit_rl2")
    recipe, chosen = evaluate.recipe_of(folder, None)
    experiment = recipe.build(chosen)
    start = state.init_state(experiment, 0)
    reports = examine_step(experiment, start.meta.meta_params, start.key, 3)
    assert [report.is_finite for report in reports] == [True, True]


def test_schedules_count_updates():
    """A meta-step of RL² has an update for each epoch and minibatch; the rate is zero after the last meta-step."""
    experiment = built("bandit_rl2", **(BANDIT | {"num_epochs": 2}), width=4, num_minibatches=2)
    state = experiment.trainer.init(experiment.init_fn(jax.random.key(0)))
    update = jax.jit(experiment.trainer.update)
    params = [state.meta_params]
    for step in range(5):
        env_params = tasks.stacked(experiment.meta_train, 2)(jax.random.key(step))
        state, _ = update(state, env_params, jax.random.key(step))
        params.append(state.meta_params)
    assert int(state.optimizer_state[1][0].count) == 5 * 4
    kernels = [np.asarray(each["actor"]["kernel"]) for each in params]
    assert all((before != after).any() for before, after in itertools.pairwise(kernels[:5]))
    np.testing.assert_array_equal(kernels[4], kernels[5])


def test_words_of_robots_say_which_bodies():
    experiment = built("robot_rl2")
    assert "bodies outside of training's ranges" in experiment.test_protocol
    assert "bodies outside" not in loop.valid_protocol(experiment)
    assert "bodies outside" not in built("robot_rl2", tested_on="trained").test_protocol


def test_rollouts_are_judged_one_by_one():
    experiment = built("tabular_mdp_rl2", **GRU, num_rollouts=2, horizon=4)
    params = experiment.init_fn(jax.random.key(0))
    result = evaluate.evaluated(experiment, params).evaluation
    assert evaluate.main_metric(result) == "return"
    assert result.transductive is None
    total = sum(result.inductive[f"return_of_rollout_{i}"].values for i in (1, 2))
    np.testing.assert_allclose(total, result.inductive["return"].values, rtol=1e-5)


def test_a_policy_that_does_not_adapt_sees_the_present_observation_alone():
    experiment = built("robot_unadapted", hidden=(4,), num_rollouts=1)
    params = experiment.init_fn(jax.random.key(0))
    key_observation, key_action, key_reward = jax.random.split(jax.random.key(1), 3)
    observation = jax.random.normal(key_observation, (3, 14))
    nothing = PolicyInput(observation, jnp.zeros((3, 4)), jnp.zeros(3), jnp.zeros(3, bool))
    action, reward = jax.random.normal(key_action, (3, 4)), jax.random.normal(key_reward, (3,))
    something = PolicyInput(observation, action, reward, jnp.ones(3, bool))
    assert experiment.learner.adapt(params, Batch(something, None), jax.random.key(2)) == ()
    before, after = (experiment.learner.predict(params, (), inputs, None) for inputs in (nothing, something))
    jax.tree.map(np.testing.assert_array_equal, before, after)
    other = experiment.learner.predict(params, (), nothing._replace(observation=-observation), None)
    assert float(jnp.abs(other.distribution.mean - before.distribution.mean).max()) > 0


def test_a_trust_region_is_refused_on_several_devices():
    training = dataclasses.replace(TINY, num_blocks=1)
    with pytest.raises(ValueError, match="this trainer has no `share`"):
        _ = built("navigation_maml", **ROLLOUTS, training=training).trainer
    assert built("navigation_maml", **ROLLOUTS, outer="ppo", training=training).trainer


@pytest.mark.parametrize(
    ("name", "changed", "words"),
    [
        ("bandit_rl2", {"meta_lr": 0.0}, "meta_lr=0.0; expected a positive number"),
        ("bandit_rl2_long", {"clip_norm": -1.0}, "clip_norm=-1.0; expected a positive number"),
        ("bandit_rl2", {"gae_lambda": 1.5}, "gae_lambda=1.5; expected a number in"),
        ("navigation_rl2", {"num_epochs": 0}, "num_epochs=0 and num_minibatches=2; expected at least 1"),
        ("navigation_maml", {"later_inner_lr": 0.0}, "later_inner_lr=0.0; expected a positive number"),
        ("robot_maml", {"num_rollouts": 0}, "num_rollouts=0; expected at least 1"),
    ],
)
def test_numbers_out_of_their_range_are_refused(name, changed, words):
    with pytest.raises(ValueError, match=words):
        _ = built(name, **changed).trainer


@pytest.mark.parametrize(
    ("name", "words", "said"),
    [
        ("bandit_rl2", ["--num-arm", "3"], "--num-arms"),
        ("bandit_rl2", ["--cell", "rnn"], "gru"),
        ("robot_rl2", ["--robot", "dog"], "crawler"),
    ],
)
def test_misspelt_options_are_refused(name, words, said, capsys):
    with pytest.raises(SystemExit):
        train.parse(recipes.load(name), words, program=f"jmeta train {name}")
    assert said in capsys.readouterr().err


def test_recorded_options_are_rebuilt():
    _, chosen = small("navigation_varibad", decoder=(4, 2), num_elbo_terms=None)
    assert options.restored(recipes.load("navigation_varibad").options(), options.recorded(chosen)) == chosen
