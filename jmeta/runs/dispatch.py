"""Many meta-steps in one call: for one seed or several, on tasks drawn on the devices or supplied by the host."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from .. import tasks, training
from ..sharding import Sharing
from ..tasks import HostTasks
from ..training import MetaState
from ..types import Aux, PyTree, RandomKey
from .devices import own_tasks
from .experiment import Experiment
from .state import RunState

__all__ = ["Dispatch", "dispatcher"]

Dispatch = Callable[[Sequence[RunState]], list[tuple[RunState, Aux]]]
"""`states -> [(state, aux), ...]`: one dispatch of `steps_per_dispatch` meta-steps of each seed."""


def dispatcher(experiment: Experiment, starts: Sequence[RunState]) -> Dispatch:
    """Build the dispatch of one seed, which donates the state, or of several seeds in one `vmap`, which does not.

    A seed's result depends on the number of seeds and its place among them, up to rounding, but not on the states of
    the others: they may be at other steps, and a finished one may be dispatched and its result ignored.

    Raises:
      ValueError: for several seeds on tasks from the host: every seed has its own stream of them.
    """
    options, stream, num_total_steps = experiment.training, experiment.meta_train, experiment.num_total_steps
    if isinstance(stream, HostTasks):
        if len(starts) > 1:
            raise ValueError(f"{len(starts)} seeds together on tasks from the host; train them one after another")
        return _fed_dispatcher(experiment, stream, starts[0])
    if experiment.sharing is None:
        sample = tasks.stacked(stream, options.tasks_per_step)
    else:
        sample = experiment.sharing.replicate(experiment.sharing.stacked(stream, options.tasks_per_step))
    num_steps = options.steps_per_dispatch
    run = training.sampled_steps(experiment.trainer, num_steps=num_steps, num_total_steps=num_total_steps)

    def one(states: Sequence[RunState]) -> list[tuple[RunState, Aux]]:
        (state,) = states
        meta, aux = run(state.meta, sample, state.key)
        return [(state._replace(meta=meta), aux)]

    @jax.jit  # stacked and unstacked inside, where it costs next to nothing
    def run_together(metas: list[MetaState], sample: training.SampleTasks, keys: list[RandomKey]) -> list[Any]:
        stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *metas)
        results = jax.vmap(run, in_axes=(0, None, 0))(stacked, sample, jnp.stack(keys))
        return [jax.tree.map(lambda leaf, i=i: leaf[i], results) for i in range(len(keys))]

    def several(states: Sequence[RunState]) -> list[tuple[RunState, Aux]]:
        results = run_together([state.meta for state in states], sample, [state.key for state in states])
        return [(state._replace(meta=meta), aux) for state, (meta, aux) in zip(states, results, strict=True)]

    return one if len(starts) == 1 else several


def _fed_dispatcher(experiment: Experiment, stream: HostTasks, start: RunState) -> Dispatch:
    options = experiment.training
    run_fed = training.fed_steps(experiment.trainer, num_total_steps=experiment.num_total_steps)
    batches = iter(stream.open(own_tasks(experiment.sharing, options.tasks_per_step)))
    batches.set_state(start.sampler)

    def from_host(states: Sequence[RunState]) -> list[tuple[RunState, Aux]]:
        (state,) = states
        steps = [next(batches) for _ in range(options.steps_per_dispatch)]
        fed = jax.tree.map(lambda *leaves: np.stack(leaves), *steps)
        if experiment.sharing is not None:
            fed = _of_all_processes(fed, experiment.sharing, options.tasks_per_step)
        meta, aux = run_fed(state.meta, fed, state.key)
        return [(state._replace(meta=meta, sampler=batches.get_state()), aux)]

    return from_host


def _of_all_processes(fed: PyTree, sharing: Sharing, num_tasks: int) -> PyTree:
    """Turn the tasks that each process drew for itself into arrays of the whole job; nothing is sent."""
    first = own_tasks(sharing, num_tasks).start

    def of_leaf(own: np.ndarray) -> jax.Array:
        shape = (own.shape[0], num_tasks, *own.shape[2:])

        def own_slice(index: Any) -> np.ndarray:
            start, stop, _ = index[1].indices(num_tasks)
            return own[:, start - first : stop - first]

        by_task = NamedSharding(sharing.mesh, P(None, sharing.mesh.axis_names))
        return jax.make_array_from_callback(shape, by_task, own_slice)

    return jax.tree.map(of_leaf, fed)
