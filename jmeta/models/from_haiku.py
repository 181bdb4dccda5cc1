"""The bridge from Haiku: the result of `haiku.transform` or `haiku.transform_with_state`, as a `Model`.

Haiku already consists of init and apply, with its state next to the parameters. The bridge turns that state into
ordinary leaves, chooses between two modes of call by the key, and adds `calibrate`. Haiku is optional: it is imported
when the bridge is used.
"""

from collections.abc import Mapping
from typing import Any

import jax

from ..types import Model, PyTree, RandomKey
from .states import as_leaves, from_leaves

__all__ = ["from_haiku"]


def from_haiku(
    transformed: Any,
    *,
    training: Mapping[str, Any] | None = None,
    evaluation: Mapping[str, Any] | None = None,
    calibration: Mapping[str, Any] | None = None,
) -> Model:
    """Use a Haiku network as a model.

    With a key, the network is called with the arguments of `training`; without one, with those of `evaluation` and no
    random key. So `evaluation={"is_training": True}` requests the batch statistics of the call in evaluation, too.

    `calibrate` runs from the network's initial state. From there Haiku's averages, which correct for their start,
    become the statistics of the inputs themselves, without a second pass. Haiku's own initialisation also stores the
    statistics of its inputs.

    Args:
      transformed: `hk.transform(f)` or `hk.transform_with_state(f)` of a function `f(x, ...)`.
      training: keyword arguments of a call with a key, and of initialisation.
      evaluation: keyword arguments of a call without a key.
      calibration: keyword arguments of `calibrate` without a key, where no randomness is available; those of `training`
        by default.

    Returns:
      A model with parameters `{"params": ...}`, and `"stats": ...` for the state of `transform_with_state`.

    Raises:
      ImportError: if Haiku is not installed.
      ValueError: if `transformed` is not the result of a transformation.

    Example:
      >>> import haiku as hk, jax, jax.numpy as jnp
      >>> model = from_haiku(hk.transform(lambda x: hk.Linear(2)(x)))
      >>> params = model.init(jax.random.key(0), jnp.ones((4, 3)))
      >>> model.apply(params, jnp.ones((4, 3)), None).shape
      (4, 2)
    """
    try:
        import haiku as hk
    except ImportError as error:
        raise ImportError('from_haiku needs Haiku; install it with `pip install "jmeta[bridges]"`') from error
    if not isinstance(transformed, hk.Transformed | hk.TransformedWithState):
        raise ValueError(f"from_haiku got a {type(transformed).__name__}; pass hk.transform_with_state(f), f(x, ...)")
    stateful = isinstance(transformed, hk.TransformedWithState)
    pair = transformed if stateful else hk.with_empty_state(transformed)
    in_training, in_evaluation = dict(training or {}), dict(evaluation or {})
    in_calibration = in_training if calibration is None else dict(calibration)

    def init(key: RandomKey, x: PyTree) -> PyTree:
        params, state = pair.init(key, x, **in_training)
        return {"params": params, **({"stats": as_leaves(state)} if stateful else {})}

    def first_state(x: PyTree) -> PyTree:
        _, state = pair.init(jax.random.key(0), x, **in_training)
        return state

    def apply(params: PyTree, x: PyTree, key: RandomKey | None) -> PyTree:
        state = from_leaves(params["stats"], jax.eval_shape(first_state, x)) if stateful else {}
        outputs, _ = pair.apply(params["params"], state, key, x, **(in_evaluation if key is None else in_training))
        return outputs

    def calibrate(params: PyTree, x: PyTree, key: RandomKey | None) -> tuple[PyTree, PyTree]:
        arguments = in_calibration if key is None else in_training
        outputs, state = pair.apply(params["params"], first_state(x), key, x, **arguments)
        return outputs, {**params, "stats": as_leaves(state)}

    return Model(init, apply, calibrate if stateful else None)
