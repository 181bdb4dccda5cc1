"""Evaluate policies that are not meta-learned: `python -m experiments.reproduce.rl_baselines bandits|tabular_mdps`.

Free parameters of a policy are tuned on tasks of another seed, then all policies are evaluated on the same tasks. The
results replace the rows of these problems in `rl_baselines.json`, next to this file. Total rewards differ far more
between tasks than between policies, so rows also have the regret, with a narrower interval: the expected reward of the
best arm, or of acting optimally in the known MDP, minus the reward obtained.
"""

import dataclasses
import functools
import json
import pathlib
import sys
import time
from collections.abc import Callable
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from jaxtyping import Array

from jmeta.domains.rl import baselines, environments, rollouts
from jmeta.domains.rl.environments.tabular_mdp import tabular_mdp
from jmeta.domains.rl.policies import Policy
from jmeta.evaluation import estimate
from jmeta.runs import console, files
from jmeta.types import PyTree, RandomKey

RESULTS = pathlib.Path(__file__).with_suffix(".json")
HORIZON = 10
Row = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Bandits:
    """Bernoulli bandits: all pairs of a number of pulls and a number of arms."""

    num_pulls: tuple[int, ...] = (10, 100, 500)
    num_arms: tuple[int, ...] = (5, 10, 50)
    num_tasks: int = 100_000
    """Number of test tasks of a policy."""
    num_long_tasks: int = 10_000
    """Number of test tasks for more than 100 pulls."""
    num_tuning_tasks: int = 2_000
    seed: int = 0
    tuning_seed: int = 1


@dataclasses.dataclass(frozen=True)
class TabularMDPs:
    """Random MDPs of 10 states, 5 actions and 10 steps a rollout."""

    num_rollouts: tuple[int, ...] = (10, 25)
    reward_means: tuple[float, ...] = (1.0, 0.0)
    """Means of the planners' prior of a reward; the true one is 1."""
    num_tasks: int = 2_000
    """Number of test tasks of a policy."""
    num_tuning_tasks: int = 300
    seed: int = 0
    tuning_seed: int = 1


class Candidate(NamedTuple):
    """A policy with values of its free parameters.

    Attributes:
      tuned: the parameters to tune and their values, by name.
      make: `numbers -> policy`; candidates that share it share one compiled function.
      numbers: the parameters' values as arrays.
    """

    tuned: dict[str, float]
    make: Callable[[PyTree], Policy]
    numbers: PyTree = ()


class Problem(NamedTuple):
    """A family of tasks, and the policies for it.

    Attributes:
      facts: the problem's name and sizes, for the rows.
      methods: candidates, by the name of their method.
      environment: environment of the tasks.
      sample: `key -> params`, a sampler of the environment's parameters.
      num_steps: number of steps of an episode.
      best: `params -> reward`, the expected total reward of an optimal policy that knows the task.
      tasks_at_once: number of tasks under one `vmap`.
    """

    facts: Row
    methods: dict[str, list[Candidate]]
    environment: environments.Environment
    sample: Callable[[RandomKey], PyTree]
    num_steps: int
    best: Callable[[PyTree], Array]
    tasks_at_once: int


def bandit_problem(num_pulls: int, num_arms: int) -> Problem:
    """Build the problem of Bernoulli bandits of one size, without policies whose tables would be too large for it."""
    methods = {
        "random": _fixed(lambda: baselines.uniformly_random(num_arms)),
        "greedy": _fixed(lambda: baselines.greedy(num_arms)),
        "epsilon_greedy": _grid(
            lambda epsilon: baselines.epsilon_greedy(num_arms, epsilon=epsilon), "epsilon", (0.01, 0.02, 0.05, 0.1, 0.2)
        ),
        "ucb1": _grid(
            lambda scale: baselines.ucb1(num_arms, scale=scale), "scale", (0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.6, 1.0)
        ),
        "thompson_sampling": _fixed(lambda: baselines.thompson_sampling(num_arms)),
        "optimistic_thompson_sampling": _fixed(lambda: baselines.optimistic_thompson_sampling(num_arms)),
        "gittins": _gittins_candidates(num_pulls, num_arms),
    }
    if num_pulls <= 100:
        finite = baselines.finite_horizon_gittins
        methods["finite_horizon_gittins"] = _fixed(lambda: finite(num_arms, num_pulls=num_pulls))
    if num_pulls <= 15:
        methods["bayes_optimal"] = _fixed(lambda: baselines.bayes_optimal(num_arms, num_pulls=num_pulls))
    bandit, sample = environments.bernoulli_bandit(num_arms)
    return Problem(
        facts={"problem": "bernoulli_bandit", "num_pulls": num_pulls, "num_arms": num_arms},
        methods=methods,
        environment=bandit,
        sample=sample,
        num_steps=num_pulls,
        best=lambda params: num_pulls * params.means.max(),
        tasks_at_once=1000,
    )


def mdp_problem(num_rollouts: int, reward_mean: float) -> Problem:
    """Build the problem of random MDPs with this number of rollouts, and planners with this prior mean reward."""
    given = {"horizon": HORIZON, "reward_mean": reward_mean}

    def ucrl2(scales: tuple[Array, Array]) -> Policy:
        return baselines.ucrl2(reward_scale=scales[0], transition_scale=scales[1], **given)

    methods = {
        "random": _fixed(lambda: baselines.uniformly_random(5)),
        "greedy": _fixed(lambda: baselines.epsilon_greedy_planning(epsilon=0.0, **given)),
        "epsilon_greedy": _grid(
            lambda epsilon: baselines.epsilon_greedy_planning(epsilon=epsilon, **given),
            "epsilon",
            (0.02, 0.05, 0.1, 0.2),
        ),
        "psrl": _fixed(lambda: baselines.psrl(**given)),
        "optimistic_psrl": [
            Candidate({"num_samples": count}, functools.partial(_optimistic_psrl, count, given)) for count in (2, 5, 10)
        ],
        "ucrl2": [
            Candidate({"reward_scale": c, "transition_scale": d}, ucrl2, (jnp.float32(c), jnp.float32(d)))
            for c in (0.0, 0.02, 0.05, 0.1, 0.2)
            for d in (0.0, 0.005, 0.02)
        ],
    }
    mdp, sample = tabular_mdp(horizon=HORIZON)
    return Problem(
        facts={"problem": "tabular_mdp", "num_rollouts": num_rollouts, "reward_mean": reward_mean},
        methods=methods,
        environment=mdp,
        sample=sample,
        num_steps=num_rollouts * HORIZON,
        best=lambda params: num_rollouts * baselines.optimal_value(params, HORIZON),
        tasks_at_once=100,
    )


def _optimistic_psrl(num_samples: int, given: dict[str, Any], numbers: PyTree) -> Policy:
    del numbers
    return baselines.optimistic_psrl(num_samples=num_samples, **given)


def _fixed(make: Callable[[], Policy]) -> list[Candidate]:
    return [Candidate({}, lambda _: make())]


def _grid(make: Callable[[Array], Policy], name: str, values: tuple[float, ...]) -> list[Candidate]:
    return [Candidate({name: value}, make, jnp.float32(value)) for value in values]


def _gittins_candidates(num_pulls: int, num_arms: int) -> list[Candidate]:
    make = functools.partial(baselines.tabled, num_arms)
    discounts = [round(1 - 1 / (share * num_pulls), 4) for share in (0.25, 0.5, 1, 2)]
    tables = [jnp.asarray(_gittins_indices(num_pulls, discount), jnp.float32) for discount in discounts]
    return [Candidate({"discount": discount}, make, table) for discount, table in zip(discounts, tables, strict=True)]


@functools.cache
def _gittins_indices(num_pulls: int, discount: float) -> np.ndarray:
    return baselines.gittins_indices(num_pulls, discount=discount)


def total_rewards(problem: Problem) -> Callable[[Candidate, int, int], np.ndarray]:
    """Build `(candidate, num_tasks, seed) -> [num_tasks, 2]`: total rewards, and the problem's `best` for each task."""

    @functools.cache
    def compiled(make: Callable[[PyTree], Policy]) -> Callable[..., Array]:
        def episode(numbers: PyTree, key: RandomKey) -> Array:
            key_task, key_episode = jax.random.split(key)
            params = problem.sample(key_task)
            run = rollouts.run_episode(problem.environment, make(numbers), num_steps=problem.num_steps)
            return jnp.stack([run({}, params, key_episode).reward.sum(), problem.best(params)])

        def chunk(numbers: PyTree, key: RandomKey, first: Array) -> Array:
            places = first + jnp.arange(problem.tasks_at_once)
            return jax.vmap(lambda place: episode(numbers, jax.random.fold_in(key, place)))(places)

        return jax.jit(chunk)

    def rewards(candidate: Candidate, num_tasks: int, seed: int) -> np.ndarray:
        key, firsts = jax.random.key(seed), range(0, num_tasks, problem.tasks_at_once)
        chunks = [np.asarray(compiled(candidate.make)(candidate.numbers, key, first)) for first in firsts]
        return np.concatenate(chunks)[:num_tasks]

    return rewards


def judged(problem: Problem, *, num_tasks: int, num_tuning_tasks: int, seed: int, tuning_seed: int) -> list[Row]:
    """Evaluate every method and return a row for each, with its best candidate."""
    rewards, rows = total_rewards(problem), []
    for method, candidates in problem.methods.items():
        start = time.process_time()
        chosen = candidates[0]
        if len(candidates) > 1:
            tried = [rewards(each, num_tuning_tasks, tuning_seed)[:, 0].mean() for each in candidates]
            chosen = candidates[int(np.argmax(tried))]
        totals, bests = rewards(chosen, num_tasks, seed).T
        mean, regret = estimate(totals), estimate(bests - totals)
        row = problem.facts | {
            "method": method,
            "tuned": chosen.tuned,
            "mean": round(mean.mean, 4),
            "half_width": round(mean.half_width, 4),
            "regret": round(regret.mean, 4),
            "regret_half_width": round(regret.half_width, 4),
            "share_of_best": round(float(totals.mean() / bests.mean()), 4),
            "num_tasks": num_tasks,
            "seed": seed,
            "num_tuning_tasks": num_tuning_tasks if len(candidates) > 1 else 0,
            "tuning_seed": tuning_seed,
        }
        print(f"{json.dumps(row)}  # {time.process_time() - start:.0f} s of CPU", flush=True)
        rows.append(row)
    return rows


def _problem_of(row: Row) -> tuple[Any, ...]:
    return tuple(row[key] for key in ("problem", "num_pulls", "num_arms", "num_rollouts", "reward_mean") if key in row)


def record(rows: list[Row]) -> None:
    """Write rows to the file, in place of those of the same problems."""
    new = {_problem_of(row) for row in rows}
    old = json.loads(RESULTS.read_text()) if RESULTS.exists() else []
    kept = [row for row in old if _problem_of(row) not in new]
    lines = [json.dumps(row) for row in sorted([*kept, *rows], key=_problem_of)]
    files.replace_text(RESULTS, "[\n" + ",\n".join(lines) + "\n]\n")


def main(arguments: list[str]) -> int:
    """Run the command line; return the exit status."""
    bandits = Annotated[Bandits, tyro.conf.subcommand("bandits")]
    mdps = Annotated[TabularMDPs, tyro.conf.subcommand("tabular_mdps")]
    options: Any = tyro.cli(bandits | mdps, args=arguments, prog="python -m experiments.reproduce.rl_baselines")  # pyright: ignore
    console.use_compilation_cache()
    if isinstance(options, Bandits):
        problems = [bandit_problem(pulls, arms) for pulls in options.num_pulls for arms in options.num_arms]
    else:
        problems = [mdp_problem(count, mean) for count in options.num_rollouts for mean in options.reward_means]
    for problem in problems:
        is_long = isinstance(options, Bandits) and problem.num_steps > 100
        rows = judged(
            problem,
            num_tasks=options.num_long_tasks if is_long else options.num_tasks,
            num_tuning_tasks=options.num_tuning_tasks,
            seed=options.seed,
            tuning_seed=options.tuning_seed,
        )
        record(rows)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
