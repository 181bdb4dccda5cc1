"""RL² on point navigation, three rollouts an episode."""

from dataclasses import dataclass
from typing import Literal

import optax

import jmeta
from jmeta import models, runs
from jmeta.domains import rl
from jmeta.domains.rl import environments, policies, policy_gradients


@dataclass(frozen=True)
class Options:
    """RL² on dense point navigation; `navigation_varibad` is the same problem with VariBAD.

    Paper:    Duan et al., "RL²", 2016, arXiv:1611.02779; the problem is from the MAML paper, in shorter rollouts.
    Command:  jmeta train navigation_rl2
    Time:     about a minute on one CPU core.
    Expected: returns of -3.1, -0.8 and -0.8 in the three rollouts; standing still has -7.7.

    Rewards are scaled so that the critic's values are near 1: without scaling nothing is learned.
    """

    reward: Literal["dense", "sparse"] = "dense"
    """`dense`: minus the distance to a goal in a square; `sparse`: a reward only near a goal on a half circle."""
    num_rollouts: int = 3
    """Rollouts of an episode."""
    horizon: int = 20
    """Steps of a rollout."""
    ends_at_goal: bool = False
    """Whether a rollout with dense rewards ends at the goal. With several, that rewards stopping short of it."""
    width: int = 64
    max_span: int | None = 30
    """Steps that the longest-lasting units of a new memory remember; a few if not given."""
    discount: float = 0.97
    gae_lambda: float = 0.9
    """λ of generalised advantages: 1 uses the rewards alone, 0 the critic alone."""
    reward_scale: float = 0.1
    """Factor of the rewards that the critic sees; choose it so that values are near 1."""
    entropy_weight: float = 0.0
    num_epochs: int = 4
    """Passes over the collected episodes in each meta-step."""
    num_minibatches: int = 2
    """Minibatches of a pass: updates, each on an equal share of the episodes."""
    initial_log_std: float = 0.0
    """Initial log standard deviation of the policy's actions."""
    is_greedy: bool = True
    """Whether the tested policy takes its most probable action instead of a sampled one."""
    meta_lr: float = 3e-3
    """Decays linearly to zero."""
    clip_norm: float = 1.0
    training: runs.Training = runs.Training(
        num_steps=800,
        tasks_per_step=64,
        steps_per_dispatch=10,
        evaluate_every=100,
        num_valid_tasks=500,
    )
    testing: runs.Testing = runs.Testing(num_tasks=10_000, tasks_at_once=100)


def build(options: Options) -> runs.Experiment:
    """Build the experiment from its options."""
    runs.check_positive(meta_lr=options.meta_lr, clip_norm=options.clip_norm)
    if options.reward == "dense":
        goal_radius = 0.01 if options.ends_at_goal else 0.0
        navigation, sample = environments.point_navigation(num_steps=options.horizon, goal_radius=goal_radius)
    else:
        navigation, sample = environments.sparse_point_navigation(num_steps=options.horizon)
    navigation = environments.scaled_actions(navigation)
    memory = models.gru(options.width, max_span=options.max_span)
    policy = policies.actor_critic(memory, navigation, initial_log_std=options.initial_log_std)
    learner = rl.learners.rl2(policy)
    loss_fn = policy_gradients.ppo_loss(entropy_weight=options.entropy_weight)
    episode_fn = jmeta.episode(learner, loss_fn)

    num_updates = options.training.num_steps * options.num_epochs * options.num_minibatches
    meta_lr = optax.linear_schedule(options.meta_lr, 0.0, num_updates)
    acting = rl.acting.with_memory(
        navigation,
        policy,
        episode_fn,
        optax.chain(optax.clip_by_global_norm(options.clip_norm), optax.adam(meta_lr)),
        num_steps=options.num_rollouts * options.horizon,
        discount=options.discount,
        gae_lambda=options.gae_lambda,
        reward_scale=options.reward_scale,
        num_epochs=options.num_epochs,
        num_minibatches=options.num_minibatches,
        num_total_steps=options.training.num_steps,
        batching=options.training.batching,
        num_rollouts=options.num_rollouts,
        is_greedy=options.is_greedy,
    )
    return runs.Experiment(
        learner=learner,
        loss_fn=loss_fn,
        source=environments.source(
            sample,
            f"{options.reward} point navigation, {options.num_rollouts} rollouts of {options.horizon} steps",
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
