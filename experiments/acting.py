"""What methods that act have in common: from policy, episode and collection to a trained and judged method."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from configs import parts
from jmeta import Learner
from jmeta.domains.rl.policy_gradients import Collect
from jmeta.types import Aux, EpisodeFn, MetaTrainer, PyTree, RandomKey


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


def updates_per_step(method: parts.Method) -> int:
    """Of the parameters, in a meta-step."""
    match method:
        case parts.Rl2():
            return method.num_epochs * method.num_minibatches
        case parts.Varibad():
            return updates_per_step(method.acting)
        case parts.MamlRl():
            return method.num_epochs
    return 1


def collected_first(collect: Collect, on_collected: EpisodeFn) -> EpisodeFn:
    """An episode that collects by itself what it is judged on, as at the beginning of training."""

    def episode_fn(meta_params: PyTree, env_params: PyTree, key: RandomKey) -> tuple[jax.Array, Aux]:
        key_collect, key_episode = jax.random.split(key)
        task = collect(meta_params, env_params, key_collect)._replace(progress=jnp.zeros((), jnp.float32))
        return on_collected(meta_params, task, key_episode)

    return episode_fn
