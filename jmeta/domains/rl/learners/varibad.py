"""VariBAD: infer the task as a distribution, and act on the observation and on that belief.

An encoder reads the experience τ_:t so far and returns a distribution of the task's embedding m: q(m | τ_:t) = N(μₜ,
σₜ²). A decoder predicts from m the rewards of the whole episode, past and future, so that m learns what they have in
common: ELBOₜ = E_q[Σₖ log p(rₖ | oₖ, aₖ, m)] − KL(q(m | τ_:t) ‖ q(m | τ_:t−1)), where the first prior is N(0, 1). The
policy receives the belief (μₜ, log σₜ) as part of its state and has no memory of its own; its loss changes no weight of
the encoder.

Reference: Zintgraf, Shiarlis, Igl, Schulze, Gal, Hofmann, Whiteson, "VariBAD: A Very Good Method for Bayes-Adaptive
Deep RL via Meta-Learning", 2020, arXiv:1910.08348, eq. 4-10. Differs from the paper: belief and policy are trained on
the same episodes, those just collected, by one optimizer, where the authors keep a buffer of episodes for the belief
and a learning rate of its own; and the belief at a rollout's first step has seen its observation.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jmeta.bounds import is_real
from jmeta.losses import checked_loss, masked_mean
from jmeta.models.dense import dense, init_dense
from jmeta.tasks.class_arrays import check_positive
from jmeta.types import Aux, Batch, EpisodeFn, Learner, LossFn, Model, PyTree, RandomKey, SequenceModel, Task

from ..environments.spaces import as_vector, flat_action_space, num_features
from ..policies import ActionMask, Normal, Policy, actor_critic, features
from .rl2 import rl2

__all__ = ["Belief", "TaskInference", "task_inference", "varibad_policy", "varibad"]


class Belief(NamedTuple):
    """The belief of VariBAD about a task.

    Attributes:
      memory: memory of the encoder.
      posterior: q(m | τ), a `policies.Normal` of `[num_latents]`; before any experience the prior N(0, 1).
    """

    memory: PyTree
    posterior: Normal


class TaskInference(NamedTuple):
    """Task inference: a sequence model whose memory is a `Belief` and whose outputs are posteriors, with its loss.

    Attributes:
      init: `(key, x) -> params` of encoder and decoder, `x` being `policies.features` of a sequence of steps.
      start: `params -> Belief`.
      step: `(params, belief, x) -> (belief, posterior)`, of one step.
      unroll: the same over a sequence.
      negative_elbo: `(params, belief, batch, key) -> (loss, aux)`, for the steps of an episode that follow the belief.
    """

    init: Callable[[RandomKey, Array], PyTree]
    start: Callable[[PyTree], Belief]
    step: Callable[[PyTree, Belief, Array], tuple[Belief, Normal]]
    unroll: Callable[[PyTree, Belief, Array], tuple[Belief, Normal]]
    negative_elbo: Callable[[PyTree, Belief, Batch, RandomKey], tuple[Array, Aux]]


def task_inference(
    encoder: SequenceModel,
    decoder: Model,
    environment: Any,
    *,
    num_latents: int,
    predicts_observations: bool = False,
    kl_weight: float = 1.0,
    num_elbo_terms: int | None = None,
) -> TaskInference:
    """Build posteriors of a task embedding from an encoder, trained by a decoder's predictions from them.

    Args:
      encoder: reads the steps, such as `models.gru(64)`; a linear layer makes means and log-deviations of its outputs.
      decoder: predicts a step's reward from embedding, observation and action, as one number; its loss is a normal
        likelihood of variance 1, without the constant.
      environment: its spaces give the shapes.
      num_latents: numbers in an embedding.
      predicts_observations: whether the decoder also predicts the next observation, as further numbers; for tasks that
        differ in their dynamics. A rollout's last observation is not seen, and does not count.
      kl_weight: weight of the divergence from the previous posterior; 1 for the bound itself.
      num_elbo_terms: number of steps t, drawn anew each time, whose posteriors are decoded, each into all steps of the
        episode; `None` for all.

    Returns:
      The inference. Its loss is −ELBOₜ averaged over t; `aux` has its parts, the `reconstruction` and the `kl`.

    Raises:
      ValueError: if a number is not positive, or `kl_weight` is negative; at trace time if the number of the decoder's
        outputs is wrong.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from jmeta import models
      >>> from jmeta.domains.rl import environments
      >>> from jmeta.domains.rl.learners.varibad import task_inference
      >>> bandit, sample = environments.bernoulli_bandit(5)
      >>> inference = task_inference(models.gru(16), models.mlp([16, 1]), bandit, num_latents=3)
      >>> params = inference.init(jax.random.key(0), jnp.zeros((7, 8)))
      >>> belief, posteriors = inference.unroll(params, inference.start(params), jnp.zeros((7, 8)))
      >>> posteriors.mean.shape, belief.posterior.log_std.shape
      ((7, 3), (3,))
    """
    check_positive({"num_latents": num_latents, "num_elbo_terms": 1 if num_elbo_terms is None else num_elbo_terms})
    if not is_real(kl_weight, least=0):
        raise ValueError(f"kl_weight={kl_weight}; expected a number of at least 0")
    observation_space = environment.observation_space(environment.default_params)
    action_space = flat_action_space(environment.action_space(environment.default_params), environment.name)

    def init(key: RandomKey, x: Float[Array, "steps features"]) -> PyTree:
        key_encoder, key_posterior, key_decoder = jax.random.split(key, 3)
        params = {"encoder": encoder.init(key_encoder, x)}
        outputs = jax.eval_shape(lambda params: encoder.unroll(params, encoder.start(params), x)[1], params["encoder"])
        params["posterior"] = init_dense(key_posterior, outputs.shape[-1], 2 * num_latents)
        num_given = num_latents + x.shape[-1] - 2  # of a step's features, all but reward and end
        params["decoder"] = decoder.init(key_decoder, jnp.zeros((1, num_given), jnp.float32))
        return params

    def start(params: PyTree) -> Belief:
        zeros = jnp.zeros_like(params["posterior"]["bias"][:num_latents])
        return Belief(encoder.start(params["encoder"]), Normal(zeros, zeros))

    def to_posterior(params: PyTree, output: Float[Array, "*steps width"]) -> Normal:
        numbers = dense(params["posterior"], output)
        return Normal(numbers[..., :num_latents], numbers[..., num_latents:])

    def step(params: PyTree, belief: Belief, x: Float[Array, " features"]) -> tuple[Belief, Normal]:
        memory, output = encoder.step(params["encoder"], belief.memory, x)
        posterior = to_posterior(params, output)
        return Belief(memory, posterior), posterior

    def unroll(params: PyTree, belief: Belief, x: Float[Array, "steps features"]) -> tuple[Belief, Normal]:
        memory, outputs = encoder.unroll(params["encoder"], belief.memory, x)
        posteriors = to_posterior(params, outputs)
        return Belief(memory, jax.tree.map(lambda leaf: leaf[-1], _after(belief, posteriors))), posteriors

    def negative_elbo(params: PyTree, belief: Belief, batch: Batch, key: RandomKey) -> tuple[Array, Aux]:
        key_embeddings, key_terms = jax.random.split(key)
        _, posteriors = unroll(params, belief, features(batch.x, observation_space, action_space))
        previous = jax.tree.map(lambda leaf: leaf[:-1], _after(belief, posteriors))
        kl = masked_mean(posteriors.kl(previous), batch)
        given, targets, is_known = _transitions(batch, observation_space, action_space, predicts_observations)

        def reconstruction(embedding: Float[Array, " latents"]) -> Float[Array, ""]:
            inputs = jnp.concatenate([jnp.broadcast_to(embedding, (len(given), num_latents)), given], 1)
            predicted = decoder.apply(params["decoder"], inputs, None)
            if predicted.shape != targets.shape:
                raise ValueError(
                    f"the decoder's outputs are {predicted.shape}, but what it has to predict is {targets.shape}, the "
                    f"reward{' and the next observation' * predicts_observations}; change its last layer"
                )
            return jnp.where(is_known, 0.5 * (targets - predicted) ** 2, 0).sum()

        terms = _terms(batch, num_elbo_terms, key_terms)
        embeddings = posteriors.sample(key_embeddings)[terms]
        is_real = None if batch.mask is None else batch.mask[terms]
        errors = masked_mean(jax.vmap(reconstruction)(embeddings), Batch(None, None, is_real))
        loss = errors + kl_weight * kl
        return loss, {"negative_elbo": loss, "reconstruction": errors, "kl": kl}

    return TaskInference(init, start, step, unroll, negative_elbo)


def varibad_policy(
    inference: TaskInference,
    trunk: Model,
    environment: Any,
    *,
    initial_log_std: float = 0.0,
    action_mask: ActionMask | None = None,
) -> Policy:
    """Build a policy of the observation and of the belief about the task: an actor-critic whose memory is a `Belief`.

    Args:
      inference: as returned by `task_inference`. No gradient of the policy's decisions flows into it.
      trunk: maps observation, means and log-deviations to the features that actor and critic share, after a tanh.
      environment, initial_log_std, action_mask: as for `policies.actor_critic`.

    Example:
      >>> import jax
      >>> from jmeta import models
      >>> from jmeta.domains.rl import environments, rollouts
      >>> from jmeta.domains.rl.learners.varibad import task_inference, varibad_policy
      >>> bandit, sample = environments.bernoulli_bandit(5)
      >>> inference = task_inference(models.gru(16), models.mlp([16, 1]), bandit, num_latents=3)
      >>> policy = varibad_policy(inference, models.mlp([16, 16]), bandit)
      >>> params = rollouts.init_policy(bandit, policy)(jax.random.key(0))
      >>> run = jax.jit(rollouts.run_episode(bandit, policy, num_steps=10))
      >>> run(params, sample(jax.random.key(1)), jax.random.key(2)).reward.shape
      (10,)
    """
    space = environment.observation_space(environment.default_params)
    num_observed = num_features(space)

    def init(key: RandomKey, x: Float[Array, "steps features"]) -> PyTree:
        key_inference, key_trunk = jax.random.split(key)
        params = inference.init(key_inference, x)
        belief = jax.eval_shape(inference.start, params)
        num_inputs = num_observed + 2 * belief.posterior.mean.shape[-1]
        return {"inference": params, "trunk": trunk.init(key_trunk, jnp.zeros((1, num_inputs), jnp.float32))}

    def start(params: PyTree) -> Belief:
        return inference.start(params["inference"])

    def seen(params: PyTree, x: Float[Array, " features"], posterior: Normal) -> Float[Array, " width"]:
        belief = jax.lax.stop_gradient(jnp.concatenate([posterior.mean, posterior.log_std]))
        return jnp.tanh(trunk.apply(params["trunk"], jnp.concatenate([x[:num_observed], belief])[None], None)[0])

    def step(params: PyTree, belief: Belief, x: Float[Array, " features"]) -> tuple[Belief, Float[Array, " width"]]:
        belief, posterior = inference.step(params["inference"], belief, x)
        return belief, seen(params, x, posterior)

    def unroll(
        params: PyTree, belief: Belief, x: Float[Array, "steps features"]
    ) -> tuple[Belief, Float[Array, "steps width"]]:
        belief, posteriors = inference.unroll(params["inference"], belief, x)
        return belief, jax.vmap(seen, in_axes=(None, 0, 0))(params, x, posteriors)

    memory = SequenceModel(init, start, step, unroll)
    return actor_critic(memory, environment, initial_log_std=initial_log_std, action_mask=action_mask)


def varibad(
    inference: TaskInference,
    trunk: Model,
    environment: Any,
    *,
    initial_log_std: float = 0.0,
    elbo_weight: float = 1.0,
    action_mask: ActionMask | None = None,
) -> Learner:
    """Infer the task from experience; act on that belief and continue to infer.

    Its training episode is the policy's loss on the collected experience, plus the bound on the likelihood of all
    rewards.

    Args:
      inference, trunk, environment, initial_log_std, action_mask: as for `varibad_policy`.
      elbo_weight: λ, the weight of −ELBO; the policy's loss has 1. The two losses share no parameters, so under Adam it
        matters only where both are clipped, or reported, together.

    Returns:
      A learner of streams of steps as `rl2` is, whose adapted state is a `Belief`. It is trained by a loss of
      decisions, such as `policy_gradients.ppo_loss()`; the query's `y` has the `action`s and the `reward`s. The `aux`
      of its training episode adds the `negative_elbo`, the `reconstruction` and the `kl` to that of this loss. In a
      plain episode encoder and decoder have no gradient.

    Example:
      >>> import jax, jmeta
      >>> from jmeta import models
      >>> from jmeta.domains.rl import environments, policy_gradients, rollouts
      >>> from jmeta.domains.rl.learners.varibad import task_inference, varibad, varibad_policy
      >>> bandit, sample = environments.bernoulli_bandit(5)
      >>> inference = task_inference(models.gru(16), models.mlp([16, 1]), bandit, num_latents=3)
      >>> trunk = models.mlp([16, 16])
      >>> policy, learner = varibad_policy(inference, trunk, bandit), varibad(inference, trunk, bandit)
      >>> meta_params = rollouts.init_policy(bandit, policy)(jax.random.key(0))
      >>> run = rollouts.run_episode(bandit, policy, num_steps=10)
      >>> collect = policy_gradients.collect_episode(run, discount=0.99, gae_lambda=0.3)
      >>> task = jax.jit(collect)(meta_params, sample(jax.random.key(1)), jax.random.key(2))
      >>> jax.jit(learner.adapt)(meta_params, task.query, jax.random.key(3)).posterior.mean.shape
      (3,)
      >>> episode_fn = jax.jit(jmeta.episode(learner, policy_gradients.ppo_loss()))
      >>> loss, aux = episode_fn(meta_params, task, jax.random.key(4))
      >>> sorted(aux)
      ['entropy', 'kl', 'negative_elbo', 'reconstruction', 'reward', 'value_loss']

    Reference:
      Zintgraf et al., 2020, arXiv:1910.08348, eq. 9.
    """
    numbers = {"initial_log_std": initial_log_std, "action_mask": action_mask}
    learner = rl2(varibad_policy(inference, trunk, environment, **numbers))

    def episode(outer_loss: LossFn) -> EpisodeFn:
        def episode_fn(meta_params: PyTree, task: Task, key: RandomKey) -> tuple[Array, Aux]:
            key_adapt, key_predict, key_elbo = jax.random.split(key, 3)
            adapted = learner.adapt(meta_params, task.support, key_adapt)
            decisions = learner.predict(meta_params, adapted, task.query.x, key_predict)
            loss, aux = checked_loss(outer_loss(decisions, task.query), "what loss_fn returns")
            params = meta_params["memory"]["inference"]
            negative_elbo, parts = inference.negative_elbo(params, adapted, task.query, key_elbo)
            return loss + elbo_weight * negative_elbo, {**aux, **parts}

        return episode_fn

    return learner._replace(episode=episode)


def _after(belief: Belief, posteriors: Normal) -> Normal:
    """Return the belief's posterior, followed by those of the steps after it."""
    return jax.tree.map(lambda first, rest: jnp.concatenate([first[None], rest]), belief.posterior, posteriors)


def _transitions(
    batch: Batch, observation_space: Any, action_space: Any, predicts_observations: bool
) -> tuple[Float[Array, "steps given"], Float[Array, "steps targets"], Array]:
    """Return the decoder's inputs of each step, its targets, and where these are known, `[steps, targets]`."""
    observed = as_vector(batch.x.observation, observation_space)
    given = jnp.concatenate([observed, as_vector(batch.y.action, action_space)], 1)
    is_real = jnp.ones(len(given), bool) if batch.mask is None else batch.mask
    rewards = batch.y.reward[:, None]
    if not predicts_observations:
        return given, rewards, is_real[:, None]
    following = lambda leaf: jnp.concatenate([leaf[1:], jnp.zeros_like(leaf[:1])])  # noqa: E731
    is_seen = is_real & following(is_real) & ~following(batch.x.is_over)  # by the step after it, in the same rollout
    is_known = jnp.concatenate([is_real[:, None], jnp.broadcast_to(is_seen[:, None], observed.shape)], 1)
    return given, jnp.concatenate([rewards, following(observed)], 1), is_known


def _terms(batch: Batch, num_terms: int | None, key: RandomKey) -> Array:
    """Return the steps whose posteriors are decoded."""
    num_steps = batch.y.reward.shape[0]
    if num_terms is None or num_terms >= num_steps:
        return jnp.arange(num_steps, dtype=jnp.int32)
    return jax.random.choice(key, num_steps, (num_terms,), replace=False)
