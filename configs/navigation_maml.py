"""MAML with policy gradients on point navigation, the paper's first experiment of reinforcement learning."""

from dataclasses import dataclass
from typing import Literal

import optax

from jmeta import models, runs
from jmeta.domains import rl
from jmeta.domains.rl import environments, policies, policy_gradients


@dataclass(frozen=True)
class Options:
    """MAML with policy gradients on dense point navigation.

    Paper:    Finn, Abbeel, Levine, "Model-Agnostic Meta-Learning", 2017, arXiv:1703.03400, section 5.3.
    Command:  jmeta train navigation_maml
    Time:     about 10 minutes on 2 CPU cores.
    Expected: mean return of -39.0 and -12.7 after 0 and 1 gradient steps (the paper: -40.4 and -11.7). At the second
              step a few tasks diverge and dominate the mean (the paper: -3.3); half of the tasks are above -6.8.

    The inner loop is REINFORCE with a learning rate of 0.1, and 0.05 from the second step on; the outer loop is TRPO;
    the baseline is linear in features; 20 rollouts a gradient, 20 tasks. The model with the best return after one step,
    as in training, is kept.
    """

    horizon: int = 100
    """Largest number of steps of a rollout."""
    num_rollouts: int = 20
    """Rollouts of each inner step, and of the adapted policy."""
    hidden: tuple[int, ...] = (100, 100)
    num_steps: int = 1
    """Inner steps in training."""
    num_test_steps: int | None = None
    """Inner steps at test; as many as in training if not given."""
    inner_lr: float = 0.1
    later_inner_lr: float | None = 0.05
    """Learning rate of the inner steps after the first; `inner_lr` if not given."""
    surrogate: Literal["reinforce", "likelihood_ratio", "dice"] = "reinforce"
    """The loss that an inner step descends."""
    discount: float = 0.99
    gae_lambda: float = 1.0
    """λ of generalised advantages: 1 uses the rewards alone, 0 the baseline alone."""
    initial_log_std: float = 0.0
    """Initial log standard deviation of the policy's actions."""
    outer: Literal["trpo", "ppo"] = "trpo"
    """Optimizer of the initial policy."""
    max_divergence: float = 0.01
    """Bound on the mean KL divergence of a meta-step, for TRPO."""
    clip: float = 0.3
    """Clipping range of the probability ratio, for PPO."""
    num_epochs: int = 5
    """Updates on the same rollouts in a meta-step, for PPO."""
    meta_lr: float = 1e-3
    """Learning rate of the meta-optimizer Adam, for PPO."""
    kl_weight: float = 0.0
    """Weight of ProMP's penalty: the KL divergence from the policies that collected the rollouts."""
    exploration_weight: float = 0.0
    """Weight of E-MAML's exploration term; 1 gives the meta-gradient of the expected return."""
    training: runs.Training = runs.Training(
        num_steps=500, tasks_per_step=20, steps_per_dispatch=10, evaluate_every=50, num_valid_tasks=100
    )
    testing: runs.Testing = runs.Testing(num_tasks=1000, tasks_at_once=20)


def build(options: Options) -> runs.Experiment:
    """Build the experiment from its options."""
    runs.check_positive(inner_lr=options.inner_lr, later_inner_lr=options.later_inner_lr, meta_lr=options.meta_lr)
    navigation, sample = environments.point_navigation(num_steps=options.horizon)
    navigation = environments.scaled_actions(navigation)
    (num_actions,) = navigation.action_space(navigation.default_params).shape
    policy = policies.memoryless(
        models.mlp((*options.hidden, num_actions)), navigation, initial_log_std=options.initial_log_std
    )
    surrogate = {
        "reinforce": policy_gradients.reinforce,
        "likelihood_ratio": policy_gradients.likelihood_ratio,
        "dice": policy_gradients.dice(num_steps=options.horizon),
    }[options.surrogate]
    inner_lr = options.inner_lr
    if options.later_inner_lr is not None:
        inner_lr = optax.piecewise_constant_schedule(inner_lr, {1: options.later_inner_lr / inner_lr})
    descent = optax.sgd(inner_lr)
    inner = rl.acting.adapting(
        navigation,
        policy,
        surrogate,
        descent,
        num_rollouts=options.num_rollouts,
        horizon=options.horizon,
        discount=options.discount,
        gae_lambda=options.gae_lambda,
    )

    shared = {
        "num_steps": options.num_steps,
        "kl_weight": options.kl_weight,
        "exploration_weight": options.exploration_weight,
        "batching": options.training.batching,
    }
    if options.outer == "trpo":
        acting = rl.acting.maml_with_trpo(inner, max_divergence=options.max_divergence, **shared)
    else:
        meta_optimizer = optax.adam(options.meta_lr)
        acting = rl.acting.maml_with_ppo(
            inner, meta_optimizer, clip=options.clip, num_epochs=options.num_epochs, **shared
        )
    return runs.Experiment(
        learner=rl.learners.maml_rl(policy, surrogate, descent, num_steps=options.num_steps, roll_out=inner.roll_out),
        loss_fn=policy_gradients.likelihood_ratio,
        source=environments.source(sample, f"dense point navigation, 1 rollouts of {options.horizon} steps"),
        metric="return",
        init=acting.init,
        episode_fn=acting.episode_fn,
        meta_trainer=acting.trainer,
        with_num_steps=lambda num_steps: rl.acting.returns_after(inner, num_steps),
        num_test_steps=options.num_steps if options.num_test_steps is None else options.num_test_steps,
        training_names={"loss": "objective"},
        training=options.training,
        testing=options.testing,
    )


if __name__ == "__main__":
    runs.main(build, Options)
