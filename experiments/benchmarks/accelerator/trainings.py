"""The trainings of section `full_rows`: MAML, prototypical networks and RL², built from the library alone.

They differ from the papers in one thing: the learning rate of MAML's meta-optimizer decays linearly to zero, since the
final weights are evaluated and none are selected on meta_valid.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
import optax

import jmeta
from jmeta import evaluation, learners, losses, models, tasks
from jmeta.domains import rl
from jmeta.domains.images.datasets import ImageClasses, ImageSplits
from jmeta.domains.images.protocols import Protocol, finn2017, vinyals
from jmeta.domains.rl import environments, policies, policy_gradients, rollouts
from jmeta.domains.rl.on_policy import on_policy_trainer
from jmeta.evaluation import Evaluation
from jmeta.training import MetaState
from jmeta.types import MetaTrainer, PyTree, RandomKey

Judge = Callable[[PyTree, RandomKey], Evaluation]


class Training(NamedTuple):
    """One training.

    Attributes:
      name: name of its file.
      trainer: the `MetaTrainer`.
      init: `key -> meta_params`.
      sample_tasks: `key -> stacked tasks`.
      num_steps: number of meta-steps in all.
      steps_per_dispatch: number of meta-steps in one call.
      judges: evaluations of the trained parameters, each with its own protocol.
    """

    name: str
    trainer: MetaTrainer
    init: Callable[[RandomKey], PyTree]
    sample_tasks: Any
    num_steps: int
    steps_per_dispatch: int
    judges: tuple[Judge, ...]

    def start(self, key: RandomKey) -> MetaState:
        """Return the state before the first meta-step."""
        return self.trainer.init(jax.jit(self.init)(key))


def _maml(name: str, *, num_ways: int, num_steps: int, inner_lr: float, tasks_per_step: int, is_tiny: bool) -> Training:
    """Build MAML of Finn, Abbeel, Levine, 2017, arXiv:1703.03400, section 5.2, appendix A.1; one shot."""
    protocol, splits = _loaded(finn2017, is_tiny)
    samplers = protocol.samplers(splits, num_ways=num_ways, num_shots=1)
    model = models.conv4(num_ways, num_filters=8 if is_tiny else 64, pooling="strided", norm="batch")
    inner = optax.sgd(inner_lr)
    learner = learners.maml(model, losses.cross_entropy, inner, num_steps=num_steps)
    tested = learners.maml(
        model, losses.cross_entropy, inner, num_steps=protocol.num_inner_steps(num_ways=num_ways) or num_steps
    )
    total = 4 if is_tiny else 60_000
    grad_fn = jax.value_and_grad(jmeta.episode(learner, losses.cross_entropy), has_aux=True)
    optimizer = optax.chain(optax.clip_by_global_norm(10.0), optax.adam(optax.linear_schedule(1e-3, 0.0, total)))
    return Training(
        name,
        jmeta.meta_trainer(jmeta.over_tasks(grad_fn), optimizer),
        lambda key: learner.init(key, samplers.meta_train(jax.random.fold_in(key, 1))),
        tasks.stacked(samplers.meta_train, 2 if is_tiny else tasks_per_step),
        total,
        2 if is_tiny else 100,
        (_judge_images(tested, protocol, splits, num_ways, 1, is_tiny),),
    )


def _protonet(name: str, *, is_tiny: bool) -> Training:
    """Build the networks of Snell, Swersky, Zemel, 2017, arXiv:1703.05175, section 3.1, with group norm: inductive."""
    protocol, splits = _loaded(vinyals, is_tiny)
    cells = ((5, 1), (5, 5), (20, 1), (20, 5))
    sample = protocol.samplers(splits, num_ways=5, num_shots=1).meta_train

    def learner(num_ways: int) -> jmeta.Learner:
        return learners.protonet(models.conv4(None, norm="group"), num_ways=num_ways)

    trained, total = learner(protocol.train_ways or 5), 4 if is_tiny else 20_000
    grad_fn = jax.value_and_grad(jmeta.episode(trained, losses.cross_entropy), has_aux=True)
    return Training(
        name,
        jmeta.meta_trainer(
            jmeta.over_tasks(grad_fn), optax.adam(optax.exponential_decay(1e-3, 2000, 0.5, staircase=True))
        ),
        lambda key: trained.init(key, sample(jax.random.fold_in(key, 1))),
        tasks.stacked(sample, 1),
        total,
        2 if is_tiny else 100,
        tuple(_judge_images(learner(ways), protocol, splits, ways, shots, is_tiny) for ways, shots in cells),
    )


def _bandits(name: str, *, num_pulls: int, num_arms: int, is_tiny: bool) -> Training:
    """Build RL² of Duan et al., 2016, arXiv:1611.02779, table 1; PPO, and a GRU that begins with long memories."""
    num_pulls, total = (5, 2) if is_tiny else (num_pulls, 4000)
    bandit, sample = environments.bernoulli_bandit(num_arms)
    policy = policies.actor_critic(models.gru(8 if is_tiny else 256, max_span=num_pulls // 2), bandit)
    run = rollouts.run_episode(bandit, policy, num_steps=num_pulls)
    episode_fn = policy_gradients.with_fading_entropy(
        jmeta.episode(rl.learners.rl2(policy), policy_gradients.ppo_loss()), 0.05
    )
    mean_grad = jax.value_and_grad(jmeta.over_tasks(episode_fn, "vmap"), has_aux=True)
    num_epochs, num_minibatches = 2, 4
    rate = optax.linear_schedule(1e-3, 0.0, total * num_epochs * num_minibatches)
    trainer = on_policy_trainer(
        jmeta.meta_trainer(mean_grad, optax.chain(optax.clip_by_global_norm(1.0), optax.adam(rate))),
        policy_gradients.collect_episode(run, discount=0.99, gae_lambda=0.7, reward_scale=0.1),
        num_epochs=num_epochs,
        num_minibatches=num_minibatches,
        prepare=policy_gradients.with_normalized_advantages,
        num_total_steps=total,
    )
    greedy = rollouts.return_episode(rollouts.run_episode(bandit, policy, num_steps=num_pulls, is_greedy=True))
    num_tasks = 4 if is_tiny else 100_000

    def judge(meta_params: PyTree, key: RandomKey) -> Evaluation:
        protocol = f"bernoulli bandit, {num_arms} arms, {num_pulls} pulls, {num_tasks} tasks"
        at_once = min(num_tasks, 10_000)
        return evaluation.evaluate_episodes(
            greedy, meta_params, sample, key, protocol=protocol, num_tasks=num_tasks, tasks_at_once=at_once
        )

    init = rollouts.init_policy(bandit, policy)
    sample_tasks = tasks.stacked(sample, 8 if is_tiny else 1024)
    return Training(name, trainer, init, sample_tasks, total, 2 if is_tiny else 10, (judge,))


def _loaded(protocol: Protocol, is_tiny: bool) -> tuple[Protocol, ImageSplits]:
    """Return a protocol and its splits; in a test the images are noise, since tests may have no data."""
    if not is_tiny:
        return protocol, protocol.load(None)
    rng = np.random.default_rng(0)
    noise = ImageClasses.padded(
        rng.integers(0, 255, (20, 20, 28, 28, 1), np.uint8),
        tuple(f"noise/character{i:02d}" for i in range(20)),
        group_names=("noise",),
    )
    return dataclasses.replace(protocol, split_hash=None, name="noise"), ImageSplits(noise, noise, noise)


def _judge_images(
    learner: jmeta.Learner, protocol: Protocol, splits: ImageSplits, num_ways: int, num_shots: int, is_tiny: bool
) -> Judge:
    num_tasks = 4 if is_tiny else protocol.num_test_tasks
    sample = protocol.samplers(splits, num_ways=num_ways, num_shots=num_shots).meta_test
    named = protocol.describe(num_ways=num_ways, num_shots=num_shots, num_tasks=num_tasks)

    def judge(meta_params: PyTree, key: RandomKey) -> Evaluation:
        return evaluation.evaluate(
            learner,
            losses.cross_entropy,
            meta_params,
            sample,
            key,
            protocol=named,
            num_tasks=num_tasks,
            tasks_at_once=min(num_tasks, 50),
        )

    return judge


TRAININGS: dict[str, Callable[..., Training]] = {
    "maml 5w1s": functools.partial(_maml, num_ways=5, num_steps=1, inner_lr=0.4, tasks_per_step=32),
    "maml 20w1s": functools.partial(_maml, num_ways=20, num_steps=5, inner_lr=0.1, tasks_per_step=16),
    "protonet": _protonet,
    "bandits 100 50": functools.partial(_bandits, num_pulls=100, num_arms=50),
    "bandits 500 5": functools.partial(_bandits, num_pulls=500, num_arms=5),
}
"""Builders `(name, *, is_tiny) -> Training`, the most valuable first; each reads its data when it is called."""
