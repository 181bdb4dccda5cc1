"""ProMP on point navigation."""

from dataclasses import dataclass
from typing import Literal

import optax

from jmeta import models, runs
from jmeta.domains import rl
from jmeta.domains.rl import environments, policies, policy_gradients


@dataclass(frozen=True)
class Options:
    """ProMP on dense point navigation: `navigation_maml` with a low-variance inner surrogate and outer PPO.

    Paper:    Rothfuss, Lee, Clavera, Asfour, Abbeel, "ProMP", 2019, arXiv:1810.06784; settings of its appendix.
    Command:  jmeta train navigation_promp
    Time:     about 5 minutes on one CPU core.
    Expected: mean returns of -39.5, -12.2, -7.7 and -6.7 after 0 to 3 gradient steps; with two inner steps in training,
              at rates of 0.3 and 0.1, in place of one, -38.9, -12.4, -4.1 and -4.0 (the command is in RESULTS.md).
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
    later_inner_lr: float | None = 0.02
    """Learning rate of the inner steps after the first; `inner_lr` if not given."""
    surrogate: Literal["reinforce", "likelihood_ratio", "dice"] = "likelihood_ratio"
    """The loss that an inner step descends."""
    discount: float = 0.99
    gae_lambda: float = 1.0
    """λ of generalised advantages: 1 uses the rewards alone, 0 the baseline alone."""
    initial_log_std: float = 0.0
    """Initial log standard deviation of the policy's actions."""
    clip: float = 0.3
    """Clipping range of the probability ratio, for PPO."""
    num_epochs: int = 5
    """Updates on the same rollouts in a meta-step."""
    meta_lr: float = 1e-3
    """Halved every `halve_lr_every` meta-steps, if that is given."""
    halve_lr_every: int | None = None
    kl_weight: float = 5e-4
    """Weight of the penalty: the KL divergence from the policies that collected the rollouts."""
    training: runs.Training = runs.Training(
        num_steps=500, tasks_per_step=20, steps_per_dispatch=10, evaluate_every=50, num_valid_tasks=100
    )
    testing: runs.Testing = runs.Testing(num_tasks=1000, tasks_at_once=20)


def build(options: Options) -> runs.Experiment:
    """Build the experiment from its options."""
    runs.check_positive(
        inner_lr=options.inner_lr,
        later_inner_lr=options.later_inner_lr,
        meta_lr=options.meta_lr,
        halve_lr_every=options.halve_lr_every,
    )
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

    meta_lr = options.meta_lr
    if options.halve_lr_every is not None:
        num_updates = options.halve_lr_every * options.num_epochs
        meta_lr = optax.exponential_decay(meta_lr, num_updates, 0.5, staircase=True)
    acting = rl.acting.maml_with_ppo(
        inner,
        optax.adam(meta_lr),
        num_steps=options.num_steps,
        clip=options.clip,
        num_epochs=options.num_epochs,
        kl_weight=options.kl_weight,
        batching=options.training.batching,
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
