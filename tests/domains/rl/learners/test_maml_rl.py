"""MAML-RL against a problem whose expectations are finite sums: two actions, two steps, every trajectory enumerated."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jmeta
from jmeta import Batch, Task, models, testing, training
from jmeta.domains.rl import environments, policies, policy_gradients, rollouts
from jmeta.domains.rl.learners import collect_adaptation, maml_rl
from jmeta.domains.rl.on_policy import on_policy_trainer
from jmeta.domains.rl.policies import Categorical, Policy, PolicyInput, PolicyOutput
from jmeta.domains.rl.policy_gradients import Acted

from ....slow import slow

ALPHA = 0.7
REWARDS = np.array([[0.3, -0.5], [1.0, 0.2], [-0.4, 0.8]])  # of [state, action]; the state is 0, then 1 + last action


def table_policy() -> Policy:
    """Parameters are the logits `[state, action]`."""

    def unroll(params, memory, inputs, key):
        logits = params[inputs.observation]
        return memory, PolicyOutput(Categorical(logits), jnp.zeros(logits.shape[:-1], logits.dtype))

    return Policy(lambda key, inputs: jnp.zeros((3, 2)), lambda params, key: (), unroll, unroll)


def trajectories(num_steps):
    return [jnp.array(actions) for actions in itertools.product([0, 1], repeat=num_steps)]


def observations_of(actions):
    return jnp.concatenate([jnp.zeros(1, int), 1 + actions[:-1]])


def log_prob_of(params, actions):
    log_probs = jax.nn.log_softmax(params)
    return log_probs[observations_of(actions), actions]


def return_of(actions):
    return jnp.asarray(REWARDS)[observations_of(actions), actions].sum()


def batch_of(params, actions):
    """One rollout, its advantages the rewards to come, unnormalised."""
    rewards = jnp.asarray(REWARDS)[observations_of(actions), actions]
    to_come = jnp.cumsum(rewards[::-1])[::-1]
    zeros = jnp.zeros_like(rewards)
    inputs = PolicyInput(observations_of(actions), actions, zeros, zeros > 0)
    return Batch(inputs, Acted(actions, jax.lax.stop_gradient(log_prob_of(params, actions)), to_come, to_come, rewards))


def expected_return(params, num_steps):
    """Mean reward a step."""
    each = [jnp.exp(log_prob_of(params, a).sum()) * return_of(a) for a in trajectories(num_steps)]
    return sum(each) / num_steps


SURROGATES = {
    "reinforce": lambda num_steps: policy_gradients.reinforce,
    "likelihood_ratio": lambda num_steps: policy_gradients.likelihood_ratio,
    "dice": lambda num_steps: policy_gradients.dice(num_steps=num_steps),
}


def expected_surrogate(derivative, name, params, num_steps):
    """The expectation over trajectories of a derivative of a surrogate."""
    surrogate, policy = SURROGATES[name](num_steps), table_policy()

    def loss(at, batch):
        return surrogate(policy.unroll(at, (), batch.x, None)[1], batch)[0]

    each = [
        jnp.exp(log_prob_of(params, a).sum()) * derivative(loss)(params, batch_of(params, a))
        for a in trajectories(num_steps)
    ]
    return sum(each)


@pytest.fixture
def params(float64):
    return jax.random.normal(jax.random.key(3), (3, 2), jnp.float64)


@pytest.mark.parametrize("name", SURROGATES)
@pytest.mark.parametrize("num_steps", [1, 2])
def test_every_surrogate_has_the_policy_gradient(name, num_steps, params):
    expected = jax.grad(expected_return)(params, num_steps)
    np.testing.assert_allclose(-expected_surrogate(jax.grad, name, params, num_steps), expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(
    ("name", "num_steps", "is_exact"),
    [
        ("reinforce", 1, False),
        ("reinforce", 2, False),
        ("likelihood_ratio", 1, True),
        ("likelihood_ratio", 2, False),
        ("dice", 1, True),
        ("dice", 2, True),
    ],
)
def test_whose_second_derivatives_are_those_of_the_return(name, num_steps, is_exact, params):
    expected = jax.hessian(expected_return)(params, num_steps)
    got = -expected_surrogate(jax.hessian, name, params, num_steps)
    assert bool(jnp.allclose(got, expected, rtol=1e-9, atol=1e-12)) is is_exact


def stored_task(params, support_actions, query_actions):
    """One inner step's rollout, and one of the adapted policy."""
    support = batch_of(params, support_actions)
    adapted = params - ALPHA * jax.grad(reinforce_on)(params, support)
    return Task(jax.tree.map(lambda leaf: leaf[None], support), batch_of(adapted, query_actions)), adapted


def reinforce_on(params, batch):
    return policy_gradients.reinforce(table_policy().unroll(params, (), batch.x, None)[1], batch)[0]


def value_after_adapting(params, sampled_by, num_steps):
    """V(θ) = Σ p(τ) E[mean reward of θ − α ∇L(θ; τ)], exactly; support rollouts τ drawn by `sampled_by`."""
    total = 0.0
    for actions in trajectories(num_steps):
        probability = jnp.exp(log_prob_of(sampled_by, actions).sum())
        adapted = params - ALPHA * jax.grad(reinforce_on)(params, batch_of(params, actions))
        total += probability * expected_return(adapted, num_steps)
    return total


@pytest.mark.parametrize("exploration_weight", [0.0, 1.0])
def test_the_expected_meta_gradient_is_the_exact_one(exploration_weight, params):
    """With E-MAML's term that of the value; without it, that of the value with support rollouts drawn as they are."""
    learner = maml_rl(
        table_policy(),
        policy_gradients.reinforce,
        optax.sgd(ALPHA),
        num_steps=1,
        exploration_weight=exploration_weight,
    )
    episode_fn = jmeta.episode(learner, policy_gradients.reinforce)
    grad_fn = jax.jit(jax.grad(lambda theta, task: episode_fn(theta, task, jax.random.key(0))[0]))
    total = jnp.zeros_like(params)
    for support, query in itertools.product(trajectories(2), repeat=2):
        task, adapted = stored_task(params, support, query)
        probability = jnp.exp(log_prob_of(params, support).sum() + log_prob_of(adapted, query).sum())
        total -= probability * grad_fn(params, task)
    if exploration_weight:
        exact = jax.grad(lambda theta: value_after_adapting(theta, theta, 2))(params)
    else:
        exact = jax.grad(value_after_adapting)(params, params, 2)
    np.testing.assert_allclose(total, exact, rtol=1e-9, atol=1e-12)


def test_exploring_changes_the_meta_gradient(params):
    whole = jax.grad(lambda theta: value_after_adapting(theta, theta, 2))(params)
    part = jax.grad(value_after_adapting)(params, params, 2)
    assert float(jnp.abs(whole - part).max()) > 0.005


@pytest.fixture
def navigation():
    environment, sample = environments.point_navigation()
    policy = policies.memoryless(models.mlp([8, 2], activation=jnp.tanh), environment)
    roll_out = policy_gradients.roll_out(environment, policy, num_rollouts=3, num_steps=7)
    return environment, sample, policy, roll_out


@pytest.mark.parametrize("is_stored", [False, *slow(True)], ids=["rolling out", "on stored rollouts"])
def test_it_obeys_the_contract(is_stored, navigation, key):
    environment, sample, policy, roll_out = navigation
    arguments = (policy, policy_gradients.reinforce, optax.sgd(0.1))
    params = rollouts.init_policy(environment, policy)(key)

    def sample_task(key):
        key_task, key_collect = jax.random.split(key)
        env_params = sample(key_task)
        task = collect_adaptation(*arguments, roll_out, num_steps=1)(params, env_params, key_collect)
        return task if is_stored else task._replace(support=Batch(env_params, ()))

    learner = maml_rl(*arguments, num_steps=1, roll_out=None if is_stored else roll_out)
    testing.check_learner(
        learner, policy_gradients.reinforce, jax.jit(sample_task), key, depends_on_order=True, ignores_padding=False
    )


ASKS_FOR_THE_LOSS = optax.chain(optax.sgd(0.1), optax.contrib.reduce_on_plateau())


@pytest.mark.parametrize(("num_steps", "optimizer"), [(0, optax.sgd(0.1)), (1, optax.sgd(0.1)), (2, ASKS_FOR_THE_LOSS)])
def test_adapting_on_stored_rollouts_arrives_where_rolling_out_did(num_steps, optimizer, navigation, key):
    environment, sample, policy, roll_out = navigation
    arguments = (policy, policy_gradients.reinforce, optimizer)
    params = rollouts.init_policy(environment, policy)(key)
    task = collect_adaptation(*arguments, roll_out, num_steps=num_steps)(params, sample(key), key)
    learner = maml_rl(*arguments, num_steps=num_steps)
    adapted = learner.adapt(params, task.support, key)
    decisions = learner.predict(params, adapted, task.query.x, None)
    np.testing.assert_allclose(
        decisions.distribution.log_prob(task.query.y.action), task.query.y.log_prob, rtol=1e-5, atol=1e-5
    )


def test_rolling_out_inside_adapt_descends_the_same_surrogate(navigation, key):
    """One inner step, by `adapt` and by hand on the rollouts that it must have made."""
    environment, sample, policy, roll_out = navigation
    params, env_params = rollouts.init_policy(environment, policy)(key), sample(key)
    learner = maml_rl(policy, policy_gradients.reinforce, optax.sgd(0.1), num_steps=1, roll_out=roll_out)
    adapted = learner.adapt(params, Batch(env_params, ()), key)
    batch = roll_out(params, env_params, jax.random.split(key, 1)[0])
    grads = jax.grad(lambda at: policy_gradients.reinforce(policy.unroll(at, (), batch.x, None)[1], batch)[0])(params)
    by_hand = jax.tree.map(lambda leaf, grad: leaf - 0.1 * grad, params, grads)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), adapted, by_hand)


def test_too_few_stored_steps_are_refused(navigation, key):
    environment, sample, policy, roll_out = navigation
    arguments = (policy, policy_gradients.reinforce, optax.sgd(0.1))
    params = rollouts.init_policy(environment, policy)(key)
    task = collect_adaptation(*arguments, roll_out, num_steps=1)(params, sample(key), key)
    with pytest.raises(ValueError, match="num_steps=2, but the support has rollouts of 1"):
        maml_rl(*arguments, num_steps=2).adapt(params, task.support, key)


def test_the_kl_term_is_zero_where_nothing_moved_and_grows(navigation, key):
    environment, sample, policy, roll_out = navigation
    arguments = (policy, policy_gradients.likelihood_ratio, optax.sgd(0.1))
    params = rollouts.init_policy(environment, policy)(key)
    task = collect_adaptation(*arguments, roll_out, num_steps=1)(params, sample(key), key)
    episode_fn = jmeta.episode(maml_rl(*arguments, num_steps=1, kl_weight=1.0), policy_gradients.likelihood_ratio)
    moved = jax.tree.map(lambda leaf: leaf + 0.1, params)
    here, there = (float(episode_fn(at, task, key)[1]["inner_kl"]) for at in (params, moved))
    assert abs(here) < 1e-6 < 1e-3 < there


@pytest.mark.parametrize("weights", [{"kl_weight": -1.0}, {"exploration_weight": -1.0}])
def test_negative_weights_are_refused(weights):
    with pytest.raises(ValueError, match="expected at least 0"):
        maml_rl(table_policy(), policy_gradients.reinforce, optax.sgd(0.1), num_steps=1, **weights)


@pytest.mark.parametrize("weights", [{"kl_weight": 1.0}, {"exploration_weight": 1.0}])
def test_weights_of_stored_rollouts_are_refused_where_adapting_rolls_out(weights, navigation):
    _, _, policy, roll_out = navigation
    with pytest.raises(ValueError, match="belong to training on stored rollouts"):
        maml_rl(policy, policy_gradients.reinforce, optax.sgd(0.1), num_steps=1, roll_out=roll_out, **weights)


@pytest.mark.slow
@pytest.mark.optimized
def test_promp_learns_to_adapt_on_point_navigation(key):
    """From about −38, standing still, to a policy that one gradient step improves."""
    environment, sample = environments.point_navigation(num_steps=20)
    policy = policies.memoryless(models.mlp([32, 2], activation=jnp.tanh), environment)
    roll_out = policy_gradients.roll_out(environment, policy, num_rollouts=20, num_steps=20)
    surrogate, inner = policy_gradients.likelihood_ratio, optax.sgd(0.1)
    collect = collect_adaptation(policy, surrogate, inner, roll_out, num_steps=1)
    outer = policy_gradients.ppo_loss(clip=0.3, value_weight=0.0)
    episode_fn = jmeta.episode(maml_rl(policy, surrogate, inner, num_steps=1, kl_weight=5e-4), outer)
    mean_grad = jmeta.over_tasks(jax.value_and_grad(episode_fn, has_aux=True), "vmap")
    trainer = on_policy_trainer(jmeta.meta_trainer(mean_grad, optax.adam(1e-2)), collect, num_epochs=3)
    run = training.sampled_steps(trainer, num_steps=60)
    state = trainer.init(rollouts.init_policy(environment, policy)(key))
    tasks = jmeta.tasks.stacked(sample, 20)

    def return_after(params, num_steps):
        after = jax.jit(
            jax.vmap(collect_adaptation(policy, surrogate, inner, roll_out, num_steps=num_steps), (None, 0, 0))
        )
        env_params = jax.vmap(sample)(jax.random.split(jax.random.key(7), 50))
        query = after(params, env_params, jax.random.split(jax.random.key(8), 50)).query
        return float(query.y.reward.sum() / (50 * 20))

    before = return_after(state.meta_params, 1)
    state, _ = run(state, tasks, key)
    unadapted, adapted = return_after(state.meta_params, 0), return_after(state.meta_params, 1)
    assert adapted > before + 1
    assert adapted > unadapted + 1
