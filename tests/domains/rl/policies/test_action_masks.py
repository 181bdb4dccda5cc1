"""Illegal actions: never drawn, never the mode, without gradient; in every policy, acting and learning."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jmeta
from jmeta import models
from jmeta.domains import rl
from jmeta.domains.rl import policies, policy_gradients
from jmeta.domains.rl.environments import Box, Discrete, environment
from jmeta.domains.rl.policies.heads import action_head
from jmeta.domains.rl.rollouts import init_policy, run_episode
from jmeta.domains.rl.testing import check_environment, check_policy

KEY, NUM_ACTIONS = jax.random.key(0), 4
IS_LEGAL = lambda observation: observation["legal"]


def game(nothing_is_legal=False):
    """At time t, action t mod 4 and the one after it are legal; an illegal one pays −100."""

    def observed(at):
        legal = (jnp.arange(NUM_ACTIONS, dtype=jnp.int32) - at) % NUM_ACTIONS < (0 if nothing_is_legal else 2)
        return {"legal": legal, "at": at.astype(jnp.float32)[None] / 10}

    def step(key, at, action, params):
        pays = jnp.where(observed(at)["legal"][action], 1.0, -100.0)
        return observed(at + 1), at + 1, pays, jnp.array(False)

    return environment(
        "game",
        lambda key, params: (observed(jnp.int32(0)), jnp.int32(0)),
        step,
        lambda at, params: at >= 7,
        observation_space={"legal": Box(0, 1, (NUM_ACTIONS,), jnp.bool_), "at": Box(0.0, 1.0, (1,))},
        action_space=Discrete(NUM_ACTIONS),
        default_params=jnp.zeros(()),
    )


def varibad(env, mask):
    inference = rl.learners.task_inference(models.gru(3), models.mlp([4, 1]), env, num_latents=2)
    return rl.learners.varibad_policy(inference, models.mlp([4]), env, action_mask=mask)


POLICIES = {
    "with memory": lambda env, mask: policies.actor_critic(models.gru(4), env, action_mask=mask),
    "without memory": lambda env, mask: policies.memoryless(models.mlp([8, NUM_ACTIONS]), env, action_mask=mask),
    "varibad": varibad,
}
EVERY = pytest.mark.parametrize("name", POLICIES)


@EVERY
@pytest.mark.parametrize("is_greedy", [False, True])
def test_an_illegal_action_is_never_taken(name, is_greedy):
    env = game()
    policy = POLICIES[name](env, IS_LEGAL)
    run = jax.jit(jax.vmap(run_episode(env, policy, num_steps=20, is_greedy=is_greedy), (None, None, 0)))
    params = init_policy(env, policy)(KEY)
    trajectory = run(params, jnp.zeros(()), jax.random.split(KEY, 50))
    assert (trajectory.reward == 1).all()
    assert (trajectory.log_prob <= 0).all()
    if is_greedy:
        return
    check_policy(policy, env, jnp.zeros(()), KEY)
    assert len(np.unique(trajectory.action)) == NUM_ACTIONS
    free = POLICIES[name](env, None)
    freely = jax.jit(jax.vmap(run_episode(env, free, num_steps=20), (None, None, 0)))
    assert (freely(params, jnp.zeros(()), jax.random.split(KEY, 50)).reward == -100).any()


def test_the_game_obeys_the_contract():
    check_environment(game(), jax.tree_util.Partial(lambda key: jnp.zeros(())), KEY)


def test_an_illegal_action_has_no_gradient_and_what_is_legal_keeps_its_own():
    """Of every loss there is; and the legal ones' is that of a distribution over these alone."""
    head = action_head(game(), IS_LEGAL)
    observation = {"legal": jnp.array([[True, False, True, False]] * 3), "at": jnp.zeros((3, 1))}
    logits = jnp.array([[0.3, 5.0, -0.2, 1.0]] * 3)
    action = jnp.array([0, 2, 0])
    zero, one = jnp.zeros(3), jnp.ones(3)
    acted = policy_gradients.Acted(action, jnp.full(3, -0.7), jnp.array([1.0, -2.0, 0.5]), zero, one, zero)
    losses = {
        "ppo": policy_gradients.ppo_loss(entropy_weight=0.1),
        "a2c": policy_gradients.a2c_loss(entropy_weight=0.1),
        "reinforce": policy_gradients.reinforce,
        "likelihood_ratio": policy_gradients.likelihood_ratio,
        "dice": policy_gradients.dice(num_steps=3),
    }
    for loss_fn in losses.values():

        def loss(logits, loss_fn=loss_fn):
            outputs = policies.PolicyOutput(head.distribution(logits, None, observation), zero)
            return loss_fn(outputs, jmeta.Batch(zero, acted))[0]

        def of_legal(logits, loss_fn=loss_fn):
            outputs = policies.PolicyOutput(policies.Categorical(logits), zero)
            return loss_fn(outputs, jmeta.Batch(zero, acted._replace(action=action // 2)))[0]

        gradient, expected = jax.grad(loss)(logits), jax.grad(of_legal)(logits[:, ::2])
        np.testing.assert_array_equal(gradient[:, 1::2], 0)
        np.testing.assert_allclose(gradient[:, ::2], expected, rtol=1e-5, atol=1e-7)
        assert float(jnp.abs(gradient).max()) > 0
    divergence = lambda logits: (
        head.distribution(logits, None, observation).kl(head.distribution(2 * logits, None, observation)).sum()
    )
    assert jnp.isfinite(jax.grad(divergence)(logits)).all()


def test_methods_learn_under_masks():
    env = game()
    policy = POLICIES["with memory"](env, IS_LEGAL)
    episode_fn = jmeta.episode(rl.learners.rl2(policy), policy_gradients.ppo_loss(entropy_weight=0.1))
    acting = rl.acting.with_memory(env, policy, episode_fn, optax.adam(1e-2), num_steps=6, discount=0.9, gae_lambda=0.5)
    inner = rl.acting.adapting(
        env,
        POLICIES["without memory"](env, IS_LEGAL),
        policy_gradients.likelihood_ratio,
        optax.sgd(0.1),
        num_rollouts=2,
        horizon=5,
    )
    for method in (acting, rl.acting.maml_with_ppo(inner, optax.adam(1e-2), num_steps=1, kl_weight=0.1)):
        trainer = method.trainer
        _, aux = jax.jit(trainer.update)(trainer.init(method.init(KEY)), jnp.zeros(2), KEY)
        assert int(aux["is_skipped"]) == 0
        assert np.isfinite(float(aux["loss"]))


@EVERY
def test_where_nothing_is_legal_everything_is(name):
    env = game(nothing_is_legal=True)
    policy = POLICIES[name](env, IS_LEGAL)
    run = jax.jit(run_episode(env, policy, num_steps=30))
    trajectory = run(init_policy(env, policy)(KEY), jnp.zeros(()), KEY)
    assert np.isfinite(trajectory.log_prob).all()
    assert len(np.unique(trajectory.action)) == NUM_ACTIONS


@pytest.mark.parametrize(
    ("mask", "words"),
    [
        (lambda observation: observation["legal"][:2], r"bool of shape \(2,\) for one step; expected 4 bools"),
        (lambda observation: observation["legal"].astype(jnp.float32), r"float32 of shape \(4,\)"),
    ],
)
@EVERY
def test_masks_of_another_shape_or_kind_are_refused(mask, words, name):
    policy = POLICIES[name](game(), mask)
    params = init_policy(game(), policy)(KEY)
    with pytest.raises(ValueError, match=words):
        run_episode(game(), policy, num_steps=2)(params, jnp.zeros(()), KEY)


def test_numbers_cannot_be_masked():
    navigation, _ = rl.environments.point_navigation()
    with pytest.raises(ValueError, match="an action_mask says which choices are legal, but point_navigation has"):
        policies.actor_critic(models.gru(3), navigation, action_mask=IS_LEGAL)
