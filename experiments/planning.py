"""Choose how a recipe's meta-steps run, within a memory budget: which exact adjoint, and how many tasks at once.

The choice rests on measured times, so it can come out otherwise another time, and with it the rounding of every sum. So
it is made once and kept in `plan.json` of the run's folder; a run that is resumed goes on as it was planned.
"""

import dataclasses
import json
import pathlib
import typing
from typing import Any

import jax

from configs import parts
from jmeta import planning, tasks, training

from . import files
from .build import Experiment, build
from .sources import HostTasks

FILE = "plan.json"


def ways_of(recipe: parts.Recipe, *, allow_bfloat16: bool = False) -> dict[str, parts.Recipe]:
    """The recipe in all ways that give the same meta-gradient up to rounding, by name.

    Args:
      recipe: as asked for.
      allow_bfloat16: whether rounding may be that of bfloat16 activations.

    Raises:
      ValueError: if bfloat16 is allowed and the network has no choice of it.
    """
    method, num_tasks = recipe.method, recipe.training.tasks_per_step
    chunks = [2**i for i in range(1, num_tasks.bit_length()) if num_tasks % 2**i == 0 and 2**i < num_tasks]
    in_words = {"auto": "as many tasks as caches hold", "vmap": "all tasks", "scan": "one task"}
    ways = {}
    for name in _adjoints(method):
        for batching in ("auto", "vmap", *chunks, "scan"):
            changed: dict[str, Any] = {"training": dataclasses.replace(recipe.training, batching=batching)}
            if name is not None:
                changed["method"] = dataclasses.replace(method, adjoint=name)  # pyright: ignore[reportArgumentType]
            words = in_words.get(str(batching), f"{batching} tasks") + " at once"
            way = dataclasses.replace(recipe, **changed)  # pyright: ignore[reportArgumentType]
            ways[words if name is None else f"{name}, {words}"] = way
    if allow_bfloat16:
        if not isinstance(recipe.model, parts.Conv4 | parts.Resnet12):
            raise ValueError(f"{type(recipe.model).__name__} has no bfloat16 to allow; only convolutional networks do")
        narrow = dataclasses.replace(recipe.model, dtype="bfloat16")
        ways |= {f"{name}, bfloat16": dataclasses.replace(way, model=narrow) for name, way in ways.items()}
    return ways


def _adjoints(method: parts.Method) -> list[str | None]:
    """The adjoints that are as exact as the method's; blocks of steps only where there are enough for two."""
    given, num_steps = getattr(method, "adjoint", None), getattr(method, "num_steps", 0)
    if given in (None, "first_order"):
        return [given]
    names = [name for name in typing.get_args(parts.AdjointName) if name != "first_order"]
    has_blocks = num_steps >= 4 and not isinstance(method, parts.MamlPlusPlus)  # a chain of loops of one step
    return [name for name in names if has_blocks or not name.endswith("_in_blocks")]


def planned(
    recipe: parts.Recipe, memory_gb: float, folder: pathlib.Path, *, allow_bfloat16: bool = False
) -> tuple[parts.Recipe, str]:
    """The recipe as it was or is now planned for this run's folder, and why.

    Args:
      recipe: as asked for; its adjoint is replaced by one that is as exact, and its batching.
      memory_gb: peak memory of a meta-step of one seed on one device, data included, in units of 10⁹ bytes. Judging
        on meta_valid takes gradients of no tasks and less memory, unless `testing.tasks_at_once` is large.
      folder: of the run.
      allow_bfloat16: whether activations of a lower precision are among the ways.

    Raises:
      ValueError: if nothing fits, or the folder's plan was made for another budget, or the method acts.
    """
    if isinstance(recipe.method, parts.Acting):
        raise ValueError(
            f"--memory-gb plans inner loops on examples, but {type(recipe.method).__name__} acts; take fewer tasks at "
            "once with --training.batching"
        )
    ways = ways_of(recipe, allow_bfloat16=allow_bfloat16)
    path = folder / FILE
    if path.exists():
        kept = _read_plan(path)
        if (kept["memory_gb"], kept["allow_bfloat16"]) != (memory_gb, allow_bfloat16) or kept["chosen"] not in ways:
            words = f"--memory-gb {kept['memory_gb']}{' --allow-bfloat16' if kept['allow_bfloat16'] else ''}"
            raise ValueError(f"{folder} was planned for {words}; repeat it, or choose another --run-dir")
        return ways[kept["chosen"]], f"{kept['chosen']}: as planned before"
    if any(folder.glob("seed_*")):
        raise ValueError(f"{folder} holds a run that was not planned; go on without --memory-gb, or choose a --run-dir")
    experiment = build(recipe)
    state, sample = _arguments(experiment)
    trainers = {name: build(way).trainer for name, way in ways.items()}
    steps = {name: _step(experiment, trainer) for name, trainer in trainers.items()}
    plan = planning.plan(steps, (state, sample, jax.random.key(0)), memory_bytes=memory_gb * 1e9, donate_argnums=0)
    folder.mkdir(parents=True, exist_ok=True)
    kept = {
        "memory_gb": memory_gb,
        "allow_bfloat16": allow_bfloat16,
        "chosen": plan.chosen,
        "trials": [trial._asdict() for trial in plan.trials],
    }
    files.replace_text(path, json.dumps(kept, indent=1) + "\n")
    return ways[plan.chosen], planning.describe(plan)


def _read_plan(path: pathlib.Path) -> dict[str, Any]:
    """What is kept of a plan, of the types that were written: a folder may come from someone else."""
    kept = files.read_json(path)
    types = {"memory_gb": float, "allow_bfloat16": bool, "chosen": str}
    if not all(isinstance(kept.get(name), kind) for name, kind in types.items()):
        raise ValueError(f"{path} is damaged (it is no plan); restore it, or move it away")
    return kept


def _arguments(experiment: Experiment) -> tuple[training.MetaState, Any]:
    """The first state, and the sampler with its data, or the tasks that the host brings."""
    stream = experiment.source.meta_train
    state = experiment.trainer.init(experiment.init(jax.random.key(0)))
    if isinstance(stream, HostTasks):
        return state, jax.tree.map(jax.numpy.asarray, next(iter(stream.tasks)))
    return state, tasks.stacked(stream, experiment.tasks_per_step)


def _step(experiment: Experiment, trainer: training.MetaTrainer) -> Any:
    """A meta-step, with the drawing of its tasks where they are drawn on the device."""
    total = experiment.num_total_steps

    def step(state: training.MetaState, sample: Any, key: Any) -> Any:
        drawn: Any = sample(key) if callable(sample) else sample
        if total is not None:
            drawn = drawn._replace(progress=jax.numpy.zeros(experiment.tasks_per_step))
        return trainer.update(state, drawn, key)

    return step
