"""From a recipe of a method that acts to its experiment: environment, policy, trainer, and how it is judged."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import optax

import jmeta
from configs import parts
from jmeta import Learner, environments, learners, losses, models, policies, policy_gradients, rollouts
from jmeta.collecting import collecting_trainer
from jmeta.environments import Environment
from jmeta.policies import Policy
from jmeta.policy_gradients import Collect, RollOut
from jmeta.trust_region import trust_region_trainer
from jmeta.types import Aux, EpisodeFn, LossFn, MetaTrainer, PyTree, RandomKey, SequenceModel

from .sources import Source


class World(NamedTuple):
    """Environments of one kind, and how long an episode in them is.

    Attributes:
      environment: its parameters are the task.
      sample: `key -> env_params`.
      num_steps: of an episode.
      num_rollouts: of an episode, if its rollouts are judged one by one, and else 0.
      name: in words.
    """

    environment: Environment
    sample: Any
    num_steps: int
    num_rollouts: int
    name: str


class Acting(NamedTuple):
    """A method that acts, ready to be trained and judged.

    Attributes:
      init: `key -> meta_params`.
      trainer: meta-steps on stacked parameters of environments.
      episode_fn: collects and is judged on what it collected, one task at a time; for looking at single tasks.
      learner: adapts and predicts.
      judge: an episode as it is judged at test.
      make_judge: the same with another number of inner steps; `None` if there are none.
      num_test_steps: inner steps of `judge`; `None` if there are none.
    """

    init: Callable[[RandomKey], PyTree]
    trainer: MetaTrainer
    episode_fn: EpisodeFn
    learner: Learner
    judge: EpisodeFn
    make_judge: Callable[[int], EpisodeFn] | None = None
    num_test_steps: int | None = None


def world(data: parts.Environments) -> World:
    """The environments of a recipe."""
    match data:
        case parts.Bandit(num_arms, num_pulls, kind):
            make = environments.bernoulli_bandit if kind == "bernoulli" else environments.gaussian_bandit
            environment, sample = make(num_arms)
            name = f"{kind} bandit, {num_arms} arms, {num_pulls} pulls"
            return World(environment, sample, num_pulls, 0, name)
        case parts.TabularMdp(num_rollouts, num_states, num_actions, horizon):
            environment, sample = environments.tabular_mdp(
                num_states=num_states, num_actions=num_actions, horizon=horizon
            )
            name = (
                f"tabular MDP, {num_states} states, {num_actions} actions, {num_rollouts} rollouts of {horizon} steps"
            )
            return World(environment, sample, num_rollouts * horizon, num_rollouts, name)
        case parts.Navigation(reward, num_rollouts):
            is_dense = reward == "dense"
            make = environments.point_navigation if is_dense else environments.sparse_point_navigation
            environment, sample = make()
            environment = environments.scaled_actions(environment)
            horizon = 100 if is_dense else 20
            name = f"{reward} point navigation, {num_rollouts} rollouts of {horizon} steps"
            return World(environment, sample, num_rollouts * horizon, num_rollouts, name)


def source_of(there: World, testing: parts.Testing, part: parts.Training) -> Source:
    """Tasks of environments; they have no data, so those of testing are others than those of training by their keys."""
    num_tasks = 1000 if testing.num_tasks is None else testing.num_tasks
    return Source(
        *[there.sample] * 3,
        name=there.name,
        protocol=f"{there.name}, {num_tasks} tasks",
        valid_protocol=f"{there.name}, {part.num_valid_tasks} tasks, of meta_valid",
        num_test_tasks=num_tasks,
        split_hash=None,
        train_ways=0,
        test_ways=0,
        test_steps=None,
    )


def build_acting(recipe: parts.Recipe, there: World, optimizer: optax.GradientTransformation) -> Acting:
    """The method of a recipe in its environments.

    Raises:
      ValueError: if its network does not fit it.
    """
    match recipe.method:
        case parts.Rl2() as method:
            return _rl2(method, recipe.model, there, optimizer, recipe.training.batching)
        case parts.MamlRl() as method:
            return _maml_rl(method, recipe.model, there, optimizer, recipe.training.batching)
    raise ValueError(f"{type(recipe.method).__name__} does not act in environments; choose Rl2 or MamlRl")


def updates_per_step(method: parts.Method) -> int:
    """Of the parameters, in a meta-step."""
    match method:
        case parts.Rl2():
            return method.num_epochs * method.num_minibatches
        case parts.MamlRl():
            return method.num_epochs
    return 1


def _rl2(
    method: parts.Rl2, network: parts.Network, there: World, optimizer: optax.GradientTransformation, batching: Any
) -> Acting:
    policy = policies.actor_critic(_memory(network), there.environment)
    run = rollouts.run_episode(there.environment, policy, num_steps=there.num_steps)
    collect = policy_gradients.collect_episode(
        run, discount=method.discount, gae_lambda=method.gae_lambda, reward_scale=method.reward_scale
    )
    weights = {"value_weight": method.value_weight, "entropy_weight": method.entropy_weight}
    is_ppo = method.loss == "ppo"
    loss_fn = policy_gradients.ppo_loss(clip=method.clip, **weights) if is_ppo else policy_gradients.a2c_loss(**weights)
    learner = learners.rl2(policy)
    on_collected = jmeta.episode(learner, loss_fn)
    judged = rollouts.run_episode(there.environment, policy, num_steps=there.num_steps, is_greedy=method.is_greedy)
    return Acting(
        rollouts.init_policy(there.environment, policy),
        _trainer(on_collected, collect, optimizer, method.num_epochs, method.num_minibatches, batching),
        _collected_first(collect, on_collected),
        learner,
        rollouts.return_episode(judged, num_rollouts=there.num_rollouts),
    )


def _memory(network: parts.Network) -> SequenceModel:
    match network:
        case parts.Recurrent(cell, width, max_span):
            return (models.gru if cell == "gru" else models.lstm)(width, max_span=max_span)
    raise ValueError(f"a policy that remembers needs a network with memory, such as Recurrent, not {network}")


def _trainer(
    on_collected: EpisodeFn,
    collect: Collect,
    optimizer: optax.GradientTransformation,
    num_epochs: int,
    num_minibatches: int,
    batching: Any,
) -> MetaTrainer:
    # the gradient of the mean, not the mean of gradients: tasks share one product a step
    mean_grad = jax.value_and_grad(jmeta.over_tasks(on_collected, _all_at_once(batching)), has_aux=True)
    return collecting_trainer(
        jmeta.meta_trainer(mean_grad, optimizer),
        collect,
        num_epochs=num_epochs,
        num_minibatches=num_minibatches,
        prepare=policy_gradients.with_normalized_advantages,
    )


def _all_at_once(batching: Any) -> Any:
    return "vmap" if batching == "auto" else batching


def _collected_first(collect: Collect, on_collected: EpisodeFn) -> EpisodeFn:
    def episode_fn(meta_params: PyTree, env_params: PyTree, key: RandomKey) -> tuple[jax.Array, Aux]:
        key_collect, key_episode = jax.random.split(key)
        return on_collected(meta_params, collect(meta_params, env_params, key_collect), key_episode)

    return episode_fn


def _maml_rl(
    method: parts.MamlRl, network: parts.Network, there: World, optimizer: optax.GradientTransformation, batching: Any
) -> Acting:
    if not isinstance(network, parts.Mlp):
        raise ValueError(f"a policy that adapts by gradient steps has no memory: its network is an Mlp, not {network}")
    (num_actions,) = there.environment.action_space(there.environment.default_params).shape
    model = models.mlp((*network.hidden, num_actions))
    policy = policies.memoryless(model, there.environment, initial_log_std=method.initial_log_std)
    roll_out = policy_gradients.roll_out(
        there.environment,
        policy,
        num_rollouts=method.num_rollouts,
        num_steps=method.horizon,
        discount=method.discount,
        gae_lambda=method.gae_lambda,
    )
    surrogate, inner = _surrogate(method), optax.sgd(_inner_lr(method))
    num_steps = method.num_steps
    collect = learners.collect_adaptation(policy, surrogate, inner, roll_out, num_steps=num_steps)
    outer_loss = (
        policy_gradients.ppo_loss(clip=method.clip, value_weight=0.0)
        if method.outer == "ppo"
        else policy_gradients.likelihood_ratio
    )
    on_collected = learners.maml_rl_episode(
        policy,
        surrogate,
        inner,
        outer_loss,
        num_steps=num_steps,
        kl_weight=method.kl_weight,
        exploration_weight=method.exploration_weight,
    )
    trainer = (
        _trainer_of_maml(on_collected, collect, optimizer, method.num_epochs, batching)
        if method.outer == "ppo"
        else _trust_region(on_collected, policy, surrogate, inner, collect, method, batching)
    )

    def make_judge(num_steps: int) -> EpisodeFn:
        return _after_adapting(policy, surrogate, inner, roll_out, method.num_rollouts, num_steps)

    test_steps = method.num_steps if method.num_test_steps is None else method.num_test_steps
    return Acting(
        rollouts.init_policy(there.environment, policy),
        trainer,
        _collected_first(collect, on_collected),
        learners.maml_rl(policy, surrogate, inner, num_steps=test_steps, roll_out=roll_out),
        make_judge(test_steps),
        make_judge,
        test_steps,
    )


def _surrogate(method: parts.MamlRl) -> LossFn:
    match method.surrogate:
        case "reinforce":
            return policy_gradients.reinforce
        case "likelihood_ratio":
            return policy_gradients.likelihood_ratio
        case "dice":
            return policy_gradients.dice(num_steps=method.horizon)


def _inner_lr(method: parts.MamlRl) -> Any:
    if method.later_inner_lr is None:
        return method.inner_lr
    return optax.piecewise_constant_schedule(method.inner_lr, {1: method.later_inner_lr / method.inner_lr})


def _trainer_of_maml(
    on_collected: EpisodeFn, collect: Collect, optimizer: optax.GradientTransformation, num_epochs: int, batching: Any
) -> MetaTrainer:
    mean_grad = jmeta.over_tasks(jax.value_and_grad(on_collected, has_aux=True), _all_at_once(batching))
    return collecting_trainer(jmeta.meta_trainer(mean_grad, optimizer), collect, num_epochs=num_epochs)


def _trust_region(
    on_collected: EpisodeFn,
    policy: Policy,
    surrogate: LossFn,
    inner: optax.GradientTransformation,
    collect: Collect,
    method: parts.MamlRl,
    batching: Any,
) -> MetaTrainer:
    learner = learners.maml_rl(policy, surrogate, inner, num_steps=method.num_steps)
    batching = _all_at_once(batching)

    def decide(meta_params: PyTree, tasks: PyTree, key: RandomKey) -> PyTree:
        """What the adapted policies would do at the steps of their queries."""

        def of_one(task: jmeta.Task) -> PyTree:
            adapted = learner.adapt(meta_params, task.support, key)
            return learner.predict(meta_params, adapted, task.query.x, None).distribution

        return jax.vmap(of_one)(tasks)

    def divergence(old: PyTree, new: PyTree, tasks: PyTree) -> jax.Array:
        return jax.vmap(losses.masked_mean)(old.kl(new), tasks.query).mean()

    mean_episode = jmeta.over_tasks(on_collected, batching)
    return collecting_trainer(
        trust_region_trainer(mean_episode, decide, divergence, max_divergence=method.max_divergence), collect
    )


def _after_adapting(
    policy: Policy,
    surrogate: LossFn,
    inner: optax.GradientTransformation,
    roll_out: RollOut,
    num_rollouts: int,
    num_steps: int,
) -> EpisodeFn:
    """The mean return of the policy after so many inner steps, over as many rollouts as an inner step has."""
    collect = learners.collect_adaptation(policy, surrogate, inner, roll_out, num_steps=num_steps)

    def judge(meta_params: PyTree, env_params: PyTree, key: RandomKey) -> tuple[jax.Array, Aux]:
        query = collect(meta_params, env_params, key).query
        return_ = query.y.reward.sum() / num_rollouts
        return -return_, {"return": return_}

    return judge
