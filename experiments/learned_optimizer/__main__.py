"""Meta-train a learned optimizer on small networks, and compare it with tuned Adam there and on larger ones.

    python -m experiments.learned_optimizer                  about 5 minutes on a CPU core; --help lists the options

A task is to train a network to imitate a random teacher, on new data in every step. The meta-loss is the mean training
loss of all steps, estimated by persistent evolution strategies over truncated unrolls. Adam, constant and with a cosine
schedule, gets the best of a grid of rates for each size of network, on problems of its own. The last loss is the mean
over the last tenth of the steps. The results are written as JSON and as a picture.
"""

import dataclasses
import functools
import json
import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro

from jmeta import estimators, losses, models, runs, training
from jmeta.evaluation import Estimate, estimate, paired_difference
from jmeta.runs import console
from jmeta.types import Aux, Batch, Model, PyTree, RandomKey

from . import picture
from .optimizer import init_weights, learned_optimizer

NUM_CLASSES = 5


class Size(NamedTuple):
    """A network to train.

    Attributes:
      num_inputs: features of an example.
      hidden: widths of the hidden layers.
      num_steps: steps of training.
    """

    num_inputs: int
    hidden: tuple[int, ...]
    num_steps: int

    def __str__(self) -> str:
        widths = "-".join(map(str, (self.num_inputs, *self.hidden, NUM_CLASSES)))
        return f"{widths}, {self.num_steps} steps"


SMALL = Size(8, (16,), 200)
LARGER = (Size(8, (16,), 1000), Size(16, (64, 64), 200), Size(16, (64, 64), 1000))


@dataclasses.dataclass(frozen=True)
class Options:
    """Meta-train an optimizer, and test it beside tuned Adam."""

    small: Size = SMALL
    """The network of meta-training."""
    larger: tuple[Size, ...] = LARGER
    """Networks that are only tested."""
    batch_size: int = 32
    steps_per_unroll: int = 10
    num_pairs: int = 8
    """Antithetic pairs of each task."""
    sigma: float = 0.01
    """Standard deviation of the perturbations."""
    meta_lr: float = 3e-3
    rates: tuple[float, ...] = (1e-3, 3e-3, 1e-2, 3e-2, 1e-1)
    """Rates among which Adam's is chosen."""
    num_problems: int = 64
    """Problems that an optimizer is tested on; half as many choose Adam's rate."""
    training: runs.Training = runs.Training(
        num_steps=3000, tasks_per_step=8, steps_per_dispatch=50, evaluate_every=250, num_valid_tasks=32
    )
    run_dir: pathlib.Path = pathlib.Path("runs/learned_optimizer")
    out: pathlib.Path = pathlib.Path("experiments/learned_optimizer/results.json")
    """The JSON file to write; the picture gets its name, with `.png`."""


def problem(size: Size, key: RandomKey) -> PyTree:
    """Draw a task: the parameters of a teacher, a network of one hidden layer with large weights."""
    key_first, key_last = jax.random.split(key)
    return {
        "first": jax.random.normal(key_first, (size.num_inputs, 16)) * 2 / jnp.sqrt(size.num_inputs),
        "last": jax.random.normal(key_last, (16, NUM_CLASSES)),
    }


def examples(size: Size, teacher: PyTree, batch_size: int, key: RandomKey) -> Batch:
    """Draw inputs, and label them by the teacher."""
    x = jax.random.normal(key, (batch_size, size.num_inputs))
    return Batch(x, jnp.argmax(jnp.tanh(x @ teacher["first"]) @ teacher["last"], -1))


def trained_on(size: Size, batch_size: int) -> tuple[Callable[..., PyTree], Callable[..., Any]]:
    """Build `start(optimizer, key) -> state` and `step(optimizer, state, teacher, key) -> (state, loss)`."""
    model: Model = models.mlp((*size.hidden, NUM_CLASSES))

    def loss_fn(params: PyTree, batch: Batch) -> jax.Array:
        return losses.cross_entropy(model.apply(params, batch.x, None), batch)[0]

    def start(optimizer: optax.GradientTransformation, key: RandomKey) -> PyTree:
        params = model.init(key, jnp.zeros((1, size.num_inputs)))
        return params, optimizer.init(params)

    def step(
        optimizer: optax.GradientTransformation, state: PyTree, teacher: PyTree, key: RandomKey
    ) -> tuple[PyTree, jax.Array]:
        params, optimizer_state = state
        loss, grads = jax.value_and_grad(loss_fn)(params, examples(size, teacher, batch_size, key))
        updates, optimizer_state = optimizer.update(grads, optimizer_state, params)
        return (optax.apply_updates(params, updates), optimizer_state), loss

    return start, step


def losses_of(size: Size, batch_size: int, optimizer: optax.GradientTransformation, key: RandomKey) -> jax.Array:
    """Train a network on one problem; return the loss of every step, `[steps]`."""
    start, step = trained_on(size, batch_size)
    key_problem, key_start, key_steps = jax.random.split(key, 3)
    teacher = problem(size, key_problem)
    one_step = lambda state, key: step(optimizer, state, teacher, key)  # noqa: E731
    keys = jax.random.split(key_steps, size.num_steps)
    return jax.lax.scan(one_step, start(optimizer, key_start), keys)[1]


def meta_train(options: Options) -> runs.Fitted:
    """Meta-train the optimizer on the small network; the run resumes where it was."""
    small = options.small
    start, step = trained_on(small, options.batch_size)
    worst = 2 * jnp.log(NUM_CLASSES)  # a diverged inner loop counts no more than this

    def unroll(weights: PyTree, state: PyTree, teacher: PyTree, key: RandomKey) -> tuple[PyTree, jax.Array, Aux]:
        optimizer = learned_optimizer(weights)
        one_step = lambda state, key: step(optimizer, state, teacher, key)  # noqa: E731
        state, of_steps = jax.lax.scan(one_step, state, jax.random.split(key, options.steps_per_unroll))
        return state, jnp.where(of_steps < worst, of_steps, worst).mean(), {}

    estimator = estimators.persistent_evolution_strategies(
        unroll,
        lambda weights, _, key: start(learned_optimizer(weights), key),
        num_unrolls=small.num_steps // options.steps_per_unroll,
        num_pairs=options.num_pairs,
        sigma=options.sigma,
    )
    sample = functools.partial(problem, small)
    stacked = lambda key: jax.vmap(sample)(jax.random.split(key, options.training.tasks_per_step))  # noqa: E731
    meta_optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(options.meta_lr))

    def whole_loop(weights: PyTree, teacher: PyTree, key: RandomKey) -> tuple[jax.Array, Aux]:
        del teacher  # drawn from the key, as in the test
        of_steps = losses_of(small, options.batch_size, learned_optimizer(weights), key)
        return jnp.where(of_steps < worst, of_steps, worst).mean(), {}

    return runs.fit(
        training.persistent_trainer(estimator, meta_optimizer, stacked),
        sample,
        init=init_weights,
        valid=whole_loop,
        folder=options.run_dir,
        training=options.training,
        options=recorded(options),
    )


def recorded(options: Options) -> dict[str, Any]:
    """Return what a learned optimizer depends on, besides numbers of meta-steps and tasks."""
    names = ("batch_size", "steps_per_unroll", "num_pairs", "sigma", "meta_lr")
    return {"small": str(options.small), **{name: getattr(options, name) for name in names}}


def trainer_of(options: Options, size: Size, make: Callable[[Any], Any]) -> Callable[[RandomKey, Any], np.ndarray]:
    """Build `(keys, arguments) -> losses [problems, steps]`, of training on a problem for each key."""
    one = lambda key, arguments: losses_of(size, options.batch_size, make(arguments), key)  # noqa: E731
    compiled = jax.jit(jax.vmap(one, in_axes=(0, None)))
    return lambda keys, arguments: np.asarray(compiled(keys, arguments))


def schedules(size: Size) -> dict[str, Callable[[Any], optax.GradientTransformation]]:
    """Return Adam with a constant rate, and with one that falls to zero along a cosine."""
    cosine = optax.cosine_decay_schedule(1.0, size.num_steps)
    return {
        "Adam": optax.adam,
        "Adam, cosine": lambda rate: optax.chain(optax.adam(rate), optax.scale_by_schedule(cosine)),
    }


def compare(options: Options, size: Size, weights: PyTree) -> dict[str, Any]:
    """Test the learned optimizer and tuned Adam on the same new problems."""
    key_tune, key_test = jax.random.split(jax.random.key(1))
    test_keys = jax.random.split(key_test, options.num_problems)
    tune_keys = jax.random.split(key_tune, max(options.num_problems // 2, 2))
    found, rates = {"learned": trainer_of(options, size, learned_optimizer)(test_keys, weights)}, {}
    for name, make in schedules(size).items():
        train = trainer_of(options, size, make)
        scores = {rate: last_losses(train(tune_keys, rate)).mean() for rate in options.rates}
        rates[name] = min(scores, key=lambda rate: float(np.nan_to_num(scores[rate], nan=np.inf)))
        found[name] = train(test_keys, rates[name])
    results = {name: estimate(last_losses(each)) for name, each in found.items()}
    return {
        "size": str(size),
        "num_parameters": num_parameters(size),
        "rates": rates,
        "last_loss": {name: plain(each) for name, each in results.items()},
        "learned_minus": {
            name: plain(paired_difference(results["learned"], results[name])) for name in schedules(size)
        },
        "mean_curves": {name: np.round(each.mean(0), 4).tolist() for name, each in found.items()},
    }


def last_losses(of_steps: np.ndarray) -> np.ndarray:
    """Return the mean over the last tenth of the steps, `[problems]`."""
    return of_steps[:, -max(of_steps.shape[1] // 10, 1) :].mean(1).astype(np.float64)


def num_parameters(size: Size) -> int:
    """Return the number of parameters of a network."""
    params = jax.eval_shape(models.mlp((*size.hidden, NUM_CLASSES)).init, jax.random.key(0), jnp.zeros((1, size[0])))
    return sum(leaf.size for leaf in jax.tree.leaves(params))


def plain(value: Estimate) -> dict[str, float]:
    """Return an estimate as JSON."""
    return {"mean": value.mean, "half_width": value.half_width}


def main(options: Options) -> dict[str, Any]:
    """Meta-train, test, write the results and draw them."""
    console.use_compilation_cache()
    fitted = meta_train(options)
    rows = [compare(options, size, fitted.meta_params) for size in (options.small, *options.larger)]
    record = {
        "num_meta_steps": options.training.num_steps,
        "best_step": fitted.best_step,
        "options": recorded(options),
        "num_problems": options.num_problems,
        "seed": options.training.seed,
        "rows": rows,
    }
    options.out.write_text(json.dumps(record, indent=1) + "\n")
    picture.draw(options.out.with_suffix(".png"), rows)
    print(picture.table(record))
    return record


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
