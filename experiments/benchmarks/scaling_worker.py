"""One process of `scaling`: times meta-steps on its devices or its job's, or counts the bytes that they exchange.

    python -m experiments.benchmarks.scaling_worker time FOLDER PLAIN_TOTALS
    python -m experiments.benchmarks.scaling_worker count

With `time` it compiles all cases, writes `ready.json` to the folder, and then waits for files `turn_0`, `turn_1`, ...
Each makes it run all cases once and write the seconds to `done_0.json`, ...; `turn_end` ends it. It uses files because
processes started by `jmeta launch` have no input.
"""

import functools
import json
import pathlib
import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
import optax

import jmeta
from jmeta import estimators, learners, losses, models, sharding, tasks, training
from jmeta.domains import rl
from jmeta.domains.rl import environments, policies, policy_gradients, rollouts
from jmeta.domains.rl.on_policy import on_policy_trainer
from jmeta.runs import console, files, processes
from jmeta.types import MetaTrainer, PyTree

from .collectives import collectives

SECONDS_BETWEEN_LOOKS = 0.02
NUM_BLOCKS = 8
SUMS: dict[str, int | None] = {"one all-reduce": None, "fixed order": NUM_BLOCKS}
"""Ways of summing, and their `num_blocks`."""
PLAIN = "plain"
"""The way without `Sharing`."""


class Sizes(NamedTuple):
    """The sizes of a timed workload.

    Attributes:
      num_tasks: number of tasks in a meta-step of strong scaling.
      num_tasks_each: number of tasks on each device in weak scaling.
      steps: number of meta-steps in a dispatch.
    """

    num_tasks: int
    num_tasks_each: int
    steps: int

    def totals(self, *numbers: int) -> list[int]:
        """Return the numbers of tasks to time on these numbers of devices."""
        return list(dict.fromkeys([self.num_tasks, *(self.num_tasks_each * number for number in numbers)]))


TIMED = {"MAML, sinusoids": Sizes(32, 32, 50), "ProtoNet, images": Sizes(16, 8, 2)}


Trained = tuple[MetaTrainer, PyTree, Callable[[Any], Any]]
"""`(trainer, initial parameters, sampler of one task)`."""


def maml(widths: tuple[int, ...] = (40, 40, 1)) -> Trained:
    learner = learners.maml(models.mlp(list(widths)), losses.squared_error, optax.sgd(0.01), num_steps=1)
    grad_fn = jax.value_and_grad(jmeta.episode(learner, losses.squared_error), has_aux=True)
    return _trained(learner, tasks.sinusoid(num_shots=10, num_queries=10), grad_fn)


def protonet(size: int = 16, num_queries: int = 1, batching: str = "auto") -> Trained:
    """Build prototypical networks: conv4 with 64 filters, 5-way 1-shot, few small images, so that two cores suffice."""
    images = np.random.default_rng(0).random((20, 1 + num_queries, size, size, 1), np.float32)
    sample = tasks.few_shot(images, num_ways=5, num_shots=1, num_queries=num_queries)
    learner = learners.protonet(models.conv4(None), num_ways=5)
    grad_fn = jax.value_and_grad(jmeta.episode(learner, losses.cross_entropy), has_aux=True)
    return _trained(learner, sample, grad_fn, batching)


def evolution() -> Trained:
    learner = learners.maml(models.mlp([40, 40, 1]), losses.squared_error, optax.sgd(0.01), num_steps=1)
    episode_fn = jmeta.episode(learner, losses.squared_error)
    grad_fn = estimators.evolution_strategies(episode_fn, num_pairs=8, sigma=0.1)
    return _trained(learner, tasks.sinusoid(num_shots=10, num_queries=10), grad_fn)


def rl2() -> Trained:
    """Build RL² by PPO, with two epochs of two minibatches."""
    bandit, sample = environments.bernoulli_bandit(5)
    policy = policies.actor_critic(models.gru(64), bandit)
    run = rollouts.run_episode(bandit, policy, num_steps=20)
    episode_fn = jmeta.episode(rl.learners.rl2(policy), policy_gradients.ppo_loss(entropy_weight=0.01))
    mean_grad: Any = jax.value_and_grad(jmeta.over_tasks(episode_fn, "vmap"), has_aux=True)
    trainer = on_policy_trainer(
        jmeta.meta_trainer(mean_grad, optax.adam(1e-3)),
        policy_gradients.collect_episode(run, discount=0.99, gae_lambda=0.3),
        num_epochs=2,
        num_minibatches=2,
        prepare=policy_gradients.with_normalized_advantages,
    )
    return trainer, rollouts.init_policy(bandit, policy)(jax.random.key(0)), sample


def _trained(learner: Any, sample: Any, grad_fn: Any, batching: str = "auto") -> Trained:
    mean_grad: Any = jmeta.over_tasks(grad_fn, batching)
    first = jax.jit(learner.init)(jax.random.key(0), sample(jax.random.key(1)))
    return jmeta.meta_trainer(mean_grad, optax.adam(1e-3)), first, sample


BY_NAME = {"MAML, sinusoids": maml, "ProtoNet, images": protonet}
NUM_TASKS_COUNTED = 16
UPDATES = {"RL²": 4}
"""Number of gradients in a meta-step, where there are several."""
COUNTED: dict[str, tuple[Callable[..., Trained], dict[str, int]]] = {
    "MAML": (maml, {"tasks": 8}),
    "ProtoNet, conv4": (protonet, {"tasks": 8}),
    "evolution strategies": (evolution, {"tasks": 8}),
    "RL²": (rl2, {"tasks": 8}),
    "MAML, wide": (functools.partial(maml, widths=(256, 512, 1)), {"tasks": 8}),
    "MAML, wide, divided": (functools.partial(maml, widths=(256, 512, 1)), {"tasks": 4, "model": 2}),
}
"""The trained method and the mesh, by name."""
FULL_SIZE, FULL_QUERIES, FULL_TASKS = 28, 15, 4
"""Image size, queries of a class, and tasks of the step of prototypical networks whose FLOP are counted."""


class Placed(NamedTuple):
    """A trainer, and its arguments placed on the devices.

    Attributes:
      trainer: a `MetaTrainer`.
      state, sample, key: arguments of the function that `training.sampled_steps` returns.
    """

    trainer: MetaTrainer
    state: Any
    sample: Any
    key: Any


def placed(trained: Trained, sharing: sharding.Sharing | None, num_tasks: int) -> Placed:
    """Place a trainer's arguments on the devices that share its tasks."""
    trainer, first, sample = trained
    if sharing is None:
        return Placed(trainer, trainer.init(first), tasks.stacked(sample, num_tasks), jax.random.key(2))
    trainer = sharing.trainer(trainer)
    state = sharing.place(trainer.init(first))
    return Placed(trainer, state, *sharing.replicate((sharing.stacked(sample, num_tasks), jax.random.key(2))))


def counted() -> dict[str, Any]:
    """Count the bytes exchanged in a meta-step of each method, with each way of summing, on eight devices."""
    found = []
    for method, (make, axes) in COUNTED.items():
        mesh = sharding.make_mesh(axes)
        for way, num_blocks in SUMS.items():
            each = placed(make(), sharding.Sharing(mesh, num_blocks), NUM_TASKS_COUNTED)
            size = lambda tree: sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))  # noqa: E731
            divided = [leaf for leaf in jax.tree.leaves(each.state.meta_params) if not leaf.is_fully_replicated]
            exchanged = collectives(_compiled_update(each).as_text())
            found.append(
                {
                    "method": method,
                    "way": way,
                    "mesh": axes,
                    "gradient_bytes": size(each.state.meta_params),
                    "divided_bytes": size(divided),
                    "updates": UPDATES.get(method, 1),
                    "collectives": [one._asdict() for one in exchanged],
                }
            )
    return {"counted": found, "num_tasks_counted": NUM_TASKS_COUNTED, "full_size": _full_size()}


def _full_size() -> dict[str, Any]:
    """Count the FLOP of a larger step of prototypical networks, all tasks at once, since a loop's body counts once."""
    each = placed(protonet(FULL_SIZE, FULL_QUERIES, "vmap"), None, FULL_TASKS)
    analysis = _compiled_update(each).cost_analysis()
    return {
        "name": f"ProtoNet, conv4, 5-way 1-shot, {5 * FULL_QUERIES} queries, {FULL_SIZE}x{FULL_SIZE} pixels",
        "num_tasks": FULL_TASKS,
        "flops": analysis["flops"],
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(each.state.meta_params)),
    }


def _compiled_update(each: Placed) -> Any:
    def step(state: Any, sample: Any, key: Any) -> Any:
        return each.trainer.update(state, sample(key), key)

    return jax.jit(step).lower(each.state, each.sample, each.key).compile()


def cases(num_devices: int, plain_totals: list[int]) -> list[tuple[str, str, int]]:
    """Return `(workload, way, tasks)` of all cases that a job with this number of devices times.

    Args:
      num_devices: number of devices of the job.
      plain_totals: numbers of devices whose tasks the plain trainer is also timed on.
    """
    found = []
    for name, sizes in TIMED.items():
        found += [(name, way, total) for way in SUMS for total in sizes.totals(num_devices)]
        found += [(name, PLAIN, total) for total in (sizes.totals(*plain_totals) if plain_totals else [])]
    return found


class _Runner:
    """A case, compiled: each call is one dispatch."""

    def __init__(self, name: str, way: str, num_tasks: int) -> None:
        mesh = sharding.make_mesh({"tasks": jax.device_count()})
        each = placed(BY_NAME[name](), None if way == PLAIN else sharding.Sharing(mesh, SUMS[way]), num_tasks)
        self._steps = TIMED[name].steps
        self._run = training.sampled_steps(each.trainer, num_steps=self._steps)
        self._state, self._sample, self._key = each.state, each.sample, each.key
        self()  # compiles

    def __call__(self) -> float:
        """Run one dispatch and return the seconds of a meta-step."""
        start = time.perf_counter()
        self._state, _ = jax.block_until_ready(self._run(self._state, self._sample, self._key))
        return (time.perf_counter() - start) / self._steps


def timed(folder: pathlib.Path, plain_totals: list[int]) -> None:
    """Compile all cases, and run them at each turn."""
    names = cases(jax.device_count(), plain_totals)
    runners = [_Runner(*case) for case in names]
    facts = [{"workload": name, "way": way, "tasks": num_tasks} for name, way, num_tasks in names]
    _put(folder / "ready.json", facts)
    turn = 0
    while not (folder / "turn_end").exists():
        if (folder / f"turn_{turn}").exists():
            _put(folder / f"done_{turn}.json", [runner() for runner in runners])
            turn += 1
        time.sleep(SECONDS_BETWEEN_LOOKS)


def _put(path: pathlib.Path, value: Any) -> None:
    if processes.is_main():
        files.replace_text(path, json.dumps(value))


def main(arguments: list[str]) -> int:
    """Run the command `count`, or `time FOLDER [NUMBER...]`."""
    console.use_compilation_cache()  # many programs; their compilation is not measured
    processes.join(detect=False)
    what, *rest = arguments
    if what == "count":
        print(json.dumps(counted()))
    else:
        timed(pathlib.Path(rest[0]), [int(each) for each in rest[1:]])
    return 0


if __name__ == "__main__":
    sys.exit(processes.run(main, sys.argv[1:]))
