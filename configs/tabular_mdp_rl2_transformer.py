"""RL² with a causal transformer on random tabular Markov decision processes."""

from dataclasses import dataclass

import optax

import jmeta
from jmeta import models, runs
from jmeta.domains import rl
from jmeta.domains.rl import environments, policies, policy_gradients


@dataclass(frozen=True)
class Options:
    """RL² with one layer of attention over transitions: 10 states, 5 actions, 10 rollouts of 10 steps.

    Paper:    Duan et al., "RL²", 2016, arXiv:1611.02779, section 3.2.
    Command:  jmeta train tabular_mdp_rl2_transformer
    Time:     about 30 minutes on one CPU core; an hour for 25 rollouts and 2000 meta-steps.
    Expected: a total reward of 153.9 in 10 rollouts (the paper: 156.2), above PSRL (137.7 at best) and optimistic PSRL
              (142.1), below acting greedily on the posterior's means under the true prior (155.7) and UCRL2 (157.6). In
              25 rollouts 421 (the paper: 445), above PSRL (408) and below optimistic PSRL (425) and UCRL2 (453).

    Differs from the paper: attention in place of a GRU, over transitions; PPO in place of TRPO, and the critic is a
    head of the same network.
    """

    num_rollouts: int = 10
    """Rollouts of an episode."""
    num_states: int = 10
    num_actions: int = 5
    horizon: int = 10
    """Steps of a rollout."""
    observes_transitions: bool = True
    """Whether observations include the previous one, so that one layer of attention sees whole transitions."""
    width: int = 64
    num_layers: int = 1
    num_heads: int = 2
    discount: float = 0.99
    gae_lambda: float = 0.5
    """λ of generalised advantages: 1 uses the rewards alone, 0 the critic alone."""
    reward_scale: float = 0.05
    """Factor of the rewards that the critic sees; choose it so that values are near 1."""
    entropy_weight: float = 0.02
    """Decays linearly to zero."""
    num_epochs: int = 2
    """Passes over the collected episodes in each meta-step."""
    num_minibatches: int = 2
    """Minibatches of a pass: updates, each on an equal share of the episodes."""
    is_greedy: bool = True
    """Whether the tested policy takes its most probable action instead of a sampled one."""
    meta_lr: float = 1e-3
    """Decays linearly to zero."""
    clip_norm: float = 1.0
    training: runs.Training = runs.Training(
        num_steps=4000,
        tasks_per_step=256,
        steps_per_dispatch=20,
        evaluate_every=400,
        num_valid_tasks=2000,
    )
    testing: runs.Testing = runs.Testing(num_tasks=10_000, tasks_at_once=500)


def build(options: Options) -> runs.Experiment:
    """Build the experiment from its options."""
    runs.check_positive(meta_lr=options.meta_lr, clip_norm=options.clip_norm)
    mdp, sample = environments.tabular_mdp(
        num_states=options.num_states, num_actions=options.num_actions, horizon=options.horizon
    )
    if options.observes_transitions:
        mdp = environments.with_previous_observation(mdp)
    num_steps = options.num_rollouts * options.horizon
    name = (
        f"tabular MDP, {options.num_states} states, {options.num_actions} actions, {options.num_rollouts} rollouts of "
        f"{options.horizon} steps"
    )
    memory = models.causal_transformer(
        width=options.width,
        num_layers=options.num_layers,
        num_heads=options.num_heads,
        max_steps=num_steps,
    )
    policy = policies.actor_critic(memory, mdp)
    learner = rl.learners.rl2(policy)
    loss_fn = policy_gradients.ppo_loss()
    episode_fn = policy_gradients.with_fading_entropy(jmeta.episode(learner, loss_fn), options.entropy_weight)

    num_updates = options.training.num_steps * options.num_epochs * options.num_minibatches
    meta_lr = optax.linear_schedule(options.meta_lr, 0.0, num_updates)
    acting = rl.acting.with_memory(
        mdp,
        policy,
        episode_fn,
        optax.chain(optax.clip_by_global_norm(options.clip_norm), optax.adam(meta_lr)),
        num_steps=num_steps,
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
        source=environments.source(sample, name),
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
