"""Speed of simulated robots: `python -m experiments.benchmarks.physics [--robots 64] [--steps 50] [--rounds 5]`.

Our robots and those of Brax, with each of its physics backends, each through its adapter and with another body in every
task. One process, in turns. Brax: `pip install "jmeta[brax]"`; without it only our robots are timed, and nothing is
kept.
"""

import dataclasses
import json
import sys
import time
from collections.abc import Callable
from typing import Any

import jax
import tyro

from jmeta.domains.rl.environments.environment import Environment
from jmeta.domains.rl.environments.from_brax import BACKENDS, from_brax
from jmeta.domains.rl.environments.robots import arm, crawler, eel
from jmeta.runs import console, files

from .speed import ROWS, machine, versions

FILE = ROWS / "physics.json"
OURS = {"crawler": crawler, "arm": arm, "eel": eel}
THEIRS = ("halfcheetah", "ant")


@dataclasses.dataclass(frozen=True)
class Options:
    """Measure the steps of robots per second."""

    robots: int = 64
    """Robots at once, by `vmap`."""
    steps: int = 50
    """Steps in a dispatch."""
    rounds: int = 5
    """Repetitions; the medians over them are reported."""


def contenders(has_brax: bool) -> dict[str, tuple[Environment, Any]]:
    """Return `(environment, sample)` by name; body parameters that some Brax backends ignore keep their defaults."""
    found = {f"jmeta: {name}": make() for name, make in OURS.items()}
    if has_brax:
        for name in THEIRS:
            for backend in BACKENDS:
                found[f"Brax, {backend}: {name}"] = from_brax(name, backend=backend, mass=(1.0, 1.0))
    return found


def walk(environment: Environment, sample: Any, options: Options) -> tuple[Callable[[Any], Any], Any]:
    """Build `(dispatch, states)`: many steps of many robots, under random actions."""
    key_params, key_reset = jax.random.split(jax.random.key(0))
    params = jax.vmap(sample)(jax.random.split(key_params, options.robots))
    action_space = environment.action_space(environment.default_params)

    def one_robot(state: Any, params: Any, key: Any) -> Any:
        def step(state: Any, key: Any) -> tuple[Any, None]:
            key_action, key_step = jax.random.split(key)
            return environment.step(key_step, state, action_space.sample(key_action), params)[1], None

        return jax.lax.scan(step, state, jax.random.split(key, options.steps))[0]

    @jax.jit
    def dispatch(states: Any) -> Any:
        return jax.vmap(one_robot)(states, params, jax.random.split(jax.random.key(1), options.robots))

    start = jax.jit(jax.vmap(environment.reset))
    return dispatch, start(jax.random.split(key_reset, options.robots), params)[1]


def measure(options: Options, has_brax: bool) -> dict[str, Any]:
    """Time the robots; return the seconds of every round and of compiling, by contender."""
    runs, measured = {}, {}
    for name, (environment, sample) in contenders(has_brax).items():
        dispatch, states = walk(environment, sample, options)
        with console.compile_clock() as compiling:
            states = jax.block_until_ready(dispatch(states))
        runs[name] = (dispatch, states)
        measured[name] = {"seconds": [], "compile_seconds": compiling.seconds}
    for _ in range(options.rounds):
        for name, (dispatch, states) in runs.items():
            start = time.perf_counter()
            states = jax.block_until_ready(dispatch(states))
            measured[name]["seconds"].append(time.perf_counter() - start)
            runs[name] = (dispatch, states)
    return {"machine": machine(), "versions": versions(), **dataclasses.asdict(options), "measured": measured}


def main(arguments: list[str]) -> int:
    """Run the command line; return the exit status."""
    options = tyro.cli(Options, args=arguments, prog="python -m experiments.benchmarks.physics")
    try:
        import brax  # noqa: F401  # pyright: ignore[reportMissingImports]

        has_brax = True
    except ImportError:
        has_brax = False

    def command() -> None:
        jax.config.update("jax_enable_compilation_cache", False)
        found = measure(options, has_brax)
        if has_brax:
            ROWS.mkdir(exist_ok=True)
            files.replace_text(FILE, json.dumps(found, indent=1) + "\n")
        else:
            print('Brax is not installed (pip install "jmeta[brax]"): nothing is kept', file=sys.stderr)
        print(json.dumps(found, indent=1))

    return console.run_command(command, if_interrupted="nothing was kept")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
