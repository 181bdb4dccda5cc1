"""Methods that adapt by policy gradients: from a recipe's `MamlRl` to policy, trainer and judge."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import optax

import jmeta
from configs import parts
from jmeta import Learner, losses, models
from jmeta.domains import rl
from jmeta.domains.rl import policies, policy_gradients, rollouts
from jmeta.domains.rl.on_policy import on_policy_trainer
from jmeta.domains.rl.policies import Policy
from jmeta.domains.rl.policy_gradients import Collect, RollOut
from jmeta.domains.rl.trust_region import trust_region_trainer
from jmeta.episodes import count_tasks
from jmeta.types import Aux, EpisodeFn, LossFn, MetaTrainer, PyTree, RandomKey
from jmeta.working_set import chunk_size

from .acting import Acting, collected_first
from .devices import Sharing
from .worlds import World


class Adapting(NamedTuple):
    """What acts, and how an inner step changes it.

    Attributes:
      policy: without memory.
      surrogate: what an inner step descends.
      optimizer: by which.
      roll_out: what an inner step learns from.
    """

    policy: Policy
    surrogate: LossFn
    optimizer: optax.GradientTransformation
    roll_out: RollOut


def maml_rl(
    recipe: parts.Recipe,
    method: parts.MamlRl,
    there: World,
    optimizer: optax.GradientTransformation,
    sharing: Sharing | None,
) -> Acting:
    """A policy without memory to start from, its inner steps, and how the start is improved."""
    adapting = _adapting(recipe.model, method, there)
    policy, surrogate, inner, roll_out = adapting
    collect = rl.learners.collect_adaptation(policy, surrogate, inner, roll_out, num_steps=method.num_steps)
    by_ppo = method.outer == "ppo"
    if sharing is not None and not by_ppo:
        raise ValueError(
            "a trust region is computed on one device, and here devices share the tasks; take --method.outer ppo, or "
            "one process without --mesh and training.num-blocks"
        )
    learner = rl.learners.maml_rl(
        policy,
        surrogate,
        inner,
        num_steps=method.num_steps,
        kl_weight=method.kl_weight,
        exploration_weight=method.exploration_weight,
    )
    loss_fn = (
        policy_gradients.ppo_loss(clip=method.clip, value_weight=0.0) if by_ppo else policy_gradients.likelihood_ratio
    )
    on_collected = jmeta.episode(learner, loss_fn)
    batching = recipe.training.batching
    trainer = (
        _trainer(on_collected, collect, optimizer, method.num_epochs, batching, sharing)
        if by_ppo
        else _trust_region(on_collected, learner, collect, method.max_divergence, batching)
    )

    def make_judge(num_steps: int) -> EpisodeFn:
        return _after_adapting(adapting, method.num_rollouts, num_steps)

    test_steps = method.num_steps if method.num_test_steps is None else method.num_test_steps
    return Acting(
        rollouts.init_policy(there.environment, policy),
        trainer,
        collected_first(collect, on_collected),
        rl.learners.maml_rl(policy, surrogate, inner, num_steps=test_steps, roll_out=roll_out),
        make_judge(test_steps),
        make_judge,
        test_steps,
    )


def _adapting(network: parts.Network, method: parts.MamlRl, there: World) -> Adapting:
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
    return Adapting(policy, _surrogate(method), optax.sgd(_inner_lr(method)), roll_out)


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


def _trainer(
    on_collected: EpisodeFn,
    collect: Collect,
    optimizer: optax.GradientTransformation,
    num_epochs: int,
    batching: Any,
    sharing: Sharing | None,
) -> MetaTrainer:
    mean_grad = jmeta.over_tasks(jax.value_and_grad(on_collected, has_aux=True), batching)
    mesh, num_blocks = (None, None) if sharing is None else sharing
    mean_grad = mean_grad if sharing is None else sharing.over(mean_grad)
    return on_policy_trainer(
        jmeta.meta_trainer(mean_grad, optimizer), collect, num_epochs=num_epochs, mesh=mesh, num_blocks=num_blocks
    )


def _trust_region(
    on_collected: EpisodeFn, learner: Learner, collect: Collect, max_divergence: float, batching: Any
) -> MetaTrainer:
    def decide(meta_params: PyTree, tasks: PyTree, key: RandomKey) -> PyTree:
        """What the adapted policies would do at the steps of their queries."""

        def of_one(task: jmeta.Task) -> PyTree:
            adapted = learner.adapt(meta_params, task.support, key)
            return learner.predict(meta_params, adapted, task.query.x, None).distribution

        return _of_each(of_one, tasks, batching)

    def divergence(old: PyTree, new: PyTree, tasks: PyTree) -> jax.Array:
        return jax.vmap(losses.masked_mean)(old.kl(new), tasks.query).mean()

    mean_episode = jmeta.over_tasks(on_collected, batching)
    return on_policy_trainer(
        trust_region_trainer(mean_episode, decide, divergence, max_divergence=max_divergence), collect
    )


def _of_each(fn: Callable[[jmeta.Task], PyTree], tasks: jmeta.Task, batching: Any) -> PyTree:
    """Results of all tasks, stacked; as many at once as `over_tasks` takes."""
    num_tasks = count_tasks(tasks)
    at_once = chunk_size(batching, fn, (tasks,), num_tasks)
    return jax.vmap(fn)(tasks) if at_once == num_tasks else jax.lax.map(fn, tasks, batch_size=at_once)


def _after_adapting(adapting: Adapting, num_rollouts: int, num_steps: int) -> EpisodeFn:
    """The mean return of the policy after so many inner steps, over as many rollouts as an inner step has."""
    policy, surrogate, inner, roll_out = adapting
    collect = rl.learners.collect_adaptation(policy, surrogate, inner, roll_out, num_steps=num_steps)

    def judge(meta_params: PyTree, env_params: PyTree, key: RandomKey) -> tuple[jax.Array, Aux]:
        query = collect(meta_params, env_params, key).query
        return_ = query.y.reward.sum() / num_rollouts
        return -return_, {"return": return_}

    return judge
