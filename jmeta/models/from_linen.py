"""The bridge from Flax Linen: any `flax.linen.Module` as a `Model`.

Linen already consists of init and apply. The bridge turns a collection of running averages into ordinary leaves,
chooses between two modes of call by the key, and adds a `calibrate` that stores the statistics of its inputs, not a
moving average.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
from flax import linen as nn

from ..types import Model, PyTree, RandomKey
from .inputs import of_init
from .states import exact_averages

__all__ = ["from_linen"]


def from_linen(
    module: nn.Module,
    *,
    training: Mapping[str, Any] | None = None,
    evaluation: Mapping[str, Any] | None = None,
    statistics: str | None = None,
    rngs: Sequence[str] = ("dropout",),
) -> Model:
    """Use a Linen module as a model.

    With a key, the module is called with the arguments of `training`; without one, with those of `evaluation`, and
    every `nn.Dropout` in it is switched off. So `evaluation={"train": True}` requests the batch statistics of the call,
    without dropout, where the usual `{"train": False}` requests the stored ones.

    `calibrate` calls it with the arguments of `training` and stores the statistics of the inputs themselves, not a
    mixture with the old averages. It needs no second pass, since a moving average is affine in its old value.

    Build convolutions with `nn.Conv(conv_general_dilated=jmeta.models.patch_conv)` if tasks adapt them on a CPU.

    Args:
      module: called as `module(x, ...)`.
      training: keyword arguments of a call with a key, and of `calibrate`.
      evaluation: keyword arguments of a call without a key, and of initialisation.
      statistics: name of the collection that holds running averages, `"batch_stats"` for `nn.BatchNorm`; `None` if the
        module has none.
      rngs: names of the random streams that the module draws from.

    Returns:
      A model with parameters `{"params": ...}`, and `"stats": {statistics: ...}` if it stores any.

    Raises:
      ValueError: on `init`, if the module has variables other than its parameters and `statistics`.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from flax import linen as nn
      >>> model = from_linen(nn.BatchNorm(momentum=0.5), training={"use_running_average": False},
      ...                    evaluation={"use_running_average": True}, statistics="batch_stats")
      >>> params = model.init(jax.random.key(0), jnp.ones((4, 2)))
      >>> outputs, params = model.calibrate(params, 3 * jnp.ones((4, 2)), None)
      >>> params["stats"]["batch_stats"]["mean"]
      Array([3., 3.], dtype=float32)
    """
    in_training, in_evaluation = dict(training or {}), dict(evaluation or {})
    stored = [] if statistics is None else [statistics]

    def init(key: RandomKey, x: PyTree) -> PyTree:
        variables = dict(module.init(_streams(("params", *rngs), key), x, **in_evaluation))
        params = {"params": variables.pop("params", {})}
        if sorted(variables) != stored:
            raise ValueError(
                f"from_linen got statistics={statistics!r}, but the module's variables beside 'params' are "
                f"{sorted(variables)}; name the collection of running averages ('batch_stats' for nn.BatchNorm), or "
                "pass None if there is none; other collections are not supported"
            )
        return {**params, "stats": variables} if variables else params

    def run(params: PyTree, stats: PyTree, x: PyTree, key: RandomKey | None, arguments: dict[str, Any]) -> Any:
        variables = {"params": params["params"], **stats}
        if key is not None:
            with of_init(x):
                return module.apply(variables, x, rngs=_streams(rngs, key), mutable=stored, **arguments)
        with of_init(x), nn.intercept_methods(_without_dropout):
            return module.apply(variables, x, mutable=stored, **arguments)

    def apply(params: PyTree, x: PyTree, key: RandomKey | None) -> PyTree:
        outputs, _ = run(params, params.get("stats", {}), x, key, in_evaluation if key is None else in_training)
        return outputs

    def calibrate(params: PyTree, x: PyTree, key: RandomKey | None) -> tuple[PyTree, PyTree]:
        def update(stats: PyTree) -> tuple[PyTree, PyTree]:
            outputs, updated = run(params, stats, x, key, in_training)
            return updated, outputs

        stats, outputs = exact_averages(update, params["stats"])
        return outputs, {**params, "stats": stats}

    return Model(init, apply, calibrate if stored else None)


def _streams(names: Sequence[str], key: RandomKey) -> dict[str, Any]:
    return dict(zip(names, jax.random.split(key, len(names)), strict=True)) if names else {}


def _without_dropout(next_call: Callable[..., Any], args: Any, kwargs: Any, context: Any) -> Any:
    if isinstance(context.module, nn.Dropout) and context.method_name == "__call__":
        return args[0] if args else kwargs["inputs"]
    return next_call(*args, **kwargs)
