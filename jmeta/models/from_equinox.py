"""The bridge from Equinox: any `equinox.Module`, stateful or not, as a `Model`.

An Equinox module *is* its parameters, takes one example, and keeps its state under markers that are new objects in
every module. A `Model` has parameters of a fixed structure and takes many examples. So the bridge separates a module's
arrays from the rest once, maps over examples, and turns the state into ordinary leaves. Equinox is optional: it is
imported when the bridge is used.
"""

import inspect
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from ..types import Model, PyTree, RandomKey
from .states import as_leaves, from_leaves

__all__ = ["from_equinox"]


def from_equinox(make: Callable[[RandomKey], Any], *, axis_name: str = "batch", transductive: bool = False) -> Model:
    """Use an Equinox module as a model.

    Equinox modules take one example; the bridge maps them over the examples under `axis_name`. With a key, the module
    is in training mode; without one, in inference mode, as by `equinox.nn.inference_mode`. `calibrate` restarts the
    averages of every `equinox.nn.BatchNorm`, so that they store the statistics of its inputs alone; this takes no
    second pass.

    A `BatchNorm(mode="ema")` normalises by its running averages in training too: prefer `mode="batch"`.

    Args:
      make: builds the module from a key: returns the module, or `(module, state)` as `equinox.nn.make_with_state(...)`
        does. The module is called as `module(x)`, or `module(x, state)` if it has a state, with `key=key` as well if
        its `__call__` has an argument of that name. With a state it returns `(outputs, state)`.
      axis_name: the name given to the module's norm layers.
      transductive: whether batch norm uses the statistics of the call also without a key.

    Returns:
      A model whose parameters `{"params": module}` hold the module's floating-point arrays, with `"stats": ...` for its
      state if it has one.

    Raises:
      ImportError: if Equinox is not installed.

    Example:
      >>> import equinox as eqx, jax, jax.numpy as jnp
      >>> model = from_equinox(lambda key: eqx.nn.Linear(3, 2, key=key))
      >>> params = model.init(jax.random.key(0), jnp.ones((4, 3)))
      >>> model.apply(params, jnp.ones((4, 3)), None).shape
      (4, 2)
    """
    eqx = _equinox()
    module_and_state = make(jax.random.key(0))
    stateful = isinstance(module_and_state, tuple)
    template, first_state = module_and_state if stateful else (module_and_state, ())
    params_template, static = eqx.partition(template, eqx.is_inexact_array)
    structure = jax.tree.structure(params_template)
    like, state_structure = jax.tree.flatten(first_state)
    takes_key = "key" in inspect.signature(type(template).__call__).parameters
    norms = _norms(template)

    def init(key: RandomKey, x: PyTree) -> PyTree:
        del x
        made = make(key)
        module, state = made if stateful else (made, ())
        # Leaves only: the markers of a module's state are new objects in every module.
        params = jax.tree.unflatten(structure, jax.tree.leaves(eqx.filter(module, eqx.is_inexact_array)))
        return {"params": params, **({"stats": as_leaves(jax.tree.leaves(state))} if stateful else {})}

    def run(params: PyTree, state: Any, x: PyTree, key: RandomKey | None, stored: bool) -> tuple[Any, Any]:
        module = eqx.nn.inference_mode(eqx.combine(params["params"], static), value=key is None)
        if norms:
            module = eqx.tree_at(lambda tree: [norm.inference for norm in _norms(tree)], module, [stored] * len(norms))
        count = jax.tree.leaves(x)[0].shape[0]
        keys = None if key is None else jax.random.split(key, count)

        def of_example(x: PyTree, state: Any, key: RandomKey | None) -> tuple[Any, Any]:
            arguments = {"key": key} if takes_key else {}
            return module(x, state, **arguments) if stateful else (module(x, **arguments), state)

        in_axes = (0, None, None if keys is None else 0)
        return jax.vmap(of_example, in_axes=in_axes, out_axes=(0, None), axis_name=axis_name)(x, state, keys)

    def state_of(params: PyTree) -> Any:
        return jax.tree.unflatten(state_structure, from_leaves(params["stats"], like) if stateful else [])

    def apply(params: PyTree, x: PyTree, key: RandomKey | None) -> PyTree:
        outputs, _ = run(params, state_of(params), x, key, stored=key is None and not transductive)
        return outputs

    def calibrate(params: PyTree, x: PyTree, key: RandomKey | None) -> tuple[PyTree, PyTree]:
        outputs, state = run(params, _started_afresh(state_of(params), norms), x, key, stored=False)
        return outputs, {**params, "stats": as_leaves(jax.tree.leaves(state))}

    return Model(init, apply, calibrate if norms else None)


def _equinox() -> Any:
    try:
        import equinox
    except ImportError as error:
        raise ImportError('from_equinox needs Equinox; install it with `pip install "jmeta[bridges]"`') from error
    return equinox


def _norms(module: Any) -> list[Any]:
    batch_norm = _equinox().nn.BatchNorm
    leaves = jax.tree.leaves(module, is_leaf=lambda node: isinstance(node, batch_norm))
    return [leaf for leaf in leaves if isinstance(leaf, batch_norm)]


def _started_afresh(state: Any, norms: list[Any]) -> Any:
    """Return `state` as before any update, with averages of zero: after one update only the new statistics remain."""
    for norm in norms:
        if norm.mode == "ema":
            state = state.set(norm.ema_first_time_index, jnp.array(True))
        else:
            averages = state.get(norm.batch_state_index)
            state = state.set(norm.batch_state_index, jax.tree.map(jnp.zeros_like, averages))
            state = state.set(norm.batch_counter, jnp.zeros_like(state.get(norm.batch_counter)))
    return state
