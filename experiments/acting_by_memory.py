"""Methods that adapt by remembering: from a recipe's RL² or VariBAD to policy, trainer and judge."""

import jax
import optax

import jmeta
from configs import parts
from jmeta import Learner, models
from jmeta.domains import rl
from jmeta.domains.rl import environments, policies, policy_gradients, rollouts
from jmeta.domains.rl.learners.varibad import TaskInference, task_inference, varibad, varibad_policy
from jmeta.domains.rl.on_policy import on_policy_trainer
from jmeta.domains.rl.policies import Policy
from jmeta.types import EpisodeFn, LossFn, MetaTrainer, SequenceModel

from .acting import Acting, collected_first
from .devices import Sharing
from .worlds import World


def rl2(
    recipe: parts.Recipe,
    method: parts.Rl2,
    there: World,
    optimizer: optax.GradientTransformation,
    sharing: Sharing | None,
) -> Acting:
    """RL², or with a `Forgetful` network a policy that does not adapt at all, trained likewise."""
    policy = policy_of(recipe.model, method, there)
    learner = rl.learners.rl2(policy)
    on_collected = jmeta.episode(learner, _loss(method))
    return _acting(recipe, method, there, policy, learner, on_collected, optimizer, sharing)


def policy_of(network: parts.Network, method: parts.Rl2, there: World) -> Policy:
    """What acts: a network with memory, or of the present observation alone."""
    return policies.actor_critic(_memory(network, there), there.environment, initial_log_std=method.initial_log_std)


def inferring(
    recipe: parts.Recipe,
    method: parts.Varibad,
    there: World,
    optimizer: optax.GradientTransformation,
    sharing: Sharing | None,
) -> Acting:
    """VariBAD, the recipe's network being its encoder."""
    inference, policy = believing_policy_of(recipe.model, method, there)
    trunk, initial_log_std = models.mlp(method.trunk), method.acting.initial_log_std
    learner = varibad(inference, trunk, there.environment, initial_log_std=initial_log_std)
    on_collected = jmeta.episode(learner, _loss(method.acting))
    return _acting(recipe, method.acting, there, policy, learner, on_collected, optimizer, sharing)


def believing_policy_of(network: parts.Network, method: parts.Varibad, there: World) -> tuple[TaskInference, Policy]:
    """What infers the task, and what acts by it."""
    if isinstance(network, parts.Forgetful):
        raise ValueError(f"VariBAD's network reads experience: it has a memory, such as Recurrent; it is no {network}")
    inference = task_inference(
        _memory(network, there),
        models.mlp((*method.decoder, 1)),
        there.environment,
        num_latents=method.num_latents,
        kl_weight=method.kl_weight,
        num_elbo_terms=method.num_elbo_terms,
    )
    trunk, initial_log_std = models.mlp(method.trunk), method.acting.initial_log_std
    return inference, varibad_policy(inference, trunk, there.environment, initial_log_std=initial_log_std)


def _memory(network: parts.Network, there: World) -> SequenceModel:
    match network:
        case parts.Recurrent(cell, width, max_span):
            return (models.gru if cell == "gru" else models.lstm)(width, max_span=max_span)
        case parts.Transformer(width, num_layers, num_heads):
            return models.causal_transformer(
                width=width, num_layers=num_layers, num_heads=num_heads, max_steps=there.num_steps
            )
        case parts.Snail(width, num_blocks, num_filters, key_width, value_width):
            return models.snail(
                width=width,
                num_blocks=num_blocks,
                num_filters=num_filters,
                key_width=key_width,
                value_width=value_width,
                max_steps=there.num_steps,
            )
        case parts.Forgetful(hidden):
            space = there.environment.observation_space(there.environment.default_params)
            return models.forgetful(models.mlp(hidden), num_features=environments.num_features(space))
    raise ValueError(
        f"a policy that remembers needs a network with memory, such as Recurrent, not {network}; one that shall not "
        "adapt is Forgetful"
    )


def _loss(method: parts.Rl2) -> LossFn:
    entropy_weight = method.entropy_weight if method.entropy_schedule == "constant" else 0.0
    weights = {"value_weight": method.value_weight, "entropy_weight": entropy_weight}
    if method.loss == "ppo":
        return policy_gradients.ppo_loss(clip=method.clip, **weights)
    return policy_gradients.a2c_loss(**weights)


def _acting(
    recipe: parts.Recipe,
    method: parts.Rl2,
    there: World,
    policy: Policy,
    learner: Learner,
    on_collected: EpisodeFn,
    optimizer: optax.GradientTransformation,
    sharing: Sharing | None,
) -> Acting:
    if method.entropy_schedule == "linear":
        on_collected = policy_gradients.with_fading_entropy(on_collected, method.entropy_weight)
    run = rollouts.run_episode(there.environment, policy, num_steps=there.num_steps)
    collect = policy_gradients.collect_episode(
        run, discount=method.discount, gae_lambda=method.gae_lambda, reward_scale=method.reward_scale
    )
    judged = rollouts.run_episode(there.environment, policy, num_steps=there.num_steps, is_greedy=method.is_greedy)
    return Acting(
        rollouts.init_policy(there.environment, policy),
        _trainer(recipe.training, method, on_collected, collect, optimizer, sharing),
        collected_first(collect, on_collected),
        learner,
        rollouts.return_episode(judged, num_rollouts=there.num_rollouts),
    )


def _trainer(
    training: parts.Training,
    method: parts.Rl2,
    on_collected: EpisodeFn,
    collect: policy_gradients.Collect,
    optimizer: optax.GradientTransformation,
    sharing: Sharing | None,
) -> MetaTrainer:
    # all tasks at once, and the gradient of their mean, not the mean of gradients: they share one product a step
    batching = "vmap" if training.batching == "auto" else training.batching
    mean_grad = jax.value_and_grad(jmeta.over_tasks(on_collected, batching), has_aux=True)
    mean_grad = mean_grad if sharing is None else sharing.over(mean_grad)
    return on_policy_trainer(
        jmeta.meta_trainer(mean_grad, optimizer),
        collect,
        num_epochs=method.num_epochs,
        num_minibatches=method.num_minibatches,
        prepare=policy_gradients.with_normalized_advantages,
        num_total_steps=training.num_steps,
        mesh=None if sharing is None else sharing.mesh,
        num_blocks=training.num_blocks,
    )
