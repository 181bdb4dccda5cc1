"""Environments as the tasks of an experiment: samplers of their parameters, with the words of the protocol."""

from jax.tree_util import Partial

from jmeta.tasks import Source

__all__ = ["source"]


def source(sample: Partial, name: str, *, sample_test: Partial | None = None, tested_on: str = "") -> Source:
    """Build the source of an experiment whose tasks are environments.

    There are no data to split: tasks of meta_valid and meta_test differ from training tasks by their keys.

    Args:
      sample: `key -> env_params`.
      name: the environments in words, with the length of an episode, such as `"bernoulli bandit, 5 arms, 10 pulls"`.
      sample_test: the same for tasks of meta_test, if they are drawn differently.
      tested_on: the difference in words.

    Example:
      >>> from jmeta.domains.rl import environments
      >>> _, sample = environments.bernoulli_bandit(5)
      >>> source(sample, "bernoulli bandit, 5 arms, 10 pulls").describe(1000)
      'bernoulli bandit, 5 arms, 10 pulls, 1000 tasks'
    """
    other = f", {tested_on}" if tested_on else ""
    return Source(
        meta_train=lambda: sample,
        meta_valid=sample,
        meta_test=sample if sample_test is None else sample_test,
        name=name,
        describe=lambda num_tasks: f"{name}{other}, {num_tasks} tasks",
        describe_valid=lambda num_tasks: f"{name}, {num_tasks} tasks",
    )
