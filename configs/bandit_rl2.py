"""RL² on Bernoulli bandits."""

from dataclasses import dataclass
from typing import Literal

import optax

import jmeta
from jmeta import models, runs
from jmeta.domains import rl
from jmeta.domains.rl import environments, policies, policy_gradients


@dataclass(frozen=True)
class Options:
    """RL² on five-armed Bernoulli bandits with 10 pulls.

    Paper:    Duan et al., "RL²", 2016, arXiv:1611.02779, table 1.
    Command:  jmeta train bandit_rl2
    Time:     about 4 minutes on 2 CPU cores.
    Expected: a total reward within 0.02 of the Bayes-optimal policy's 6.660 (the paper: 6.7).

    Differs from the paper: PPO in place of TRPO, a GRU of 64 units, and the critic is a head of the same network.
    """

    num_arms: int = 5
    num_pulls: int = 10
    kind: Literal["bernoulli", "gaussian"] = "bernoulli"
    """Distribution of the rewards."""
    cell: Literal["gru", "lstm"] = "gru"
    width: int = 64
    max_span: int | None = None
    """Steps that the longest-lasting units of a new memory remember; a few if not given."""
    loss: Literal["ppo", "a2c"] = "ppo"
    discount: float = 0.99
    gae_lambda: float = 0.3
    """λ of generalised advantages: 1 uses the rewards alone, 0 the critic alone."""
    reward_scale: float = 1.0
    """Factor of the rewards that the critic sees; choose it so that values are near 1."""
    clip: float = 0.2
    """Clipping range of the probability ratio, for PPO."""
    value_weight: float = 0.5
    entropy_weight: float = 0.03
    entropy_schedule: Literal["constant", "linear"] = "constant"
    """Whether the entropy weight stays constant or decays linearly to zero."""
    num_epochs: int = 2
    """Passes over the collected episodes in each meta-step."""
    num_minibatches: int = 2
    """Minibatches of a pass: updates, each on an equal share of the episodes."""
    is_greedy: bool = True
    """Whether the tested policy takes its most probable action instead of a sampled one."""
    meta_lr: float = 3e-3
    """Decays linearly to zero."""
    clip_norm: float = 1.0
    training: runs.Training = runs.Training(
        num_steps=10_000,
        tasks_per_step=512,
        steps_per_dispatch=100,
        evaluate_every=1000,
        num_valid_tasks=20_000,
    )
    testing: runs.Testing = runs.Testing(num_tasks=100_000, tasks_at_once=500)


def build(options: Options) -> runs.Experiment:
    """Build the experiment from its options."""
    runs.check_positive(meta_lr=options.meta_lr, clip_norm=options.clip_norm)
    make = environments.bernoulli_bandit if options.kind == "bernoulli" else environments.gaussian_bandit
    bandit, sample = make(options.num_arms)
    cell = models.gru if options.cell == "gru" else models.lstm
    policy = policies.actor_critic(cell(options.width, max_span=options.max_span), bandit)

    is_fading = options.entropy_schedule == "linear"
    weights = {"value_weight": options.value_weight, "entropy_weight": 0.0 if is_fading else options.entropy_weight}
    if options.loss == "ppo":
        loss_fn = policy_gradients.ppo_loss(clip=options.clip, **weights)
    else:
        loss_fn = policy_gradients.a2c_loss(**weights)
    learner = rl.learners.rl2(policy)
    episode_fn = jmeta.episode(learner, loss_fn)
    if is_fading:
        episode_fn = policy_gradients.with_fading_entropy(episode_fn, options.entropy_weight)

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
        source=environments.source(
            sample, f"{options.kind} bandit, {options.num_arms} arms, {options.num_pulls} pulls"
        ),
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
