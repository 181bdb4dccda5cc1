"""Attacks on tasks: shapes, dtypes, masks and labels that do not go together, given to learners and to `evaluate`."""

import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jmeta
from jmeta import adjoints, learners, losses, models
from jmeta.types import Batch, Task

from .cases import Outcome, judge

__all__ = ["attack"]

_WAYS, _FEATURES = 3, 4
_network, _body, _inner = models.mlp([5, _WAYS]), models.mlp([5]), optax.sgd(0.1)
_by_loss = (_network, losses.cross_entropy, _inner)
_LEARNERS = {
    "maml": learners.maml(*_by_loss, num_steps=1),
    "first_order_maml": learners.first_order_maml(*_by_loss, num_steps=1),
    "anil": learners.anil(_body, models.mlp([_WAYS]), losses.cross_entropy, _inner, num_steps=1),
    "meta_sgd": learners.meta_sgd(*_by_loss[:2], num_steps=1, initial_lr=0.1),
    "cavia": learners.cavia(*_by_loss, num_steps=1, num_context=2),
    "reptile": learners.reptile(*_by_loss, num_steps=1),
    "imaml": learners.imaml(*_by_loss, num_steps=4, adjoint=adjoints.implicit(certify=False)),
    "proto_maml": learners.proto_maml(_body, losses.cross_entropy, _inner, num_ways=_WAYS, num_steps=1),
    "protonet": learners.protonet(_body, num_ways=_WAYS),
    "matching": learners.matching(_body, num_ways=_WAYS),
    "relation": learners.relation(_body, num_ways=_WAYS),
    "ridge": learners.ridge(_body, num_ways=_WAYS),
    "nearest_mean": learners.nearest_mean(num_ways=_WAYS),
    "fine_tune": learners.fine_tune(_body, _inner, num_classes=9, num_ways=_WAYS, num_steps=1),
    "from_scratch": learners.from_scratch(*_by_loss, num_steps=1),
    "deep_kernel_classifier": learners.deep_kernel_classifier(_body, num_ways=_WAYS, num_steps=2),
    "platipus": learners.platipus(*_by_loss, num_steps=1, num_samples=1),
    "bayesian_maml": learners.bayesian_maml(*_by_loss, num_steps=1, num_particles=2),
}


def attack(rng: np.random.Generator, folder: pathlib.Path) -> Outcome:
    """Give a learner a task with one thing in it that is odd, and look at shapes alone: nothing is compiled."""
    del folder
    name = list(_LEARNERS)[rng.integers(len(_LEARNERS))]
    learner = _LEARNERS[name]
    good = _task(rng)
    task, what = _oddly(good, rng)
    make = jmeta.plain_episode if rng.integers(2) else jmeta.episode
    meta_params = jax.eval_shape(learner.init, jax.random.key(0), good)
    episode_fn = make(learner, losses.cross_entropy)

    def is_right(shapes: Any) -> bool:
        return shapes[0].shape == () and jnp.issubdtype(shapes[0].dtype, jnp.floating)

    must: Any = "either" if what else "accept"
    return judge(
        lambda: jax.eval_shape(episode_fn, meta_params, task, jax.random.key(0)),
        what=f"{name}, {make.__name__}: {what}",
        must=must,
        is_right=is_right,
    )


def _task(rng: np.random.Generator) -> Task:
    batches = []
    for _ in range(2):
        n = int(rng.integers(1, 5))
        mask = None if rng.integers(2) else jnp.asarray(rng.integers(0, 2, n) > 0)
        x = jnp.asarray(rng.normal(size=(n, _FEATURES)), jnp.float32)
        batches.append(Batch(x, jnp.asarray(rng.integers(0, _WAYS, n), jnp.int32), mask))
    return Task(*batches)


def _oddly(task: Task, rng: np.random.Generator) -> tuple[Task, str]:
    """Return the task with one odd array, and a description of it."""
    part = "support" if rng.integers(2) else "query"
    batch = getattr(task, part)
    n = len(batch.y)
    changes: list[tuple[str, Any]] = [
        ("", None),
        ("mask", jnp.ones(n, jnp.int32)),
        ("mask", jnp.ones(n, jnp.float32)),
        ("mask", jnp.ones((n, 1), bool)),
        ("mask", jnp.ones(n + 1, bool)),
        ("mask", jnp.ones((), bool)),
        ("y", batch.y.astype(jnp.float32)),
        ("y", batch.y[:, None]),
        ("y", jnp.eye(_WAYS)[batch.y]),
        ("y", jnp.zeros(n + 1, jnp.int32)),
        ("y", jnp.zeros((), jnp.int32)),
        ("y", batch.y > 0),
        ("x", batch.x[:, :-1]),
        ("x", batch.x[:, None]),
        ("x", batch.x[:, 0]),
        ("x", jnp.zeros((n + 1, _FEATURES))),
        ("x", batch.x[:0]),
        ("x", batch.x.astype(jnp.int32)),
        ("x", batch.x > 0),
        ("x", {"a": batch.x}),
        ("x", jnp.zeros(())),
    ]
    field, value = changes[rng.integers(len(changes))]
    if not field:
        return task, ""
    shown = jax.tree.map(lambda leaf: f"{leaf.dtype}{leaf.shape}", value)
    return task._replace(**{part: batch._replace(**{field: value})}), f"{part}.{field} = {shown} for {n} examples"
