"""Adaptation of robots, from the kept rows: `python -m experiments.reproduce.robots`.

RL², MAML and a policy that does not adapt are evaluated on the same tasks, with bodies outside the ranges of training.
They are compared with policies trained from scratch on one such body each. The command writes `robots.json` to this
folder, which is a part of RESULTS.md, and the picture of the curves and a film of an episode to `docs`.
"""

import dataclasses
import json
import pathlib
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro

from jmeta import models
from jmeta.domains.rl import policies
from jmeta.domains.rl.environments.robots.splits import NUM_STEPS, ROBOTS, environment_and_source
from jmeta.evaluation import Estimate, estimate, paired_difference
from jmeta.runs import console, evaluate, files, loop
from jmeta.types import PyTree, RandomKey

from .. import robot_pictures
from ..robot_pictures import Curve
from . import acting_table, rows

RESULTS = acting_table.ROBOTS
DOCS = pathlib.Path(__file__).parents[2] / "docs"
REMEMBERS, DESCENDS, UNADAPTED, SCRATCH = "RL²", "MAML", "no adaptation", "PPO from scratch on the body itself"


@dataclasses.dataclass(frozen=True)
class Options:
    """Evaluate the kept policies of robots, and draw how they adapt."""

    num_scratch_tasks: int = 40
    """Number of bodies that policies are trained on from scratch."""
    num_scratch_rollouts: int = 2000
    """Rollouts of each training from scratch."""


def returns_of(row: rows.Row) -> tuple[list[int], list[Estimate]]:
    """Return `(numbers of earlier rollouts, returns of the next rollout)` of a kept policy, on its row's tasks."""
    num_rollouts = row.facts["options"]["num_rollouts"]
    if steps := row.facts["test"]["inner_steps"]:
        returns = [estimate(row.per_task[f"{i} inductive"]) for i in range(len(steps))]
        return [num * num_rollouts for num in steps], returns
    experiment = rows.experiment_of(row.facts)
    evaluated = evaluate.evaluated(experiment, rows.restored(experiment, row.meta_params)).evaluation.inductive
    seen = range(num_rollouts)
    return list(seen), [evaluated[f"return_of_rollout_{number + 1}"] for number in seen]


def from_scratch(row: rows.Row, options: Options) -> tuple[list[int], list[Estimate]]:
    """Return the same of PPO from scratch on one body each, with the recipe of the policy that does not adapt."""
    rollouts_per_step, num_points = 20, 10
    num_steps, rest = divmod(options.num_scratch_rollouts, rollouts_per_step)
    if num_steps < num_points or rest or num_steps % num_points:
        multiple = rollouts_per_step * num_points
        raise ValueError(f"--num-scratch-rollouts {options.num_scratch_rollouts}; pass a multiple of {multiple}")
    recipe, trained = rows.recipe_of(row.facts)
    training = dataclasses.replace(trained.training, tasks_per_step=rollouts_per_step, num_steps=num_steps)
    experiment = recipe.build(dataclasses.replace(trained, num_rollouts=1, training=training))
    judge: Any = experiment.tested  # in recipes that act, this is an episode function
    steps_per_point = num_steps // num_points

    def one_body(key: RandomKey) -> jax.Array:
        """Train on one body; return `[points]` returns, before training and in the course of it."""
        key_body, key_init, key_train, key_judge = jax.random.split(key, 4)
        env_params = experiment.source.meta_test(key_body)
        alike = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (rollouts_per_step, *leaf.shape)), env_params)

        def one_step(state: PyTree, key: RandomKey) -> tuple[PyTree, None]:
            return experiment.trainer.update(state, alike, key)[0], None

        def judged(state: PyTree) -> jax.Array:
            keys = jax.random.split(key_judge, rollouts_per_step)
            return jax.vmap(lambda key: judge(state.meta_params, env_params, key)[1]["return"])(keys).mean()

        def to_next_point(state: PyTree, key: RandomKey) -> tuple[PyTree, jax.Array]:
            state, _ = jax.lax.scan(one_step, state, jax.random.split(key, steps_per_point))
            return state, judged(state)

        state = experiment.trainer.init(experiment.init_fn(key_init))
        _, returns = jax.lax.scan(to_next_point, state, jax.random.split(key_train, num_points))
        return jnp.concatenate([judged(state)[None], returns])

    keys = jax.random.split(loop.split_key("meta_test"), options.num_scratch_tasks)
    returns = np.asarray(jax.jit(jax.vmap(one_body))(keys))
    seen = [number * steps_per_point * rollouts_per_step for number in range(num_points + 1)]
    return seen, [estimate(column) for column in returns.T]


def film(row: rows.Row, path: pathlib.Path) -> None:
    """Write a film of the first and the last rollout of one episode of RL², in a body not seen in training."""
    _, options = rows.recipe_of(row.facts)
    params = rows.restored(rows.experiment_of(row.facts), row.meta_params)
    count, design = options.num_rollouts, ROBOTS[options.robot].design
    robot, source = environment_and_source(options.robot, num_rollouts=count, tested_on=options.tested_on)
    memory = models.gru(options.width, max_span=options.max_span)
    policy = policies.actor_critic(memory, robot, initial_log_std=options.initial_log_std)
    env_params = robot_pictures.interesting(design, source.meta_test, jax.random.key(0))
    seen = robot_pictures.filmed(robot, design, policy, params, env_params, count * NUM_STEPS)
    robot_pictures.animate(path, seen, design, env_params, num_rollouts=count)


def as_curve(seen: list[int], returns: list[Estimate]) -> Curve:
    """Build the curve of these returns, rounded."""
    return Curve(seen, [round(each.mean, 3) for each in returns], [round(each.half_width, 3) for each in returns])


def judge_and_draw(options: Options) -> None:
    """Evaluate the policies, write the results and draw them."""
    kept = {name: rows.read(f"robot_{file}") for name, file in
            {REMEMBERS: "rl2", DESCENDS: "maml", UNADAPTED: "unadapted"}.items()}  # fmt: skip
    judged = {name: returns_of(row) for name, row in kept.items()}
    curves = {name: as_curve(*each) for name, each in judged.items()}
    curves[SCRATCH] = as_curve(*from_scratch(kept[UNADAPTED], options))
    base = judged[UNADAPTED][1][-1]
    gains = {}
    for name in (REMEMBERS, DESCENDS):
        seen, returns = judged[name]
        differences = [paired_difference(each, base) for each in returns]
        gains[name] = as_curve(seen, differences)._asdict()
    robot, experiment = kept[REMEMBERS].facts["options"]["robot"], rows.experiment_of(kept[REMEMBERS].facts)
    facts = {
        "robot": robot,
        "protocol": experiment.test_protocol,
        "num_tasks": experiment.num_test_tasks,
        "num_scratch_tasks": options.num_scratch_tasks,
        "curves": {name: curve._asdict() for name, curve in curves.items()},
        "minus_no_adaptation": gains,
    }
    files.replace_text(RESULTS, json.dumps(facts, indent=1, ensure_ascii=False) + "\n")
    title = f"{robot}: bodies outside of training's ranges ({ROBOTS[robot].outside})"
    robot_pictures.adaptation_curves(DOCS / "robots.png", curves, title=title)
    film(kept[REMEMBERS], DOCS / "robots.gif")
    for name, curve in curves.items():
        points = zip(curve.rollouts, curve.mean, curve.half_width, strict=True)
        print(f"{name:40s}", "  ".join(f"{seen}: {mean:.2f} ± {half:.2f}" for seen, mean, half in points))


def main(arguments: list[str]) -> int:
    """Run the command line; return the exit status."""
    options = tyro.cli(Options, args=arguments, prog="python -m experiments.reproduce.robots")
    console.use_compilation_cache()
    return console.run_command(lambda: judge_and_draw(options), if_interrupted="nothing was written")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
