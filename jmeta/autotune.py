"""Choose how a meta-step runs, before the run: the fastest of several equivalent ways that fits into memory.

A meta-gradient can be computed in many ways that agree up to rounding: adjoints, rematerialisation policies, tasks at
once or one after another, precisions. Which is fastest depends on the network, the number of tasks and the machine.
Which ones fit is known before anything runs, since the compiler has allocated every buffer.

Time is measured, not derived: the compiler's count of operations includes the body of a loop only once.
"""

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax

__all__ = ["Trial", "Plan", "plan", "describe"]


class Trial(NamedTuple):
    """The measurements of one candidate.

    Attributes:
      name: the candidate's name.
      temporary_bytes: memory that the compiled program allocates for itself while it runs.
      peak_bytes: temporary memory, arguments and results together; donated buffers count once.
      compile_seconds: time of tracing and compiling.
      step_seconds: median time of the measured steps; `None` if the candidate does not fit and was not run.
    """

    name: str
    temporary_bytes: int
    peak_bytes: int
    compile_seconds: float
    step_seconds: float | None


class Plan(NamedTuple):
    """The chosen candidate and the measurements behind the choice.

    Attributes:
      chosen: the name of the fastest candidate that fits.
      trials: one for each candidate, in the order given.
      memory_bytes: the memory budget.
    """

    chosen: str
    trials: tuple[Trial, ...]
    memory_bytes: float | int


def plan(
    candidates: Mapping[str, Callable[..., Any]],
    arguments: tuple[Any, ...],
    *,
    memory_bytes: float | int,
    donate_argnums: int | tuple[int, ...] = (),
    num_steps: int = 3,
) -> Plan:
    """Compile all candidates, run those that fit, and choose the fastest.

    Candidates run in turns, so that a machine that slows down slows all of them; each runs once before it is timed.

    Args:
      candidates: name -> a function that `jax.jit` can compile; all take the same arguments and return the same kind of
        result. Results are not compared, so pass only functions that can replace each other: adjoints and batchings,
        which agree up to rounding, or estimators of one gradient.
      arguments: arguments of every candidate, at their real size. Donated ones are copied.
      memory_bytes: largest peak allowed on one device; positive.
      donate_argnums: as in `jax.jit`: the arguments that the run will donate, such as its state.
      num_steps: measured runs of each candidate, at least 1.

    Returns:
      The choice and all measurements; `describe` prints them in words.

    Raises:
      ValueError: if there are no candidates, a number is out of its range, or nothing fits.

    Example:
      >>> import jax, jax.numpy as jnp, optax
      >>> import jmeta
      >>> from jmeta import adjoints, learners, losses, models, tasks
      >>> def meta_gradient(adjoint, batching):
      ...     learner = learners.maml(
      ...         models.mlp([8, 1]), losses.squared_error, optax.sgd(0.1), num_steps=2, adjoint=adjoint)
      ...     episode_fn = jmeta.episode(learner, losses.squared_error)
      ...     return jmeta.over_tasks(jax.value_and_grad(episode_fn, has_aux=True), batching)
      >>> candidates = {
      ...     f"{adjoint.__name__}, {batching}": meta_gradient(adjoint(), batching)
      ...     for adjoint in (adjoints.unrolled, adjoints.mixed_mode) for batching in ("vmap", "scan")}
      >>> drawn = tasks.stacked(tasks.sinusoid(num_shots=5, num_queries=5), 4)(jax.random.key(0))
      >>> params = models.mlp([8, 1]).init(jax.random.key(1), jnp.zeros((1, 1)))
      >>> chosen = plan(candidates, (params, drawn, jax.random.key(2)), memory_bytes=1e9).chosen
      >>> chosen in candidates
      True
    """
    if not candidates:
        raise ValueError("there are no candidates to choose from")
    if not memory_bytes > 0 or num_steps < 1:
        raise ValueError(f"memory_bytes={memory_bytes} and num_steps={num_steps}; expected positive numbers")
    compiled, trials = {}, []
    for name, candidate in candidates.items():
        began = time.perf_counter()
        compiled[name] = jax.jit(candidate, donate_argnums=donate_argnums).lower(*arguments).compile()
        temporary, peak = _bytes(compiled[name])
        trials.append(Trial(name, temporary, peak, time.perf_counter() - began, None))
    fitting = [trial.name for trial in trials if trial.peak_bytes <= memory_bytes]
    if not fitting:
        least = min(trials, key=lambda trial: trial.peak_bytes)
        raise ValueError(
            f"nothing fits into {_in_words(memory_bytes)}: the smallest of {len(trials)} ways, {least.name}, takes "
            f"{_in_words(least.peak_bytes)}; allow more memory, or make the meta-step smaller"
        )
    donated = (donate_argnums,) if isinstance(donate_argnums, int) else donate_argnums
    seconds = _measure({name: compiled[name] for name in fitting}, arguments, donated, num_steps)
    trials = [trial._replace(step_seconds=seconds.get(trial.name)) for trial in trials]
    return Plan(min(seconds, key=seconds.__getitem__), tuple(trials), memory_bytes)


def describe(plan: Plan) -> str:
    """Describe a plan in words: the choice, then one line for each candidate, fastest first.

    Example:
      >>> trials = Trial("a", 10**9, 2 * 10**9, 1.0, 0.5), Trial("b", 10**8, 10**9, 1.0, 0.7)
      >>> print(describe(Plan("a", trials, 3e9)))
      a: the fastest of the 2 of 2 ways that fit into 3.00 GB
        a: 500.0 ms a step, peak 2.00 GB, 1.00 GB of it temporary
        b: 700.0 ms a step, peak 1.00 GB, 100 MB of it temporary
    """
    num_fitting = sum(trial.step_seconds is not None for trial in plan.trials)
    ways = f"{num_fitting} of {len(plan.trials)} ways that fit into {_in_words(plan.memory_bytes)}"
    lines = [f"{plan.chosen}: the fastest of the {ways}"]
    by_speed = lambda trial: (trial.step_seconds is None, trial.step_seconds or trial.peak_bytes)  # noqa: E731
    for trial in sorted(plan.trials, key=by_speed):
        speed = "does not fit" if trial.step_seconds is None else f"{trial.step_seconds * 1e3:.1f} ms a step"
        sizes = f"peak {_in_words(trial.peak_bytes)}, {_in_words(trial.temporary_bytes)} of it temporary"
        lines.append(f"  {trial.name}: {speed}, {sizes}")
    return "\n".join(lines)


def _bytes(compiled: Any) -> tuple[int, int]:
    """Return the temporary and peak bytes of a compiled program."""
    sizes = compiled.memory_analysis()
    if sizes is None:
        raise ValueError(f"the backend {jax.default_backend()!r} does not report how much memory a program takes")
    held = sizes.argument_size_in_bytes + sizes.output_size_in_bytes - sizes.alias_size_in_bytes
    return sizes.temp_size_in_bytes, held + sizes.temp_size_in_bytes


def _measure(
    compiled: Mapping[str, Any], arguments: tuple[Any, ...], donated: tuple[int, ...], num_steps: int
) -> dict[str, float]:
    seconds: dict[str, list[float]] = {name: [] for name in compiled}
    for is_timed in [False] + num_steps * [True]:
        for name, program in compiled.items():
            copied = [jax.tree.map(jax.numpy.copy, each) if i in donated else each for i, each in enumerate(arguments)]
            own = jax.block_until_ready(copied)
            began = time.perf_counter()
            jax.block_until_ready(program(*own))
            if is_timed:
                seconds[name].append(time.perf_counter() - began)
    return {name: statistics.median(measured) for name, measured in seconds.items()}


def _in_words(num_bytes: float | int) -> str:
    return f"{num_bytes / 1e9:.2f} GB" if num_bytes >= 1e9 else f"{num_bytes / 1e6:.0f} MB"
