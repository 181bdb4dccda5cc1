"""Whether several seeds should share a dispatch: `python -m experiments.benchmarks.seeds [--seeds 5] [--rounds 9]`.

For each recipe, the time that one dispatch of every seed takes, one seed after another and all in one `vmap`, by the
functions that `experiments.train` calls. The two take turns, so that other work on the machine burdens both; a round's
ratio is that of two neighbours. Above 1, together pays. `experiments.train.choose_seeds_at_once` has what came out.
"""

import dataclasses
import os
import sys
import time
from typing import Any

import jax
import numpy as np
import tyro

from experiments import console, dispatching, recipes, run_folder, run_state
from experiments.build import build

STEPS = {  # in a dispatch: the recipe's own, or fewer where a step takes many milliseconds
    "sinusoid_maml": 500,
    "blobs_protonet": 100,
    "glyphs_protonet": 5,
    "glyphs_maml": 5,
}


@dataclasses.dataclass(frozen=True)
class Options:
    """Measure dispatches of several seeds, one after another and together."""

    seeds: tuple[int, ...] = (5,)
    """Numbers of seeds."""
    rounds: int = 9
    """Repetitions that the medians are taken over."""
    recipes: tuple[str, ...] = tuple(STEPS)
    """Which recipes."""


def measure(name: str, num_seeds: int, rounds: int) -> dict[str, str]:
    """A row of the table."""
    recipe = recipes.load(name)
    part = dataclasses.replace(recipe.training, steps_per_dispatch=STEPS.get(name, 5))
    experiment = build(recipe)
    compile_seconds, seconds, cpu_seconds = {}, {}, {}
    runs: dict[str, Any] = {}
    for way in ("apart", "together"):
        states = [run_state.init_state(experiment, seed) for seed in range(num_seeds)]
        dispatch = dispatching.dispatcher(experiment, part, states if way == "together" else states[:1])
        groups = [[state] for state in states] if way == "apart" else [states]
        with console.compile_clock() as compiling:
            groups = [[state for state, _ in jax.block_until_ready(dispatch(group))] for group in groups]
        runs[way], compile_seconds[way] = (dispatch, groups), compiling.seconds
        seconds[way], cpu_seconds[way] = [], []
    for _ in range(rounds):
        for way, (dispatch, groups) in runs.items():
            start, cpu_start = time.perf_counter(), time.process_time()
            groups = [[state for state, _ in jax.block_until_ready(dispatch(group))] for group in groups]
            seconds[way].append(time.perf_counter() - start)
            cpu_seconds[way].append(time.process_time() - cpu_start)
            runs[way] = (dispatch, groups)
    ratios = np.array(seconds["apart"]) / np.array(seconds["together"])
    per_step = {way: 1000 * np.median(each) / part.steps_per_dispatch for way, each in seconds.items()}
    return {
        "recipe": name,
        "seeds": str(num_seeds),
        "apart": f"{per_step['apart']:.2f} ms",
        "together": f"{per_step['together']:.2f} ms",
        "ratio": f"{np.median(ratios):.2f}",
        "lowest to highest": f"{ratios.min():.2f} to {ratios.max():.2f}",
        "ratio of CPU time": f"{np.median(np.array(cpu_seconds['apart']) / np.array(cpu_seconds['together'])):.2f}",
        "compile apart": f"{compile_seconds['apart']:.1f} s",
        "compile together": f"{compile_seconds['together']:.1f} s",
    }


def main(arguments: list[str]) -> int:
    """Run the command line; returns the exit status."""
    options = tyro.cli(Options, args=arguments, prog="python -m experiments.benchmarks.seeds")
    if min(options.seeds, default=0) < 2 or options.rounds < 1:
        print(f"error: --seeds {options.seeds} --rounds {options.rounds}; expected at least 2, and 1", file=sys.stderr)
        return 1
    jax.config.update("jax_enable_compilation_cache", False)  # else compiling would take no time the second time
    rows = [measure(name, num_seeds, options.rounds) for name in options.recipes for num_seeds in options.seeds]
    device = jax.devices()[0]
    machine = f"{device.device_kind} ({device.platform}), {run_folder.num_cpus()} cores, jax {jax.__version__}"
    load = f"load {os.getloadavg()[0]:.1f}"
    console.print_table(f"a meta-step of all seeds, median of {options.rounds} rounds; {machine}, {load}", rows)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
