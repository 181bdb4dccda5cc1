"""The bridge from Flax NNX: any `flax.nnx.Module` as a `Model`.

A module is split once, when the bridge is built; each call merges a fresh one, with its state rebuilt from the
parameters that were passed and its random streams from the key. So there are no objects to share or to leak tracers
into, NNX's own transforms are not needed, and `jax.grad`, `vmap` and `scan` work as on any pure function. NNX is
imported when the bridge is used.
"""

from collections.abc import Callable
from typing import Any

import jax

from ..types import Model, PyTree, RandomKey
from .states import as_leaves, from_leaves

__all__ = ["from_nnx"]


def from_nnx(make: Callable[[Any], Any], *, transductive: bool = False) -> Model:
    """Use an NNX module as a model.

    With a key, the module is in training mode: dropout on, batch norm with the statistics of the call. Without one it
    is in evaluation mode. `calibrate` stores the statistics of its inputs themselves, not a mixture with the old
    averages, in the same pass, with a momentum of 0.

    Gradients of all orders flow through the statistics of the call, so meta-training is exact. But NNX stops gradients
    at stored statistics: a prediction without a key treats the support's statistics as constants. To differentiate
    through those, too, use `transductive=True`, or write the network in Linen.

    Args:
      make: builds the module, as `make(rngs)`.
      transductive: whether batch norm uses the statistics of the call also without a key.

    Returns:
      A model with parameters `{"params": ...}`; and `"stats": ...` if the module has variables other than parameters
      and random streams, among which `"stats/batch_stats"` are those of norm layers.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from flax import nnx
      >>> model = from_nnx(lambda rngs: nnx.Linear(3, 2, rngs=rngs))
      >>> params = model.init(jax.random.key(0), jnp.ones((4, 3)))
      >>> model.apply(params, jnp.ones((4, 3)), None).shape
      (4, 2)
    """
    from flax import nnx

    graph, *templates = _split(make(nnx.Rngs(0)))
    like = _pure(templates[2:])

    def init(key: RandomKey, x: PyTree) -> PyTree:
        del x
        _, params, _, *stats = _split(make(nnx.Rngs(key)))
        return {"params": nnx.to_pure_dict(params), **({"stats": as_leaves(_pure(stats))} if like else {})}

    def run(params: PyTree, x: PyTree, key: RandomKey | None, attributes: dict[str, Any]) -> tuple[Any, PyTree]:
        stats = from_leaves(params["stats"], like) if like else {}
        module = nnx.merge(
            graph,
            _filled(templates[0], params["params"]),
            _seeded(templates[1], jax.random.key(0) if key is None else key),
            _filled(templates[2], stats.get("batch_stats", {})),
            _filled(templates[3], stats.get("others", {})),
        )
        module.set_attributes(deterministic=key is None, raise_if_not_found=False)
        module.set_attributes(nnx.BatchNorm, raise_if_not_found=False, **attributes)
        outputs = module(x)  # pyright: ignore[reportCallIssue]
        return outputs, as_leaves(_pure(_split(module)[3:]))

    def apply(params: PyTree, x: PyTree, key: RandomKey | None) -> PyTree:
        outputs, _ = run(params, x, key, {"use_running_average": key is None and not transductive})
        return outputs

    def calibrate(params: PyTree, x: PyTree, key: RandomKey | None) -> tuple[PyTree, PyTree]:
        outputs, stats = run(params, x, key, {"use_running_average": False, "momentum": 0.0})
        return outputs, {**params, "stats": stats}

    return Model(init, apply, calibrate if "batch_stats" in like else None)


def _split(module: Any) -> tuple[Any, ...]:
    """Split a module into `(graph, parameters, random streams, norm statistics, other variables)`."""
    from flax import nnx

    return nnx.split(module, nnx.Param, nnx.RngState, nnx.BatchStat, ...)


def _pure(states: Any) -> dict[str, Any]:
    """Return the statistics and other variables as dictionaries, without empty ones."""
    from flax import nnx

    named = {name: nnx.to_pure_dict(state) for name, state in zip(("batch_stats", "others"), states, strict=True)}
    return {name: leaves for name, leaves in named.items() if leaves}


def _filled(template: Any, leaves: PyTree) -> Any:
    from flax import nnx

    state = jax.tree.map(lambda leaf: leaf, template)  # new variables, so that the template stays unchanged
    nnx.replace_by_pure_dict(state, leaves)
    return state


def _seeded(template: Any, key: RandomKey) -> Any:
    """Return the random streams at their start, each with its own key."""
    leaves, structure = jax.tree.flatten(template)
    keys = jax.random.split(key, max(len(leaves), 1))
    is_key = lambda leaf: jax.numpy.issubdtype(leaf.dtype, jax.dtypes.prng_key)  # noqa: E731
    fresh = [keys[i] if is_key(leaf) else jax.numpy.zeros(leaf.shape, leaf.dtype) for i, leaf in enumerate(leaves)]
    return jax.tree.unflatten(structure, fresh)
