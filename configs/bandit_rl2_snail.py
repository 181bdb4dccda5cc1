"""RL² with SNAIL on Bernoulli bandits."""

from dataclasses import dataclass

import optax

import jmeta
from jmeta import models, runs
from jmeta.domains import rl
from jmeta.domains.rl import environments, policies, policy_gradients


@dataclass(frozen=True)
class Options:
    """SNAIL on five-armed Bernoulli bandits with 10 pulls.

    Paper:    Mishra, Rohaninejad, Chen, Abbeel, "A Simple Neural Attentive Meta-Learner", 2018, arXiv:1707.03141,
              section 5.2.1 (bandits).
    Command:  jmeta train bandit_rl2_snail
    Time:     about 6 minutes on one CPU core.
    Expected: a total reward of 6.63; the Bayes-optimal policy gets 6.66.
    """

    num_arms: int = 5
    num_pulls: int = 10
    width: int = 32
    num_blocks: int = 2
    num_filters: int = 16
    key_width: int = 16
    value_width: int = 16
    discount: float = 0.99
    gae_lambda: float = 0.3
    """λ of generalised advantages: 1 uses the rewards alone, 0 the critic alone."""
    reward_scale: float = 1.0
    """Factor of the rewards that the critic sees; choose it so that values are near 1."""
    entropy_weight: float = 0.03
    """Decays linearly to zero."""
    num_epochs: int = 2
    """Passes over the collected episodes in each meta-step."""
    num_minibatches: int = 2
    """Minibatches of a pass: updates, each on an equal share of the episodes."""
    is_greedy: bool = True
    """Whether the tested policy takes its most probable action instead of a sampled one."""
    meta_lr: float = 2e-3
    """Decays linearly to zero."""
    clip_norm: float = 1.0
    training: runs.Training = runs.Training(
        num_steps=3000,
        tasks_per_step=512,
        steps_per_dispatch=100,
        evaluate_every=500,
        num_valid_tasks=20_000,
    )
    testing: runs.Testing = runs.Testing(num_tasks=100_000, tasks_at_once=500)


def build(options: Options) -> runs.Experiment:
    """Build the experiment from its options."""
    runs.check_positive(meta_lr=options.meta_lr, clip_norm=options.clip_norm)
    bandit, sample = environments.bernoulli_bandit(options.num_arms)
    memory = models.snail(
        width=options.width,
        num_blocks=options.num_blocks,
        num_filters=options.num_filters,
        key_width=options.key_width,
        value_width=options.value_width,
        max_steps=options.num_pulls,
    )
    policy = policies.actor_critic(memory, bandit)
    learner = rl.learners.rl2(policy)
    loss_fn = policy_gradients.ppo_loss()
    episode_fn = policy_gradients.with_fading_entropy(jmeta.episode(learner, loss_fn), options.entropy_weight)

    num_updates = options.training.num_steps * options.num_epochs * options.num_minibatches
    meta_lr = optax.linear_schedule(options.meta_lr, 0.0, num_updates)
    acting = rl.acting.with_memory(
        bandit,
        policy,
        episode_fn,
        optax.chain(optax.clip_by_global_norm(options.clip_norm), optax.adam(meta_lr)),
        num_steps=options.num_pulls,
        discount=options.discount,
        gae_lambda=options.gae_lambda,
        reward_scale=options.reward_scale,
        num_epochs=options.num_epochs,
        num_minibatches=options.num_minibatches,
        num_total_steps=options.training.num_steps,
        batching=options.training.batching,
        is_greedy=options.is_greedy,
    )
    return runs.Experiment(
        learner=learner,
        loss_fn=loss_fn,
        source=environments.source(sample, f"bernoulli bandit, {options.num_arms} arms, {options.num_pulls} pulls"),
        metric="return",
        init=acting.init,
        episode_fn=acting.episode_fn,
        meta_trainer=acting.trainer,
        evaluated=acting.tested,
        training_names={"loss": "objective"},
        training=options.training,
        testing=options.testing,
    )


if __name__ == "__main__":
    runs.main(build, Options)
