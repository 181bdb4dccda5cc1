"""VariBAD: its bound by hand, whose gradient goes where, and an encoder that finds out which of two tasks it is."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jmeta
from jmeta import Batch, Model, Task, models, tasks, training
from jmeta.domains.rl import acting, environments, policies, policy_gradients, rollouts
from jmeta.domains.rl.environments.bandits import BanditParams
from jmeta.domains.rl.learners import task_inference, varibad, varibad_policy
from jmeta.domains.rl.policies import Normal

NUM_ARMS, NUM_STEPS, NUM_SUPPORT, NUM_LATENTS = 3, 7, 2, 2
NUM_FEATURES = 1 + NUM_ARMS + 2
BANDIT, SAMPLE_BANDIT = environments.bernoulli_bandit(NUM_ARMS)
TRUNK = models.mlp([5, 4], activation=jnp.tanh)
PPO = policy_gradients.ppo_loss(entropy_weight=0.1)


def inference_of(**options):
    decoder = models.mlp([5, 1], activation=jnp.tanh)
    return task_inference(models.gru(6), decoder, BANDIT, num_latents=NUM_LATENTS, **options)


INFERENCE = inference_of()
POLICY = varibad_policy(INFERENCE, TRUNK, BANDIT)
LEARNER = varibad(INFERENCE, TRUNK, BANDIT)


@jax.jit
def sample(key):
    """Episodes of a new policy, the first steps as support and the others as query."""
    key_init, key_task, key_collect = jax.random.split(key, 3)
    run = rollouts.run_episode(BANDIT, POLICY, num_steps=NUM_STEPS)
    collect = policy_gradients.collect_episode(run, discount=0.9, gae_lambda=0.5)
    task = collect(rollouts.init_policy(BANDIT, POLICY)(key_init), SAMPLE_BANDIT(key_task), key_collect)
    part = lambda steps: Batch(*jax.tree.map(lambda leaf: leaf[steps], (task.query.x, task.query.y)))
    return Task(part(slice(None, NUM_SUPPORT)), part(slice(NUM_SUPPORT, None)))


@jax.jit
def params_and_task(key):
    """Away from biases of zero and heads that are nearly so."""
    key_task, key_params, key_noise = jax.random.split(key, 3)
    task = sample(key_task)
    leaves, structure = jax.tree.flatten(POLICY.init(key_params, task.query.x))
    keys = jax.random.split(key_noise, len(leaves))
    leaves = [leaf + 0.3 * jax.random.normal(key, leaf.shape) for leaf, key in zip(leaves, keys, strict=True)]
    return jax.tree.unflatten(structure, leaves), task


def certain(params):
    """The parameters of an inference, made to give posteriors of no width, whose samples are their means."""
    posterior = params["posterior"]
    kernel = posterior["kernel"].at[:, NUM_LATENTS:].set(0.0)
    return {**params, "posterior": {"kernel": kernel, "bias": posterior["bias"].at[NUM_LATENTS:].set(-20.0)}}


def inference_params(params):
    return params["memory"]["inference"]


def features_of(batch):
    return policies.features(batch.x, BANDIT.observation_space(None), BANDIT.action_space(None))


def assert_same(a, b):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-5), a, b)


def test_no_dtype_is_promoted_and_no_key_used_twice(key):
    task = sample(key)
    learner = varibad(inference_of(num_elbo_terms=2), TRUNK, BANDIT)
    episode_fn = jmeta.episode(learner, PPO)

    def init_and_judge(task, key_init, key_episode):
        return episode_fn(learner.init(key_init, task), task, key_episode)

    with jax.numpy_dtype_promotion("strict"), jax.debug_key_reuse(True):
        jax.jit(init_and_judge).trace(task, *jax.random.split(key))
        params = jax.eval_shape(learner.init, key, task)
        jax.jit(jax.value_and_grad(episode_fn, has_aux=True)).trace(params, task, key)
        jax.jit(rollouts.run_episode(BANDIT, POLICY, num_steps=3)).trace(params, BANDIT.default_params, key)


def test_deciding_step_by_step_is_predicting_the_episode_that_it_makes(key):
    params, _ = params_and_task(key)
    experience = jax.jit(rollouts.run_episode(BANDIT, POLICY, num_steps=NUM_STEPS))(params, SAMPLE_BANDIT(key), key)
    part = lambda steps: jax.tree.map(lambda leaf: leaf[steps], experience.inputs)
    adapt, predict = jax.jit(LEARNER.adapt), jax.jit(LEARNER.predict)
    adapted = adapt(params, Batch(part(slice(0)), None), key)
    np.testing.assert_array_equal(adapted.posterior.mean, np.zeros(NUM_LATENTS))  # the prior
    np.testing.assert_array_equal(adapted.posterior.log_std, np.zeros(NUM_LATENTS))
    everything = predict(params, adapted, experience.inputs, None)
    assert np.ptp(everything.distribution.logits) > 0.1
    assert_same(everything, experience.outputs)
    adapted = adapt(params, Batch(part(slice(3)), None), key)
    later = predict(params, adapted, part(slice(3, None)), None)
    assert_same(later, jax.tree.map(lambda leaf: leaf[3:], everything))


def test_decisions_depend_on_the_past_through_the_belief_alone(key):
    """Without an encoder's outputs, the policy sees one observation, which for a bandit is always the same."""
    params, task = params_and_task(key)
    mute = {
        **inference_params(params),
        "posterior": jax.tree.map(jnp.zeros_like, inference_params(params)["posterior"]),
    }
    params["memory"]["inference"] = mute
    adapted = LEARNER.adapt(params, task.support, key)
    decisions = LEARNER.predict(params, adapted, task.query.x, None)
    assert_same(decisions.distribution.logits, jnp.broadcast_to(decisions.distribution.logits[:1], (5, NUM_ARMS)))


def test_the_divergence_is_its_closed_form(float64):
    """log(σ₂/σ₁) + (σ₁² + (μ₁ − μ₂)²) / 2σ₂² − ½, summed over numbers; and a mean over samples comes near it."""
    mean, log_std = jnp.array([0.3, -1.0]), jnp.array([0.2, -0.7])
    other_mean, other_log_std = jnp.array([-0.5, 0.4]), jnp.array([-0.1, 0.5])
    one, other = Normal(mean, log_std), Normal(other_mean, other_log_std)
    variances, others = np.exp(2 * log_std), np.exp(2 * other_log_std)
    expected = 0.5 * np.log(others / variances) + (variances + (mean - other_mean) ** 2) / (2 * others) - 0.5
    np.testing.assert_allclose(one.kl(other), expected.sum(), rtol=1e-12)
    samples = jax.vmap(one.sample)(jax.random.split(jax.random.key(0), 40_000))
    ratio = jax.vmap(one.log_prob)(samples) - jax.vmap(other.log_prob)(samples)
    np.testing.assert_allclose(ratio.mean(), expected.sum(), atol=0.03)


def bound_by_loops(params, belief, batch, kl_weight):
    """For posteriors of no width."""
    _, posteriors = INFERENCE.unroll(params, belief, features_of(batch))
    means, stds = np.asarray(posteriors.mean), np.exp(np.asarray(posteriors.log_std))
    mean_before, std_before = np.asarray(belief.posterior.mean), np.exp(np.asarray(belief.posterior.log_std))
    hidden, head = params["decoder"]["params"]["hidden_0"], params["decoder"]["params"]["head"]
    num_steps, total_kl, errors = len(means), 0.0, []
    for t in range(num_steps):
        kl = np.log(std_before / stds[t]) + (stds[t] ** 2 + (means[t] - mean_before) ** 2) / (2 * std_before**2) - 0.5
        total_kl += kl.sum()
        mean_before, std_before = means[t], stds[t]
        errors.append(0.0)
        for k in range(num_steps):
            arm = np.eye(NUM_ARMS)[int(batch.y.action[k])]
            x = np.concatenate([means[t], np.asarray(batch.x.observation[k]), arm])
            predicted = np.tanh(x @ hidden["kernel"] + hidden["bias"]) @ head["kernel"] + head["bias"]
            errors[t] += 0.5 * float(batch.y.reward[k] - predicted[0]) ** 2
    return np.array(errors), total_kl / num_steps, np.mean(errors) + kl_weight * total_kl / num_steps


@pytest.mark.parametrize("num_before", [0, NUM_SUPPORT])
def test_the_bound_is_its_formula_from_any_belief(key, num_before):
    params, task = params_and_task(key)
    support = Batch(*jax.tree.map(lambda leaf: leaf[:num_before], (task.support.x, task.support.y)))
    belief = LEARNER.adapt(params, support, key)
    of_task = inference_params(params)
    wide = lambda leaf: leaf + 1.0  # a prior that is not standard, and beliefs that are far from certain
    belief = belief._replace(posterior=jax.tree.map(wide, belief.posterior))
    negative_elbo = inference_of(kl_weight=0.3).negative_elbo
    loss, aux = negative_elbo(certain(of_task), belief, task.query, key)
    errors, kl, expected = bound_by_loops(certain(of_task), belief, task.query, 0.3)
    np.testing.assert_allclose(aux["reconstruction"], errors.mean(), rtol=1e-4)
    np.testing.assert_allclose(aux["kl"], kl, rtol=1e-4)
    np.testing.assert_allclose(loss, expected, rtol=1e-4)
    _, kl, _ = bound_by_loops(of_task, belief, task.query, 0.3)
    np.testing.assert_allclose(negative_elbo(of_task, belief, task.query, key)[1]["kl"], kl, rtol=1e-4)


def test_some_terms_of_the_bound_are_some_of_its_terms(key):
    params, task = params_and_task(key)
    params = certain(inference_params(params))
    belief = INFERENCE.start(params)
    errors, _, _ = bound_by_loops(params, belief, task.query, 1.0)
    negative_elbo = inference_of(num_elbo_terms=1).negative_elbo
    drawn = jax.vmap(lambda key: negative_elbo(params, belief, task.query, key)[1]["reconstruction"])
    drawn = jax.jit(drawn)(jax.random.split(key, 60))
    which = np.abs(np.asarray(drawn)[:, None] - errors[None]).argmin(1)
    np.testing.assert_allclose(drawn, errors[which], rtol=1e-4)
    assert set(which) == set(range(len(errors)))
    more = inference_of(num_elbo_terms=100).negative_elbo(params, belief, task.query, key)
    assert_same(more, INFERENCE.negative_elbo(params, belief, task.query, key))


def test_masked_steps_change_nothing_in_the_bound(key):
    params, task = params_and_task(key)
    params = certain(inference_params(params))  # since noise depends on the number of steps
    pad = lambda leaf: jnp.concatenate([leaf, jnp.ones_like(leaf[:2])])
    mask = jnp.arange(len(task.query.y.reward) + 2) < len(task.query.y.reward)
    padded = Batch(*jax.tree.map(pad, (task.query.x, task.query.y)), mask)
    loss = jax.value_and_grad(INFERENCE.negative_elbo, has_aux=True)
    belief = INFERENCE.start(params)
    assert_same(loss(params, belief, padded, key), loss(params, belief, task.query, key))


def test_next_observations_are_predicted_within_their_rollout_alone(key):
    """A decoder that says -1 to everything, of observations 0, 1, 2, ... and rewards 0; the second step ends one."""
    maze = BANDIT._replace(observation_space=lambda params: environments.Box(0.0, 9.0, (1,)))
    says_no = Model(lambda key, x: {}, lambda params, x, key: jnp.full((len(x), 2), -1.0))
    inference = task_inference(models.gru(2), says_no, maze, num_latents=1, predicts_observations=True)
    params = inference.init(key, jnp.zeros((4, NUM_FEATURES)))
    observation = jnp.arange(4.0)[:, None]
    inputs = policies.PolicyInput(observation, jnp.zeros(4, jnp.int32), jnp.zeros(4), jnp.arange(4) == 2)
    acted = policy_gradients.Acted(jnp.zeros(4, jnp.int32), *[jnp.zeros(4)] * 4)
    _, aux = inference.negative_elbo(params, inference.start(params), Batch(inputs, acted), key)
    of_rewards, of_observations = 4 * 0.5, 0.5 * (2**2 + 4**2)  # o₁ = 1 after o₀ and o₃ = 3 after o₂, but no o₂, o₄
    np.testing.assert_allclose(aux["reconstruction"], of_rewards + of_observations, rtol=1e-6)


def test_the_policys_loss_moves_no_belief_and_the_bound_no_policy(key):
    params, task = params_and_task(key)
    learner_of = lambda weight: varibad(INFERENCE, TRUNK, BANDIT, elbo_weight=weight)
    grad_fn = lambda weight, loss_fn: jax.jit(jax.grad(jmeta.episode(learner_of(weight), loss_fn), has_aux=True))
    gradient = lambda weight, loss_fn: grad_fn(weight, loss_fn)(params, task, key)[0]
    largest = lambda tree: [float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(tree)]
    of_policy = gradient(0.0, PPO)
    of_bound = gradient(1.0, lambda decisions, batch: (jnp.zeros(()), {}))
    assert max(largest(inference_params(of_policy))) == 0
    assert min(largest(of_policy["memory"]["trunk"])) > 0
    assert min(largest((of_policy["actor"], of_policy["critic"]))) > 0
    assert min(largest(inference_params(of_bound))) > 0
    assert max(largest((of_bound["memory"]["trunk"], of_bound["actor"], of_bound["critic"]))) == 0


@pytest.mark.slow
@pytest.mark.optimized
def test_the_belief_alone_finds_out_which_of_two_tasks_it_is(key):
    """Arm 0 pays 1 and arm 1 pays 0, or the other way round: unknown before a pull, and certain after any."""
    bandit, _ = environments.gaussian_bandit(2, noise=0.0)
    decoder = models.mlp([16, 1])
    inference = task_inference(models.gru(16), decoder, bandit, num_latents=2)
    run = rollouts.run_episode(bandit, policies.actor_critic(models.gru(2), bandit), num_steps=5)
    acting = rollouts.init_policy(bandit, policies.actor_critic(models.gru(2), bandit))(key)  # at random
    spaces = bandit.observation_space(None), bandit.action_space(None)

    def batch_of(key):
        key_task, key_run = jax.random.split(key)
        first_pays = jax.random.bernoulli(key_task).astype(jnp.float32)
        experience = run(acting, BanditParams(jnp.stack([first_pays, 1 - first_pays])), key_run)
        return policy_gradients.judged(experience, discount=1.0, gae_lambda=1.0).query, first_pays

    def loss(params, key):
        key_batch, key_elbo = jax.random.split(key)
        return inference.negative_elbo(params, inference.start(params), batch_of(key_batch)[0], key_elbo)[0]

    mean_loss = lambda params, key: jax.vmap(loss, (None, 0))(params, jax.random.split(key, 64)).mean()
    optimizer = optax.adam(1e-2)

    def step(state, key):
        params, optimizer_state = state
        value, gradient = jax.value_and_grad(mean_loss)(params, key)
        updates, optimizer_state = optimizer.update(gradient, optimizer_state)
        return (optax.apply_updates(params, updates), optimizer_state), value

    params = inference.init(key, jnp.zeros((5, 5)))
    train = jax.jit(lambda state, keys: jax.lax.scan(step, state, keys))
    (params, _), values = train((params, optimizer.init(params)), jax.random.split(key, 400))
    assert values[-20:].mean() < 0.75 * values[:5].mean()

    def reward_of_first_arm(key):
        """As decoded from the mean of each step's posterior."""
        batch, first_pays = batch_of(key)
        _, posteriors = inference.unroll(params, inference.start(params), policies.features(batch.x, *spaces))
        given = jnp.broadcast_to(jnp.array([0.0, 1.0, 0.0]), (5, 3))  # observation, and the first arm
        return decoder.apply(params["decoder"], jnp.concatenate([posteriors.mean, given], 1), None)[:, 0], first_pays

    predicted, first_pays = jax.vmap(reward_of_first_arm)(jax.random.split(jax.random.key(1), 200))
    assert np.abs(predicted[:, 0] - 0.5).max() < 0.15  # before any pull
    assert np.abs(predicted[:, 1:] - first_pays[:, None]).max() < 0.25


@pytest.mark.slow
@pytest.mark.optimized
def test_it_learns_to_explore_a_bandit(key):
    """From 5.6 to 6.1 over seeds; pulling at random gets 5, and the best there is 6.02. Standard error 0.05."""
    bandit, sample_arms = environments.bernoulli_bandit(2)
    inference = task_inference(models.gru(16), models.mlp([16, 1]), bandit, num_latents=4, kl_weight=0.1)
    trunk, num_steps, num_epochs, num_minibatches = models.mlp([16]), 150, 4, 2
    schedule = optax.linear_schedule(1e-2, 0.0, num_steps * num_epochs * num_minibatches)
    method = acting.with_memory(
        bandit,
        varibad_policy(inference, trunk, bandit),
        jmeta.episode(varibad(inference, trunk, bandit), policy_gradients.ppo_loss(entropy_weight=0.05)),
        optax.adam(schedule),
        num_steps=10,
        discount=1.0,
        gae_lambda=0.3,
        num_epochs=num_epochs,
        num_minibatches=num_minibatches,
    )
    trainer = method.trainer
    run = training.sampled_steps(trainer, num_steps=num_steps)
    state, _ = run(trainer.init(method.init(key)), tasks.stacked(sample_arms, 256), key)
    keys = jax.random.split(jax.random.key(1), 2000)
    judged = jax.jit(jax.vmap(lambda key: method.tested(state.meta_params, sample_arms(key), key)[1]["return"]))
    assert judged(keys).mean() > 5.2


def test_mistakes_are_refused(key):
    make = lambda **other: inference_of(**other)
    with pytest.raises(ValueError, match="num_latents=0; expected"):
        task_inference(models.gru(2), models.mlp([1]), BANDIT, num_latents=0)
    with pytest.raises(ValueError, match="num_elbo_terms=0; expected"):
        make(num_elbo_terms=0)
    with pytest.raises(ValueError, match=r"kl_weight=-1\.0; expected a number of at least 0"):
        make(kl_weight=-1.0)
    inference = make(predicts_observations=True)
    task = sample(key)
    params = inference.init(key, features_of(task.query))
    with pytest.raises(ValueError, match="the reward and the next observation; change its last layer"):
        inference.negative_elbo(params, inference.start(params), task.query, key)
