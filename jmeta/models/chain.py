"""Two networks in sequence as one model: a body that embeds and a head that predicts.

Learners that treat the two differently (ANIL adapts the head, BOIL the body) take them separately; `chain` joins them.
"""

import jax

from ..types import Model, PyTree, RandomKey

__all__ = ["chain", "apply_and_calibrate"]


def chain(body: Model, head: Model) -> Model:
    """Build `head(body(x))`, with parameters `{"body": ..., "head": ...}`.

    The result stores statistics if either part does.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from jmeta import models
      >>> model = models.chain(models.mlp([16, 8]), models.mlp([5]))
      >>> params = model.init(jax.random.key(0), jnp.ones((3, 4)))
      >>> sorted(params), model.apply(params, jnp.ones((3, 4)), None).shape
      (['body', 'head'], (3, 5))
    """

    def init(key: RandomKey, x: PyTree) -> PyTree:
        key_body, key_head = jax.random.split(key)
        body_params = body.init(key_body, x)
        features = jax.eval_shape(lambda params: body.apply(params, x, None), body_params)
        zeros = jax.tree.map(lambda leaf: jax.numpy.zeros(leaf.shape, leaf.dtype), features)
        return {"body": body_params, "head": head.init(key_head, zeros)}

    def apply(params: PyTree, x: PyTree, key: RandomKey | None) -> PyTree:
        key_body, key_head = _split(key)
        return head.apply(params["head"], body.apply(params["body"], x, key_body), key_head)

    def calibrate(params: PyTree, x: PyTree, key: RandomKey | None) -> tuple[PyTree, PyTree]:
        key_body, key_head = _split(key)
        features, body_params = apply_and_calibrate(body, params["body"], x, key_body)
        outputs, head_params = apply_and_calibrate(head, params["head"], features, key_head)
        return outputs, {"body": body_params, "head": head_params}

    stores_statistics = body.calibrate is not None or head.calibrate is not None
    return Model(init, apply, calibrate if stores_statistics else None)


def apply_and_calibrate(model: Model, params: PyTree, x: PyTree, key: RandomKey | None) -> tuple[PyTree, PyTree]:
    """Run `calibrate` of any model and return `(outputs, params)`; without statistics the parameters stay unchanged."""
    if model.calibrate is not None:
        return model.calibrate(params, x, key)
    return model.apply(params, x, key), params


def _split(key: RandomKey | None) -> tuple[RandomKey | None, RandomKey | None]:
    if key is None:
        return None, None
    key_body, key_head = jax.random.split(key)
    return key_body, key_head
