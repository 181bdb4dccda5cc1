"""RL² on Bernoulli bandits with many pulls."""

from dataclasses import dataclass

import optax

import jmeta
from jmeta import models, runs
from jmeta.domains import rl
from jmeta.domains.rl import environments, policies, policy_gradients


@dataclass(frozen=True)
class Options:
    """RL² on Bernoulli bandits with 100 pulls.

    Paper:    Duan et al., "RL²", 2016, arXiv:1611.02779, table 1.
    Command:  jmeta train bandit_rl2_long --num-arms 5
    Time:     about 10 minutes on one CPU core, and no less on two.
    Expected: a total reward of 78.0 with 5 arms and, with 8000 steps and λ = 0.8, 82.8 with 10 (the paper, with a GRU
              of 256: 78.7 and 83.5).

    Differs from the paper: PPO in place of TRPO, a GRU of 64 whose units begin with memories of 1 to 50 steps, and the
    critic is a head of the same network. Learning from 100 pulls needs two things: those memories, and rewards scaled
    so that the critic's values are near 1.
    """

    num_arms: int = 5
    num_pulls: int = 100
    width: int = 64
    max_span: int | None = 50
    """Steps that the longest-lasting units of a new memory remember; a few if not given."""
    discount: float = 0.99
    gae_lambda: float = 0.7
    """λ of generalised advantages: 1 uses the rewards alone, 0 the critic alone."""
    reward_scale: float = 0.1
    """Factor of the rewards that the critic sees; choose it so that values are near 1."""
    entropy_weight: float = 0.05
    """Decays linearly to zero."""
    num_epochs: int = 2
    """Passes over the collected episodes in each meta-step."""
    num_minibatches: int = 4
    """Minibatches of a pass: updates, each on an equal share of the episodes."""
    is_greedy: bool = True
    """Whether the tested policy takes its most probable action instead of a sampled one."""
    meta_lr: float = 2e-3
    """Decays linearly to zero."""
    clip_norm: float = 1.0
    training: runs.Training = runs.Training(
        num_steps=4000,
        tasks_per_step=512,
        steps_per_dispatch=20,
        evaluate_every=200,
        num_valid_tasks=2000,
    )
    testing: runs.Testing = runs.Testing(num_tasks=100_000, tasks_at_once=500)


def build(options: Options) -> runs.Experiment:
    """Build the experiment from its options."""
    runs.check_positive(meta_lr=options.meta_lr, clip_norm=options.clip_norm)
    bandit, sample = environments.bernoulli_bandit(options.num_arms)
    memory = models.gru(options.width, max_span=options.max_span)
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
