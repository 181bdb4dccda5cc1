"""RL² on a robot that has to find out where to go and how its body is damaged."""

from dataclasses import dataclass

import optax

import jmeta
from jmeta import models, runs
from jmeta.domains import rl
from jmeta.domains.rl import policies, policy_gradients
from jmeta.domains.rl.environments.robots.splits import NUM_STEPS, RobotName, TestedOn, environment_and_source


@dataclass(frozen=True)
class Options:
    """RL² on the crawler: three rollouts to find out which way to go, with a body that may be damaged.

    Paper:    Duan et al., "RL²", 2016, arXiv:1611.02779; the robot is this project's own.
    Command:  jmeta train robot_rl2
    Time:     about 5 minutes on one CPU core.
    Expected: returns of 16.5, 18.7 and 18.9 in the three rollouts with bodies unlike those of training, where a policy
              that does not adapt has 0; and of 91, 106 and 104 with bodies from the ranges of training (`--tested-on
              trained` of `jmeta evaluate`).
    """

    robot: RobotName = "crawler"
    num_rollouts: int = 3
    """Rollouts of an episode."""
    tested_on: TestedOn = "held_out"
    """Ranges of the meta_test bodies: `held_out`, outside those of training, or `trained`, the same."""
    width: int = 64
    max_span: int | None = None
    """Steps that the longest-lasting units of a new memory remember; a few if not given."""
    discount: float = 0.98
    gae_lambda: float = 0.95
    """λ of generalised advantages: 1 uses the rewards alone, 0 the critic alone."""
    reward_scale: float = 0.2
    """Factor of the rewards that the critic sees; choose it so that values are near 1."""
    entropy_weight: float = 0.0
    num_epochs: int = 4
    """Passes over the collected episodes in each meta-step."""
    num_minibatches: int = 2
    """Minibatches of a pass: updates, each on an equal share of the episodes."""
    initial_log_std: float = -0.5
    """Initial log standard deviation of the policy's actions."""
    is_greedy: bool = True
    """Whether the tested policy takes its most probable action instead of a sampled one."""
    meta_lr: float = 1e-3
    """Decays linearly to zero."""
    clip_norm: float = 0.5
    training: runs.Training = runs.Training(
        num_steps=1000,
        tasks_per_step=100,
        steps_per_dispatch=10,
        evaluate_every=100,
        num_valid_tasks=400,
    )
    testing: runs.Testing = runs.Testing(num_tasks=1000, tasks_at_once=100)


def build(options: Options) -> runs.Experiment:
    """Build the experiment from its options."""
    runs.check_positive(meta_lr=options.meta_lr, clip_norm=options.clip_norm)
    robot, source = environment_and_source(
        options.robot, num_rollouts=options.num_rollouts, tested_on=options.tested_on
    )
    memory = models.gru(options.width, max_span=options.max_span)
    policy = policies.actor_critic(memory, robot, initial_log_std=options.initial_log_std)
    learner = rl.learners.rl2(policy)
    loss_fn = policy_gradients.ppo_loss(entropy_weight=options.entropy_weight)
    episode_fn = jmeta.episode(learner, loss_fn)

    num_updates = options.training.num_steps * options.num_epochs * options.num_minibatches
    meta_lr = optax.linear_schedule(options.meta_lr, 0.0, num_updates)
    acting = rl.acting.with_memory(
        robot,
        policy,
        episode_fn,
        optax.chain(optax.clip_by_global_norm(options.clip_norm), optax.adam(meta_lr)),
        num_steps=options.num_rollouts * NUM_STEPS,
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
        source=source,
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
