"""The contenders in JAX: jmeta in several ways, the same by hand, and jax-meta."""

import functools
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jmeta
from jmeta import Batch, Task, adjoints, estimators, learners, losses, models, training
from jmeta.adjoints.inner_loop import inner_gradient, scanned_loop
from jmeta.types import EpisodeFn, GradFn, PyTree

from .contender import Contender
from .workloads import EPSILON, META_LR, Arrays, Workload


def _first_step_apart() -> adjoints.Adjoint:
    """Build `unrolled` with the first inner step before the loop, where all tasks share their weights under `vmap`."""

    def scan(body: Callable, carry: Any, xs: Any) -> tuple[Any, Any]:
        carry, first = body(carry, jax.tree.map(lambda leaf: leaf[0], xs))
        carry, rest = jax.lax.scan(body, carry, jax.tree.map(lambda leaf: leaf[1:], xs))
        return carry, jax.tree.map(lambda a, b: jnp.concatenate([a[None], b]), first, rest)

    def adjoint(objective: adjoints.Objective, make_optimizer: adjoints.MakeOptimizer, num_steps: int) -> Any:
        return scanned_loop([(inner_gradient(objective), num_steps)], make_optimizer, scan)

    return adjoint


def _straight_line() -> adjoints.Adjoint:
    """Build `unrolled` without a loop: the program has all inner steps one after another."""

    def adjoint(objective: adjoints.Objective, make_optimizer: adjoints.MakeOptimizer, num_steps: int) -> Any:
        scan = functools.partial(jax.lax.scan, unroll=True)
        return scanned_loop([(inner_gradient(objective), num_steps)], make_optimizer, scan)

    return adjoint


ADJOINTS = {
    "unrolled": adjoints.unrolled(),
    "straight line": _straight_line(),
    "first step apart": _first_step_apart(),
    "first_order": adjoints.first_order(),
    "rematerialized": adjoints.rematerialized(),
    "rematerialized in blocks": adjoints.rematerialized(block_size="sqrt"),
    "mixed_mode": adjoints.mixed_mode(),
    "mixed_mode in blocks": adjoints.mixed_mode(block_size="sqrt"),
}


Step = Callable[[PyTree, Task, Any], tuple[PyTree, Any]]
"""`(state, tasks, key) -> (state, (loss, norm of the gradient))`: a meta-step."""

ESTIMATORS: dict[str, Callable[[EpisodeFn], GradFn]] = {
    "reverse": functools.partial(jax.value_and_grad, has_aux=True),
    "forward_mode": functools.partial(estimators.forward_mode, directions_at_once=64),
    "evolution_strategies": functools.partial(estimators.evolution_strategies, num_pairs=64, sigma=0.01),
}


class Way(NamedTuple):
    """A way of computing a workload with jmeta.

    Attributes:
      adjoint, estimator: names in `ADJOINTS` and `ESTIMATORS`.
      batching: batching of tasks, as given to `over_tasks`.
      conv: form of the convolutions.
      dtype: dtype of their activations; float32 if not given.
    """

    adjoint: str
    batching: str
    conv: str = "auto"
    estimator: str = "reverse"
    dtype: str | None = None


def nested(flat: dict[str, np.ndarray]) -> PyTree:
    """Convert parameters named by paths to nested dictionaries."""
    tree: dict[str, Any] = {}
    for name, leaf in flat.items():
        *parents, last = name.split("/")
        inner = tree
        for parent in parents:
            inner = inner.setdefault(parent, {})
        inner[last] = jnp.asarray(leaf)
    return tree


def jmeta_way(way: Way) -> Callable[[Workload, Arrays], Contender]:
    """Build the contender that uses jmeta's public functions."""
    return lambda workload, arrays: _contender(*_of_jmeta(workload, arrays, way), workload, arrays)


def lowered(
    workload: Workload, arrays: Arrays, way: Way, num_steps: int | None = None
) -> tuple[Any, Callable[[int], None]]:
    """Return `(compiled, run)`: jmeta's program, whose memory can be read before it runs, and a function that calls it.

    Args:
      workload, arrays, way: the workload, its arrays, and the way of computing it.
      num_steps: meta-steps of a call; the workload's if not given.
    """
    return _to_call(_of_jmeta(workload, arrays, way), workload, arrays, num_steps)


def lowered_by_hand(
    workload: Workload, arrays: Arrays, batching: str, *, shares_first_layer: bool = False
) -> tuple[Any, Callable[[int], None]]:
    """Return `(compiled, run)` as `lowered` does, for `by_hand`.

    Args:
      workload, arrays, batching: the workload, its arrays, and the batching of tasks.
      shares_first_layer: whether the patches that the first layer reads are extracted once, before the inner loop. They
        depend on the images, not on the weights, so all inner steps and their derivatives can share them; each step's
        first layer is then one product with nine columns. The inputs of later layers depend on weights.
    """
    return _to_call(_by_hand(workload, arrays, batching, shares_first_layer), workload, arrays, None)


def _to_call(
    made: tuple[Step, PyTree], workload: Workload, arrays: Arrays, num_steps: int | None
) -> tuple[Any, Callable[[int], None]]:
    compiled, state, tasks, key = _compiled(*made, workload, arrays, num_steps)

    def run(num_calls: int) -> None:
        nonlocal state
        for _ in range(num_calls):
            state, _ = compiled(state, tasks, key)
        jax.block_until_ready(state)

    return compiled, run


def query_loss(workload: Workload, arrays: Arrays, conv: str) -> tuple[Callable[[PyTree, Task], jax.Array], PyTree]:
    """Build `(params, task) -> loss` of W1's network on a task's query, without inner steps, and initial parameters."""
    _, params = gradient_of(workload, arrays, Way("unrolled", "vmap", conv))
    model = models.conv4(workload.ways, conv=conv)
    return lambda params, task: losses.cross_entropy(model.apply(params, task.query.x, None), task.query)[0], params


def gradient_of(workload: Workload, arrays: Arrays, way: Way) -> tuple[GradFn, PyTree]:
    """Build the meta-gradient averaged over tasks, and the initial parameters."""
    loss_fn = losses.squared_error if workload.kind == "W2" else losses.cross_entropy
    if workload.kind == "W3":
        learner = learners.protonet(models.conv4(None, conv=way.conv, dtype=way.dtype), num_ways=workload.ways)
    else:
        conv4 = models.conv4(workload.ways, conv=way.conv, dtype=way.dtype)
        model = models.mlp([40, 40, 1]) if workload.kind == "W2" else conv4
        inner = optax.sgd(workload.inner_lr)
        learner = learners.maml(model, loss_fn, inner, num_steps=workload.steps, adjoint=ADJOINTS[way.adjoint])
    episode_fn = jmeta.episode(learner, loss_fn)
    like = jax.eval_shape(learner.init, jax.random.key(0), jax.tree.map(lambda leaf: leaf[0], tasks_of(arrays)))
    params = jax.tree.unflatten(jax.tree.structure(like), jax.tree.leaves(nested(arrays.params)))
    batching = int(way.batching) if way.batching.isdecimal() else way.batching
    return jmeta.over_tasks(ESTIMATORS[way.estimator](episode_fn), batching), params


def _of_jmeta(workload: Workload, arrays: Arrays, way: Way) -> tuple[Step, PyTree]:
    """Build a meta-step of jmeta's trainer, and its initial state."""
    grad_fn, params = gradient_of(workload, arrays, way)
    trainer = jmeta.meta_trainer(grad_fn, optax.adam(META_LR))

    def step(state: training.MetaState, tasks: Task, key: Any) -> tuple[training.MetaState, Any]:
        state, aux = trainer.update(state, tasks, jax.random.fold_in(key, state.step))
        return state, (aux["loss"], aux["grad_norm"])

    return step, trainer.init(params)


def by_hand(batching: str) -> Callable[[Workload, Arrays], Contender]:
    """Build the same without jmeta: the code that a careful user of JAX and optax writes for this one workload.

    Raises:
      ValueError: if `batching` is neither `"vmap"` nor `"scan"`.
    """
    if batching not in ("vmap", "scan"):
        raise ValueError(f"by hand there are vmap and scan, not {batching!r}")

    return lambda workload, arrays: _contender(*_by_hand(workload, arrays, batching), workload, arrays)


def _by_hand(
    workload: Workload, arrays: Arrays, batching: str, shares_first_layer: bool = False
) -> tuple[Step, PyTree]:
    """Build a meta-step, and its initial state."""
    forward, loss = (_mlp, _squared_error) if workload.kind == "W2" else (_conv4, _cross_entropy)

    def episode_fn(params: PyTree, task: Task) -> tuple[jax.Array, dict]:
        (x, y, _), (query_x, query_y, _), _ = task
        if shares_first_layer:
            x, query_x = _patches(x), _patches(query_x)
        if workload.kind == "W3":
            prototypes = _conv4(params, x).reshape(-1, workload.ways, 64).mean(0)
            distances = jnp.square(_conv4(params, query_x)[:, None] - prototypes).sum(-1)
            return _cross_entropy(-distances, query_y), {}

        def step(params: PyTree, _: None) -> tuple[PyTree, None]:
            grads = jax.grad(lambda params: loss(forward(params, x), y))(params)
            return jax.tree.map(lambda p, g: p - workload.inner_lr * g, params, grads), None

        params, _ = jax.lax.scan(step, params, None, length=workload.steps)
        return loss(forward(params, query_x), query_y), {}

    grad_fn = jax.value_and_grad(episode_fn, has_aux=True)

    def mean_over_tasks(params: PyTree, tasks: Task) -> Any:
        if batching == "vmap":
            return jax.tree.map(lambda leaf: leaf.mean(0), jax.vmap(grad_fn, in_axes=(None, 0))(params, tasks))
        add = lambda total, task: (jax.tree.map(jnp.add, total, grad_fn(params, task)), None)  # noqa: E731
        total, _ = jax.lax.scan(add, ((jnp.zeros(()), {}), jax.tree.map(jnp.zeros_like, params)), tasks)
        return jax.tree.map(lambda leaf: leaf / workload.tasks, total)

    optimizer = optax.adam(META_LR)

    def step(state: PyTree, tasks: Task, key: Any) -> tuple[PyTree, Any]:
        del key
        params, optimizer_state = state
        (loss, _), grads = mean_over_tasks(params, tasks)
        updates, optimizer_state = optimizer.update(grads, optimizer_state)
        return (optax.apply_updates(params, updates), optimizer_state), (loss, optax.tree.norm(grads))

    params = nested(arrays.params)["params"]
    return step, (params, optimizer.init(params))


def tasks_of(arrays: Arrays) -> Task:
    """Return the stacked tasks on the device."""
    tasks = Task(Batch(arrays.support_x, arrays.support_y), Batch(arrays.query_x, arrays.query_y))
    return jax.tree.map(jnp.asarray, tasks)


def _contender(step: Step, state: PyTree, workload: Workload, arrays: Arrays) -> Contender:
    """Compile a meta-step, run it once, and return the contender."""
    began = time.perf_counter()
    compiled, state, tasks, key = _compiled(step, state, workload, arrays)
    compile_seconds = time.perf_counter() - began
    state, (loss, norm) = compiled(state, tasks, key)
    loss, norm = (float(np.ravel(value)[0]) for value in (loss, norm))

    def run(num_calls: int) -> None:
        nonlocal state
        for _ in range(num_calls):
            state, _ = compiled(state, tasks, key)
        jax.block_until_ready(state)

    temporary = compiled.memory_analysis().temp_size_in_bytes
    return Contender(run, workload.steps_per_dispatch, loss, norm, compile_seconds, temporary)


def _compiled(
    step: Step, state: PyTree, workload: Workload, arrays: Arrays, num_steps: int | None = None
) -> tuple[Any, ...]:
    """Return `(compiled, state, tasks, key)`: meta-steps on the same tasks, many in a dispatch where they are short."""
    tasks, key, num_steps = tasks_of(arrays), jax.random.key(0), num_steps or workload.steps_per_dispatch

    def dispatch(state: PyTree, tasks: Task, key: Any) -> tuple[PyTree, Any]:
        if num_steps == 1:
            return step(state, tasks, key)
        return jax.lax.scan(lambda state, _: step(state, tasks, key), state, None, length=num_steps)

    return jax.jit(dispatch, donate_argnums=0).lower(state, tasks, key).compile(), state, tasks, key


def _mlp(params: PyTree, x: jax.Array) -> jax.Array:
    for name in ("hidden_0", "hidden_1"):
        x = jax.nn.relu(x @ params[name]["kernel"] + params[name]["bias"])
    return x @ params["head"]["kernel"] + params["head"]["bias"]


def _conv4(params: PyTree, x: jax.Array) -> jax.Array:
    """Apply conv4 by hand in the form that `models.conv4` has on a CPU; `jmeta.models.primitives` explains why."""
    for i in range(4):
        kernel, norm = params[f"conv_{i}"]["kernel"], params[f"norm_{i}"]
        (examples, height, width, channels), filters = x.shape, kernel.shape[-1]
        if i == 0:
            patches = x if channels == 9 else _patches(x)
            x = patches.reshape(-1, 9) @ kernel.reshape(-1, filters)
            x = x.reshape(examples, height, width, filters)
        else:
            padded = jnp.pad(x, ((0, 0), (0, 0), (1, 1), (0, 0)))
            patches = jnp.concatenate([padded[:, :, b : b + width] for b in range(3)], -1)
            x = patches.reshape(-1, 3 * channels) @ kernel.transpose(1, 2, 0, 3).reshape(3 * channels, -1)
            above, here, below = jnp.split(x.reshape(examples, height, width, -1), 3, -1)
            x = here + jnp.pad(above[:, :-1], ((0, 0), (1, 0), (0, 0), (0, 0)))
            x = x + jnp.pad(below[:, 1:], ((0, 0), (0, 1), (0, 0), (0, 0)))
        mean = x.mean((0, 1, 2))
        factor = jax.lax.rsqrt(jnp.square(x - mean).mean((0, 1, 2)) + EPSILON) * norm["scale"]
        x = x * factor + (norm["bias"] - mean * factor)
        half = (height // 2, width // 2)
        x = x[:, : 2 * half[0], : 2 * half[1]].reshape(examples, 2 * half[0], half[1], 2, filters)
        larger = lambda a, b: jnp.where(a > b, a, b)  # noqa: E731
        x = larger(x[:, :, :, 0], x[:, :, :, 1]).reshape(examples, half[0], 2, half[1], filters)
        x = jax.nn.relu(larger(x[:, :, 0], x[:, :, 1]))
    x = x.reshape(x.shape[0], -1)
    return x @ params["head"]["kernel"] + params["head"]["bias"] if "head" in params else x


def _patches(x: jax.Array) -> jax.Array:
    """Return the patches that a 3x3 convolution reads from grey images, `[examples, height, width, 9]`."""
    height, width = x.shape[1:3]
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    return jnp.concatenate([padded[:, a : a + height, b : b + width] for a in range(3) for b in range(3)], -1)


def _squared_error(outputs: jax.Array, y: jax.Array) -> jax.Array:
    return jnp.square(outputs - y).mean()


def _cross_entropy(logits: jax.Array, y: jax.Array) -> jax.Array:
    return -jnp.take_along_axis(jax.nn.log_softmax(logits), y[:, None], axis=-1).mean()


def jax_meta(workload: Workload, arrays: Arrays) -> Contender:
    """Build the contender of jax-meta: its MAML, with a Haiku network, as its `step` compiles it."""
    import collections

    import haiku as hk
    from jax_meta.metalearners.maml import MAML  # pyright: ignore[reportMissingImports]

    def network(x: jax.Array) -> jax.Array:
        if workload.kind == "W2":
            return hk.nets.MLP([40, 40, 1])(x)
        for _ in range(4):
            x = hk.Conv2D(64, 3, with_bias=False)(x)
            x = hk.BatchNorm(create_scale=True, create_offset=True, decay_rate=0.9, eps=EPSILON)(x, True)
            x = hk.max_pool(jax.nn.relu(x), 2, 2, padding="VALID")
        return hk.Linear(workload.ways)(x.reshape(x.shape[0], -1))

    class Regression(MAML):
        def loss(self, params: PyTree, state: PyTree, inputs: Any, targets: Any, args: Any) -> Any:
            outputs, state = self.model.apply(params, state, inputs, *args)
            loss = jnp.square(outputs - targets).mean()
            return loss, (state, {"loss": loss})

    model = hk.without_apply_rng(hk.transform_with_state(network))
    maml = (Regression if workload.kind == "W2" else MAML)(model, num_steps=workload.steps, alpha=workload.inner_lr)
    pair = collections.namedtuple("pair", ["inputs", "targets"])
    train, test = (
        pair(*map(jnp.asarray, each))
        for each in ((arrays.support_x, arrays.support_y), (arrays.query_x, arrays.query_y))
    )
    params, state = maml.init(jax.random.key(0), optax.adam(META_LR), train.inputs[0])
    params = _like_haiku(params, arrays)
    gradient = jax.jit(jax.grad(maml.batch_outer_loss, has_aux=True), static_argnums=4)
    grads, (_, logs) = gradient(params, state.model, train, test, ())
    loss, norm = float(logs["outer/loss"].mean()), float(optax.tree.norm(grads))
    params, state, _ = maml.step(params, state, train, test)  # from then on its counters are floats
    began = time.perf_counter()
    compiled = jax.jit(maml.train_step, static_argnums=4).lower(params, state, train, test, ()).compile()
    compile_seconds = time.perf_counter() - began

    def run(num_calls: int) -> None:
        nonlocal params, state
        for _ in range(num_calls):
            params, state, _ = compiled(params, state, train, test)
        jax.block_until_ready(params)

    memory = compiled.memory_analysis()
    return Contender(run, 1, loss, norm, compile_seconds, memory.temp_size_in_bytes if memory else None)


def _like_haiku(params: PyTree, arrays: Arrays) -> PyTree:
    """Convert our initial parameters to Haiku's tree, whose modules are in the same order."""
    ours = {name.split("/", 1)[1]: leaf for name, leaf in arrays.params.items()}
    modules: dict[str, list[str]] = {}
    for name in params:
        kind = "conv" if "conv" in name else "norm" if "norm" in name else "linear"
        modules.setdefault(kind, []).append(name)
    names = {
        **{name: f"conv_{i}" for i, name in enumerate(modules.get("conv", []))},
        **{name: f"norm_{i}" for i, name in enumerate(modules.get("norm", []))},
    }
    linear = modules["linear"]
    names |= {name: f"hidden_{i}" for i, name in enumerate(linear[:-1])} | {linear[-1]: "head"}
    words = {"w": "kernel", "b": "bias", "scale": "scale", "offset": "bias"}
    return {
        name: {
            leaf: jnp.asarray(ours[f"{names[name]}/{words[leaf]}"]).reshape(value.shape) for leaf, value in of.items()
        }
        for name, of in params.items()
    }
