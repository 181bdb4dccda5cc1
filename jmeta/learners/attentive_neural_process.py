"""Attentive neural processes: every target attends to the points of the context that resemble it.

A mean over the context underfits: even at a point of the context the prediction misses its target. Here a target's
representation is r(x) = Σᵢ wᵢ(x) h([xᵢ, yᵢ]) with weights w = softmaxᵢ(s(e(x), e(xᵢ))), a kernel smoother with learned
features e, and the decoder predicts p(y | x, r(x)). With a latent path, z ~ q(z | context) says what all targets have
in common, p(y | x, r(x), z), and training is by the bound of `neural_process`.

Reference: Kim, Mnih, Schwarz, Garnelo, Eslami, Rosenbaum, Vinyals, Teh, "Attentive Neural Processes", 2019,
arXiv:1901.05761, section 3, eq. 3 and appendix A. Differs from the paper: there is no self-attention among the points
of the context, each is encoded alone; and heads have no projections of their own: they are slices of the embedding and
of the encoder's outputs, whose last layers project, and the decoder's first layer joins them. One embedding serves
queries and keys.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ..losses import real_examples, without_padding
from ..tasks.class_arrays import check_positive
from ..types import Aux, Batch, EpisodeFn, Learner, LossFn, Model, PyTree, RandomKey, Task
from .latent_path import (
    LatentPath,
    Latents,
    check_latent_path,
    infer_latents,
    init_latent_path,
    latent_loss,
    mix_over_latents,
)
from .point_sets import check_no_statistics, check_rows, encode, pairs, with_each

__all__ = ["Context", "attentive_neural_process", "dot_product_scores", "laplace_scores"]

Scores = Callable[[Array, Array], Array]
"""`(queries [queries, features], keys [points, features]) -> [queries, points]`; larger for what is more alike."""

_NEVER = -1e30  # a score whose weight next to a real one is exactly 0; -inf would make NaN gradients


class Context(NamedTuple):
    """The adapted state: the context as targets attend to it.

    Attributes:
      keys: embedded inputs, `[points, features]`.
      values: encoded points, `[points, width]`.
      is_real: which points are not padding, `[points]`.
      latents: what the context says about z; `None` without a latent path.
    """

    keys: Array
    values: Array
    is_real: Array
    latents: Latents | None


def dot_product_scores(
    queries: Float[Array, "queries features"], keys: Float[Array, "points features"]
) -> Float[Array, "queries points"]:
    """Compute q · k / √features.

    Example:
      >>> import jax.numpy as jnp
      >>> dot_product_scores(jnp.ones((1, 4)), jnp.ones((2, 4))).tolist()
      [[2.0, 2.0]]
    """
    return jnp.matmul(queries, keys.T, precision="highest") / math.sqrt(queries.shape[-1])


def laplace_scores(
    queries: Float[Array, "queries features"], keys: Float[Array, "points features"]
) -> Float[Array, "queries points"]:
    """Compute −‖q − k‖₁, the exponent of a Laplace kernel; it does not depend on a bias of the embedding's last layer.

    Example:
      >>> import jax.numpy as jnp
      >>> laplace_scores(jnp.zeros((1, 2)), jnp.array([[0.0, 0.0], [1.0, -2.0]])).tolist()
      [[-0.0, -3.0]]
    """
    return -jnp.abs(queries[:, None, :] - keys[None, :, :]).sum(-1)


def attentive_neural_process(
    encoder: Model,
    embedding: Model,
    decoder: Model,
    *,
    scores: Scores = dot_product_scores,
    num_heads: int = 1,
    latent: LatentPath | None = None,
) -> Learner:
    """Predict from the points of the context that a target attends to.

    Args:
      encoder: maps rows [x, y], `[points, features + numbers]`, to the values, `[points, width]`.
      embedding: maps inputs `[points, features]` to keys and queries.
      decoder: maps rows [r(x), x], with a latent path [z, r(x), x], to predictions for each point, such as
        `models.normal_outputs(models.mlp([64, 64, 2]))` for one number.
      scores: how alike queries and keys are: `dot_product_scores`, `laplace_scores`, or the log of any other kernel.
      num_heads: heads, each of which sees its share of the embedding's and of the encoder's outputs; a divisor of both.
      latent: the latent path; `None` for a conditional process.

    Returns:
      A learner whose meta-parameters are `{"encoder": ..., "embedding": ..., "decoder": ...}`, and whose adapted state
      is a `Context`. With a latent path there is `"latent"`, too; predictions are mixtures over its samples, and the
      training episode is −ELBO per query point, with `losses.negative_log_likelihood`; `aux` adds the `kl`, in nats.
      Without points the context is represented by zeros.

    Raises:
      ValueError: if a network stores statistics of norm layers, or a number is not positive; at trace time if inputs
        and targets are not `[points, features]` and `[points, numbers]` in floating point, a network's outputs are not
        those above, or `num_heads` does not divide them.

    Example:
      >>> import jax, jmeta
      >>> from jmeta import learners, models, tasks
      >>> encoder, embedding = models.mlp([32, 16]), models.mlp([32, 16])
      >>> decoder = models.normal_outputs(models.mlp([32, 2]))
      >>> learner = learners.attentive_neural_process(encoder, embedding, decoder, num_heads=4)
      >>> sample = tasks.gaussian_process(tasks.kernels.rbf(length_scale=0.5), num_shots=8, num_queries=5, noise=0.1)
      >>> task = sample(jax.random.key(0))
      >>> meta_params = learner.init(jax.random.key(1), task)
      >>> adapted = jax.jit(learner.adapt)(meta_params, task.support, jax.random.key(2))
      >>> jax.jit(learner.predict)(meta_params, adapted, task.query.x, None).loc.shape
      (5, 1)

    Reference:
      Kim et al., "Attentive Neural Processes", 2019, arXiv:1901.05761, section 3 and appendix A.
    """
    check_positive({"num_heads": num_heads})
    check_no_statistics(encoder=encoder, embedding=embedding, decoder=decoder)
    if latent is not None:
        check_latent_path(latent)
    attention = _Attention(encoder, embedding, scores, num_heads)

    def init(key: RandomKey, task: Task) -> PyTree:
        key_attention, key_decoder, key_latent = jax.random.split(key, 3)
        params, given = _init_attention(attention, key_attention, task)
        if latent is not None:
            params["latent"], sample = init_latent_path(latent, key_latent, task)
            given = with_each(jnp.zeros(sample.shape, sample.dtype), given)
        return params | {"decoder": decoder.init(key_decoder, given)}

    def decode(meta_params: PyTree, given: Array, sample: Array | None, key: RandomKey | None) -> PyTree:
        given = given if sample is None else with_each(sample, given)
        return decoder.apply(meta_params["decoder"], given, key)

    def adapt(meta_params: PyTree, support: Batch, key: RandomKey) -> Context:
        key_context, key_latents = jax.random.split(key)
        context = _look_up(attention, meta_params, support, key_context)
        if latent is None:
            return context
        return context._replace(latents=infer_latents(latent, meta_params["latent"], support, key_latents))

    def predict(meta_params: PyTree, adapted: Context, x: PyTree, key: RandomKey | None) -> PyTree:
        key_attend, key_decode = (None, None) if key is None else jax.random.split(key)
        given = _attend(attention, meta_params, adapted, x, key_attend)
        if adapted.latents is None:
            return decode(meta_params, given, None, key_decode)
        of_sample = lambda sample, key: decode(meta_params, given, sample, key)  # noqa: E731
        return mix_over_latents(of_sample, adapted.latents.samples, key_decode)

    if latent is None:
        return Learner(init, adapt, predict)

    def episode(outer_loss: LossFn) -> EpisodeFn:
        def episode_fn(meta_params: PyTree, task: Task, key: RandomKey) -> tuple[Array, Aux]:
            key_context, key_attend, key_elbo = jax.random.split(key, 3)
            context = _look_up(attention, meta_params, task.support, key_context)
            given = _attend(attention, meta_params, context, task.query.x, key_attend)
            of_sample = lambda sample, key: decode(meta_params, given, sample, key)  # noqa: E731
            return latent_loss(latent, meta_params["latent"], task, key_elbo, of_sample, outer_loss)

        return episode_fn

    return Learner(init, adapt, predict, episode)


class _Attention(NamedTuple):
    encoder: Model
    embedding: Model
    scores: Scores
    num_heads: int


def _init_attention(attention: _Attention, key: RandomKey, task: Task) -> tuple[dict[str, PyTree], Array]:
    """Return the parameters `{"encoder": ..., "embedding": ...}`, and zeros of the form of rows [r(x), x]."""
    key_encoder, key_embedding = jax.random.split(key)
    inputs = pairs(task.support)
    params = attention.encoder.init(key_encoder, inputs)
    rows = jax.eval_shape(lambda params: encode(attention.encoder, params, inputs, None), params)
    embedding = attention.embedding.init(key_embedding, task.query.x)
    given = with_each(jnp.zeros(rows.shape[1], rows.dtype), task.query.x)
    return {"encoder": params, "embedding": embedding}, given


def _look_up(attention: _Attention, meta_params: PyTree, support: Batch, key: RandomKey) -> Context:
    """Return keys and values of the context."""
    key_encoder, key_embedding = jax.random.split(key)
    values = encode(attention.encoder, meta_params["encoder"], pairs(support), key_encoder)
    keys = encode(attention.embedding, meta_params["embedding"], without_padding(support).x, key_embedding)
    return Context(keys, values, real_examples(support), None)


def _attend(
    attention: _Attention, meta_params: PyTree, context: Context, x: PyTree, key: RandomKey | None
) -> Float[Array, "queries given"]:
    """Return rows [r(x), x]; r(x) is zeros where no point of the context is real."""
    x = check_rows("inputs [points, features]", x)
    queries = encode(attention.embedding, meta_params["embedding"], x, key)
    is_visible = context.is_real | ~context.is_real.any()

    def of_head(queries: Array, keys: Array, values: Array) -> Array:
        weights = jax.nn.softmax(jnp.where(is_visible[None], attention.scores(queries, keys), _NEVER))
        return jnp.matmul(jnp.where(context.is_real[None], weights, 0), values, precision="highest")

    heads = (_split_heads(rows, attention.num_heads) for rows in (queries, context.keys, context.values))
    attended = jax.vmap(of_head, in_axes=1, out_axes=1)(*heads)
    return jnp.concatenate([attended.reshape(len(x), context.values.shape[1]), x], axis=1)


def _split_heads(rows: Float[Array, "rows width"], num_heads: int) -> Float[Array, "rows heads share"]:
    if rows.shape[1] % num_heads:
        raise ValueError(
            f"num_heads={num_heads} does not divide the {rows.shape[1]} outputs of the embedding or of the encoder; "
            "change their last layer"
        )
    return rows.reshape(len(rows), num_heads, rows.shape[1] // num_heads)
