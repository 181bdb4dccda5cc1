"""Every way to a meta-gradient that shall be the same: learners x adjoints x estimators x inner optimizers.

`test_gradients.py` runs a seeded pairwise cover of it; `python -m tests.gradient_matrix` runs all of it, and writes the
table of the documentation.
"""

import functools
import itertools
import pathlib
import random
from collections.abc import Callable, Iterable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
import pytest

import jmeta
from jmeta import adjoints, estimators, learners, losses, models
from jmeta.optimizers import safe_at_zero
from jmeta.types import EpisodeFn, Learner, PyTree

from .networks import in_default_precision, regression_task, smooth_mlp, stacked_regression_tasks

LOSS, STEPS, LR = losses.squared_error, 3, 0.1

OPTIMIZERS = {
    "sgd": optax.sgd(LR),
    "momentum": optax.sgd(LR, momentum=0.9, nesterov=True),
    "schedule": optax.sgd(lambda count: jnp.linspace(LR, 0.02, STEPS)[count]),  # optax has its own in float32
    "adam": optax.adam(LR, eps_root=1e-8),
    "rmsprop": optax.rmsprop(LR, eps=1e-6, eps_in_sqrt=True),
    "lamb": optax.lamb(LR, eps_root=1e-8),
    "clipped": optax.chain(optax.clip_by_global_norm(0.5), optax.sgd(LR)),
    "safe_at_zero": safe_at_zero(optax.adam(LR)),
    "masked": optax.masked(optax.sgd(LR), lambda params: jax.tree.map(lambda leaf: jnp.ndim(leaf) == 2, params)),
}

ADJOINTS = {
    "unrolled": adjoints.unrolled(),
    "rematerialized": adjoints.rematerialized(),
    "rematerialized, dots saved": adjoints.rematerialized(jax.checkpoint_policies.dots_saveable),
    "rematerialized, blocks of 2": adjoints.rematerialized(block_size=2),
    "mixed_mode": adjoints.mixed_mode(),
    "mixed_mode, blocks of 2": adjoints.mixed_mode(block_size=2),
    "truncated, all steps": adjoints.truncated(STEPS),
    "truncated, last step": adjoints.truncated(1),
    "first_order": adjoints.first_order(),
    "implicit": adjoints.implicit(),
}

ESTIMATORS: dict[str, Callable] = {
    "reverse": functools.partial(jax.value_and_grad, has_aux=True),
    "forward_mode": functools.partial(estimators.forward_mode, directions_at_once=8),
    "evolution_strategies": functools.partial(estimators.evolution_strategies, num_pairs=300, sigma=1e-3),
}

# Why a pair is refused: what the `ValueError` says.
NO_FORWARD = "forward mode cannot differentiate this episode"
FORGOTTEN = "a converged loop has forgotten its start"
NO_MINIMUM = "which a loop of num_steps=1 does not reach"


class Case(NamedTuple):
    """One cell, by names."""

    learner: str
    adjoint: str
    estimator: str
    optimizer: str


def make_learner(name: str, adjoint: adjoints.Adjoint, optimizer: optax.GradientTransformation) -> Learner:
    """A small smooth learner of regression tasks."""
    model, body, head = smooth_mlp(), smooth_mlp(4), in_default_precision(models.mlp([1]))
    match name:
        case "maml":
            return learners.maml(model, LOSS, optimizer, num_steps=STEPS, adjoint=adjoint)
        case "anil":
            return learners.anil(body, head, LOSS, optimizer, num_steps=STEPS, adjoint=adjoint)
        case "boil":
            return learners.boil(body, head, LOSS, optimizer, num_steps=STEPS, adjoint=adjoint)
        case "cavia":
            return learners.cavia(model, LOSS, optimizer, num_steps=STEPS, num_context=2, adjoint=adjoint)
        case "imaml":
            return learners.imaml(model, LOSS, optimizer, num_steps=STEPS, adjoint=adjoint)
        case "meta_sgd":
            return learners.meta_sgd(model, LOSS, num_steps=STEPS, initial_lr=LR, adjoint=adjoint)
        case "maml_plus_plus":
            return learners.maml_plus_plus(model, LOSS, num_steps=STEPS, initial_lr=LR, adjoint=adjoint)
    raise ValueError(name)


WITH_OPTIMIZER = ("maml", "anil", "boil", "cavia", "imaml")
WITH_LEARNED_RATES = ("meta_sgd", "maml_plus_plus")


def all_cases() -> list[Case]:
    """Every cell that has a meaning: learned rates are an optimizer of their own."""
    chosen = itertools.product(WITH_OPTIMIZER, ADJOINTS, ESTIMATORS, OPTIMIZERS)
    learned = itertools.product(WITH_LEARNED_RATES, ADJOINTS, ESTIMATORS, ["learned rates"])
    return [Case(*names) for names in (*chosen, *learned)]


def pairwise_cover(cases: list[Case], seed: int) -> list[Case]:
    """Few cases that show every pair of names that any case shows: greedily, of several drawn ones the best."""
    drawn = random.Random(seed)
    pairs_of = lambda case: set(itertools.combinations(enumerate(case), 2))
    missing = set().union(*map(pairs_of, cases))
    cover = []
    while missing:
        best = max(drawn.sample(cases, min(60, len(cases))), key=lambda case: len(pairs_of(case) & missing))
        if gained := pairs_of(best) & missing:
            cover.append(best)
            missing -= gained
    return cover


def refusal(learner: str, adjoint: str, estimator: str) -> str | None:
    """What the `ValueError` says, if these have no meaning together."""
    if adjoint == "implicit" and learner == "maml_plus_plus":
        return NO_MINIMUM
    if estimator in ("reverse", "forward_mode") and adjoint == "implicit" and learner in ("maml", "meta_sgd"):
        return FORGOTTEN
    if estimator == "forward_mode" and adjoint.startswith(("mixed_mode", "implicit")):
        return NO_FORWARD
    return None


def kind(learner: str, adjoint: str, estimator: str) -> str:
    """`"refused"`, `"noisy"`, `"biased"`, `"at a minimum"` or `"exact"`."""
    if refusal(learner, adjoint, estimator):
        return "refused"
    if estimator == "evolution_strategies":
        return "noisy"
    if adjoint == "implicit":
        return "at a minimum"
    in_single_steps = learner == "maml_plus_plus" and adjoint.startswith("truncated")
    is_biased = adjoint == "first_order" or (adjoint == "truncated, last step" and not in_single_steps)
    return "biased" if is_biased else "exact"


def setting(case: Case) -> tuple[EpisodeFn, PyTree, PyTree, jax.Array]:
    """`(episode_fn, meta_params, task, key)` of a cell; all but its adjoint are the same for all adjoints."""
    optimizer = OPTIMIZERS.get(case.optimizer, optax.sgd(LR))
    learner = make_learner(case.learner, ADJOINTS[case.adjoint], optimizer)
    task = regression_task(jax.random.key(3))
    start = learner.init(jax.random.key(1), task)
    # away from biases of zero, where optimizers that look at the norm of a parameter have a kink
    meta_params = optax.tree.add_scale(start, 0.1, optax.tree.random_like(jax.random.key(4), start))
    return jmeta.plain_episode(learner, LOSS), meta_params, task, jax.random.key(2)


def gradient(case: Case) -> PyTree:
    """The meta-gradient of a cell, compiled."""
    episode_fn, *arguments = setting(case)
    _, grads = jax.jit(ESTIMATORS[case.estimator](episode_fn))(*arguments)
    return grads


@functools.cache
def reference(learner: str, optimizer: str) -> PyTree:
    """What the cells of a learner and an optimizer are compared with: plain reverse mode through the unrolled loop."""
    return gradient(Case(learner, "unrolled", "reverse", optimizer))


def relative_error(grads: PyTree, expected: PyTree) -> float:
    """‖g − e‖ / ‖e‖ over all leaves together."""
    difference = jax.tree.map(jnp.subtract, grads, expected)
    return float(optax.tree.norm(difference) / optax.tree.norm(expected))


def cosine(grads: PyTree, expected: PyTree) -> float:
    """Of the angle between two gradients."""
    return float(optax.tree.vdot(grads, expected) / (optax.tree.norm(grads) * optax.tree.norm(expected)))


def bias(adjoint: adjoints.Adjoint, nums_steps: tuple[int, ...]) -> dict[int, tuple[float, float]]:
    """`{num_steps: (relative error, cosine)}` of MAML's meta-gradient with an adjoint, averaged over eight tasks."""
    measured = {}
    for num_steps in nums_steps:
        grads, exact = mean_gradient(adjoint, num_steps), exact_mean_gradient(num_steps)
        measured[num_steps] = relative_error(grads, exact), cosine(grads, exact)
    return measured


def mean_gradient(adjoint: adjoints.Adjoint, num_steps: int) -> PyTree:
    """MAML's meta-gradient with an adjoint, averaged over eight tasks."""
    tasks = stacked_regression_tasks(jax.random.key(3), 8)
    learner = learners.maml(smooth_mlp(), LOSS, optax.sgd(LR), num_steps=num_steps, adjoint=adjoint)
    meta_params = learner.init(jax.random.key(1), jax.tree.map(lambda leaf: leaf[0], tasks))
    grad_fn = jmeta.over_tasks(jax.value_and_grad(jmeta.episode(learner, LOSS), has_aux=True))
    return jax.jit(grad_fn)(meta_params, tasks, jax.random.key(2))[1]


@functools.cache
def exact_mean_gradient(num_steps: int) -> PyTree:
    """The same through the unrolled loop."""
    return mean_gradient(adjoints.unrolled(), num_steps)


PAGE = pathlib.Path(__file__).parents[1] / "docs" / "gradients.md"


def table(head: list[str], rows: list[list[str]]) -> str:
    """A table of the documentation."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def tables_of_kinds() -> str:
    """Adjoints x estimators, and learners x adjoints in reverse mode."""
    by_estimator = [[f"`{a}`", *(kind("imaml", a, e) for e in ESTIMATORS)] for a in ADJOINTS]
    names = [*WITH_OPTIMIZER, *WITH_LEARNED_RATES]
    by_learner = [[f"`{a}`", *(kind(name, a, "reverse") for name in names)] for a in ADJOINTS]
    return (
        table(["adjoint", *(f"`{name}`" for name in ESTIMATORS)], by_estimator)
        + "\nIn reverse mode, by learner:\n\n"
        + table(["adjoint", *(f"`{name}`" for name in names)], by_learner)
    )


def render(errors: dict[Case, float]) -> str:
    """The page of the documentation, from the errors of all exact cells."""
    names = [*WITH_OPTIMIZER, *WITH_LEARNED_RATES]
    largest = [
        [f"`{a}`", *(worst(error for case, error in errors.items() if case[:2] == (name, a)) for name in names)]
        for a in ADJOINTS
        if any(case.adjoint == a for case in errors)
    ]
    biases = [
        [f"`{name}`", *(f"{error:.1e}, {angle:.3f}" for error, angle in bias(ADJOINTS[name], BIAS_STEPS).values())]
        for name in ("first_order", "truncated, last step")
    ]
    return f"""# Meta-gradients: which adjoints, estimators and learners work together

Made by `python -m tests.gradient_matrix`, which runs every cell that is exact or refused; the test suite runs a seeded
cover of all pairs, with cells of every kind. Every cell is the gradient of `jmeta.plain_episode`: adapt, predict,
evaluate.

*exact*: agrees with reverse mode through the unrolled loop to 1e-9 in float64. *biased*: by design, see below. *at a
minimum*: exact where the inner loop has converged (to 1e-6 in a separate test), with a certificate in the loop's `aux`.
*noisy*: exact on average, for a smoothed loss. *refused*: raises a `ValueError` with the reason.

{tables_of_kinds()}
* Forward mode with `mixed_mode` or `implicit`: these adjoints define their own reverse mode, which JAX cannot
  differentiate in forward mode.
* `implicit` with MAML or Meta-SGD: a minimum depends neither on the start of the loop nor on its learning rates, so
  there is nothing to learn. Make the minimum depend on the meta-parameters, as iMAML does.
* `implicit` with ANIL or BOIL: a minimum forgets where the adapted half started, so only the other half is learned;
  `jmeta.testing.check_meta_gradient` reports it.
* `implicit` with MAML++: a chain of one-step loops reaches no minimum. `truncated` cuts nothing in such a loop.
* Prototypical, matching and relation networks, ridge regression and MetaOptNet have no inner loop, hence no adjoint.
  ProtoMAML's loop is MAML's, from prototypes, Meta-Curvature's is Meta-SGD's with matrices in place of rates, and that
  of a T-net is MAML's with a network of more layers.
* `score_function` needs an episode that reports `log_prob`, and `persistent_evolution_strategies` an unroll in place of
  an episode, so they are in no cell of this matrix.

## The largest relative error

The largest error of the exact cells, over {len(OPTIMIZERS)} inner optimizers, reverse and forward mode; {STEPS} inner
steps, a tanh network, float64, {len(errors)} cells. The optimizers: {", ".join(OPTIMIZERS)}.

{table(["adjoint", *(f"`{name}`" for name in names)], largest)}
## How biased

MAML on eight tasks of regression, inner rate {LR}: relative error of the meta-gradient, and its cosine with the exact
one, by number of inner steps.

{table(["adjoint", *(f"{num_steps} step{'s' * (num_steps > 1)}" for num_steps in BIAS_STEPS)], biases)}"""


BIAS_STEPS = (1, 2, 5, 10, 20, 50)


def worst(errors: Iterable[float]) -> str:
    """The largest, as text."""
    found = list(errors)
    return f"{max(found):.0e}" if found else ""


if __name__ == "__main__":
    with jax.enable_x64(True):
        found = {}
        for number, case in enumerate(all_cases()):
            if reason := refusal(*case[:3]):
                with pytest.raises(ValueError, match=reason):
                    gradient(case)
            elif kind(*case[:3]) == "exact":
                found[case] = relative_error(gradient(case), reference(case.learner, case.optimizer))
                print(f"{number + 1}/{len(all_cases())} {found[case]:.0e} {case}", flush=True)
        assert max(found.values()) < 1e-9, max(found, key=found.__getitem__)
        PAGE.write_text(render(found))
