"""LEO, "latent embedding optimisation": inner steps on a low-dimensional code that a classifier is decoded from.

A network relates every pair of support examples, and the relations of a class's examples, averaged, are the mean and
the scale of a code zₖ of that class. A linear decoder maps zₖ to a distribution of the class's weights wₖ, and the
logit of class k is f(x)·wₖ. Inner steps descend the support loss on the codes, z ← z − α ∇L(w(z)), and then on the
weights themselves: few numbers generate many, so few examples suffice.

Meta-training descends L(w; query) + β KL(q(z) ‖ N(0, 1)) + γ ‖z′ − z‖² + λ ‖C − I‖²: z′ the adapted code, which the
encoder should predict, and C the correlations of the decoder's rows, which should be orthogonal.

Reference: Rusu, Rao, Sygnowski, Vinyals, Pascanu, Osindero, Hadsell, "Meta-Learning with Latent Embedding
Optimization", 2019, arXiv:1807.05960, section 2, algorithm 1; the authors' code for what the paper leaves open. As
there, meta-training draws codes and weights, adaptation takes their means, learned rates have an entry for each latent
and each feature, and the terms of the loss are means over entries. Differs from them: the embedding may be learned with
the rest; an inner loss is a mean over examples, not a sum; scales are softplus functions, 1 at the start; the
divergence is in closed form; a penalty on the size of parameters is left to the optimizer, dropout to the embedding.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from .. import adjoints
from ..adaptation import descend
from ..adjoints import Adjoint, Objective
from ..distributions import Normal, normal_kl
from ..losses import checked_loss
from ..optimizers import learned_rates
from ..types import Aux, Batch, EpisodeFn, Learner, LossFn, Model, PyTree, RandomKey, Task
from .comparison import check_num_ways, class_means, directions, embed, embed_support, exclude_absent, one_hot_labels

__all__ = ["GeneratedHead", "leo"]

_MIN_SCALE = 1e-3  # the logarithm of a scale stays finite


class GeneratedHead(NamedTuple):
    """The adapted state: a linear classifier, and the codes that it was decoded from.

    Attributes:
      params: parameters of the embedding, with the support's statistics if it stores any.
      codes: `[ways, latents]`, after the inner steps.
      weights: `[ways, features]`, decoded and fine-tuned.
      counts: `[ways]`, real examples of each class.
    """

    params: PyTree
    codes: Array
    weights: Array
    counts: Array


class _Context(NamedTuple):
    decoder: Array
    rates: Array  # of what the loop descends
    embeddings: Array
    counts: Array
    support: Batch


def leo(
    embedding: Model,
    loss_fn: LossFn,
    *,
    num_ways: int,
    num_latents: int = 64,
    num_steps: int = 5,
    num_fine_tuning_steps: int = 5,
    initial_latent_lr: float = 1.0,
    initial_weights_lr: float = 1e-3,
    kl_weight: float = 1e-3,
    encoder_weight: float = 1e-9,
    orthogonality_weight: float = 1e-3,
    learns_embedding: bool = True,
    adjoint: Adjoint = adjoints.unrolled(),
) -> Learner:
    """Learn to generate a classifier from a code for each class; adapt the codes by a few steps.

    Args:
      embedding: embeds inputs; `apply` returns `[examples, features]`.
      loss_fn: `(logits, batch) -> (loss, aux)`, descended on the support.
      num_ways: number of classes in a task; labels are `0..num_ways-1`. A class without a real support example gets a
        logit of -inf.
      num_latents: length of a code, positive.
      num_steps: inner steps on the codes, at least 0.
      num_fine_tuning_steps: steps on the weights that follow, at least 0.
      initial_latent_lr, initial_weights_lr: inner rates to start from; each entry of a code, and each feature, learns
        its own.
      kl_weight: β, not negative.
      encoder_weight: γ, not negative.
      orthogonality_weight: λ, not negative.
      learns_embedding: whether meta-training changes the embedding; if not, it is used as it is initialised, or as a
        warm start makes it.
      adjoint: how both inner loops are differentiated.

    Returns:
      A learner whose adapted state is a `GeneratedHead`; its meta-parameters are `{"embedding": ..., "encoder": ...,
      "relation": ..., "decoder": ..., "lr": ...}`. The training episode's `aux` has the `kl`, the
      `encoder_distance` and the `correlation`, without their weights.

    Raises:
      ValueError: if a number is out of its range; at trace time if embeddings or labels do not have the form above.

    Example:
      >>> import jax, jmeta
      >>> from jmeta import learners, losses, models
      >>> learner = learners.leo(models.mlp([32, 16]), losses.cross_entropy, num_ways=5, num_latents=8)
      >>> task = jmeta.tasks.gaussian_blobs(num_ways=5, num_shots=1, num_queries=3)(jax.random.key(0))
      >>> meta_params = learner.init(jax.random.key(1), task)
      >>> adapted = learner.adapt(meta_params, task.support, jax.random.key(2))
      >>> adapted.codes.shape, adapted.weights.shape
      ((5, 8), (5, 16))

    Reference:
      Rusu et al., "Meta-Learning with Latent Embedding Optimization", 2019, arXiv:1807.05960, algorithm 1.
    """
    check_num_ways(num_ways)
    _check(num_latents, kl_weight, encoder_weight, orthogonality_weight)
    rates = lambda context: learned_rates(context.rates)  # noqa: E731
    on_codes, on_drawn_codes = (
        descend(_loss_of_codes(loss_fn, draws=draws), rates, num_steps=num_steps, adjoint=adjoint)
        for draws in (False, True)
    )
    on_weights = descend(_loss_of_weights(loss_fn), rates, num_steps=num_fine_tuning_steps, adjoint=adjoint)

    def init(key: RandomKey, task: Task) -> PyTree:
        key_embedding, key_encoder, key_relation, key_decoder = jax.random.split(key, 4)
        params = embedding.init(key_embedding, task.support.x)
        features = jax.eval_shape(lambda x: embed(embedding, params, x, None), task.support.x).shape[1]
        return {
            "embedding": params,
            "encoder": _matrix(key_encoder, features, num_latents),
            "relation": [_matrix(key, 2 * num_latents, 2 * num_latents) for key in jax.random.split(key_relation, 3)],
            "decoder": _matrix(key_decoder, num_latents, 2 * features),
            "lr": {
                "codes": jnp.full(num_latents, initial_latent_lr, jnp.float32),
                "weights": jnp.full(features, initial_weights_lr, jnp.float32),
            },
        }

    def infer(
        meta_params: PyTree, support: Batch, key: RandomKey, *, draws: bool
    ) -> tuple[GeneratedHead, Normal, Float[Array, "ways latents"]]:
        """Return the adapted head, the distribution of the codes, and the codes that the steps started from."""
        key_embedding, key_codes, key_descend, key_weights, key_fine_tune = jax.random.split(key, 5)
        body, decoder, lr = meta_params["embedding"], meta_params["decoder"], meta_params["lr"]
        body = body if learns_embedding else jax.lax.stop_gradient(body)
        embeddings, params = embed_support(embedding, body, support, key_embedding)
        one_hot = one_hot_labels(support, num_ways, embeddings.dtype)
        counts = one_hot.sum(0)
        distribution = _encode(meta_params, embeddings, one_hot)
        start = _value(distribution, key_codes if draws else None)
        context = _Context(decoder, lr["codes"][None], embeddings, counts, support)
        codes, _ = (on_drawn_codes if draws else on_codes)(start, context, key_descend)
        weights = _value(_decode(decoder, codes), key_weights if draws else None)
        weights, _ = on_weights(weights, context._replace(rates=lr["weights"][None]), key_fine_tune)
        return GeneratedHead(params, codes, weights, counts), distribution, start

    def adapt(meta_params: PyTree, support: Batch, key: RandomKey) -> GeneratedHead:
        return infer(meta_params, support, key, draws=False)[0]

    def predict(
        meta_params: PyTree, adapted: GeneratedHead, x: PyTree, key: RandomKey | None
    ) -> Float[Array, "examples ways"]:
        del meta_params
        return _logits(embed(embedding, adapted.params, x, key), adapted.weights, adapted.counts)

    def episode(outer_loss: LossFn) -> EpisodeFn:
        def episode_fn(meta_params: PyTree, task: Task, key: RandomKey) -> tuple[Any, Aux]:
            key_infer, key_predict = jax.random.split(key)
            head, distribution, start = infer(meta_params, task.support, key_infer, draws=True)
            outputs = predict(meta_params, head, task.query.x, key_predict)
            loss, aux = checked_loss(outer_loss(outputs, task.query), "what loss_fn returns")
            is_present = head.counts > 0
            standard = Normal(jnp.zeros_like(start), jnp.ones_like(start))
            kl = _mean_of_classes(normal_kl(distribution, standard), is_present)
            distance = _mean_of_classes(jnp.square(jax.lax.stop_gradient(head.codes) - start), is_present)
            correlation = _correlation(meta_params["decoder"])
            terms = kl_weight * kl + encoder_weight * distance + orthogonality_weight * correlation
            return loss + terms, {**aux, "kl": kl, "encoder_distance": distance, "correlation": correlation}

        return episode_fn

    return Learner(init, adapt, predict, episode)


def _check(num_latents: int, kl_weight: float, encoder_weight: float, orthogonality_weight: float) -> None:
    if num_latents < 1:
        raise ValueError(f"num_latents={num_latents}; a code to adapt has at least one number")
    if not (kl_weight >= 0 and encoder_weight >= 0 and orthogonality_weight >= 0):
        raise ValueError(
            f"kl_weight={kl_weight}, encoder_weight={encoder_weight} and orthogonality_weight={orthogonality_weight}; "
            "expected numbers of at least 0"
        )


def _loss_of_weights(loss_fn: LossFn) -> Objective:
    def objective(weights: PyTree, context: _Context, step: Any, key: RandomKey) -> tuple[Any, Aux]:
        del step, key
        return loss_fn(_logits(context.embeddings, weights, context.counts), context.support)

    return objective


def _loss_of_codes(loss_fn: LossFn, *, draws: bool) -> Objective:
    loss_of_weights = _loss_of_weights(loss_fn)

    def objective(codes: PyTree, context: _Context, step: Any, key: RandomKey) -> tuple[Any, Aux]:
        weights = _value(_decode(context.decoder, codes), key if draws else None)
        return loss_of_weights(weights, context, step, key)

    return objective


def _matrix(key: RandomKey, num_inputs: int, num_outputs: int) -> Float[Array, "inputs outputs"]:
    return jax.nn.initializers.glorot_uniform()(key, (num_inputs, num_outputs), jnp.float32)


def _times(x: Float[Array, "*rows inputs"], matrix: Float[Array, "inputs outputs"]) -> Float[Array, "*rows outputs"]:
    return jnp.matmul(x, matrix, precision="highest")


def _encode(
    meta_params: PyTree, embeddings: Float[Array, "examples features"], one_hot: Float[Array, "examples ways"]
) -> Normal:
    """Return the codes' distributions, `[ways, latents]`, from the relations of a class's examples with all others."""
    is_real = one_hot.sum(1)
    encoded = _times(embeddings, meta_params["encoder"])
    first, second, third = meta_params["relation"]
    left, right = jnp.split(first, 2)
    pairs = _times(encoded, left)[:, None] + _times(encoded, right)[None]  # a pair is two codes side by side
    relations = _times(jax.nn.relu(_times(jax.nn.relu(pairs), second)), third)
    of_examples = (relations * is_real[None, :, None]).sum(1) / jnp.maximum(is_real.sum(), 1.0)
    loc, raw = jnp.split(class_means(of_examples, one_hot)[0], 2, axis=1)
    return Normal(loc, _scale(raw))


def _decode(decoder: Float[Array, "latents outputs"], codes: Float[Array, "ways latents"]) -> Normal:
    """Return the distributions of the weights, `[ways, features]`, of Glorot's scale to start with."""
    loc, raw = jnp.split(_times(codes, decoder), 2, axis=1)
    return Normal(loc, _scale(raw) * (2.0 / sum(loc.shape)) ** 0.5)


def _scale(raw: Float[Array, "ways numbers"]) -> Float[Array, "ways numbers"]:
    """Return positive numbers, 1 for 0, that grow as fast as their arguments: an exponential overflows in training."""
    return _MIN_SCALE + (1.0 - _MIN_SCALE) * jax.nn.softplus(raw) / math.log(2.0)


def _value(normal: Normal, key: RandomKey | None) -> Float[Array, "ways numbers"]:
    """Return a draw, or without a key the mean."""
    return normal.loc if key is None else normal.sample(key)


def _logits(
    embeddings: Float[Array, "examples features"],
    weights: Float[Array, "ways features"],
    counts: Float[Array, "ways"],
) -> Float[Array, "examples ways"]:
    return exclude_absent(_times(embeddings, weights.T), counts)


def _mean_of_classes(values: Float[Array, "ways latents"], is_present: Array) -> Float[Array, ""]:
    counted = jnp.where(is_present[:, None], values, 0.0).sum()
    return counted / (values.shape[1] * jnp.maximum(is_present.sum(), 1)).astype(values.dtype)


def _correlation(decoder: Float[Array, "latents outputs"]) -> Float[Array, ""]:
    """Return the mean square of C − I, C the cosines of the rows of the decoder with each other."""
    rows = directions(decoder)
    return jnp.square(_times(rows, rows.T) - jnp.eye(rows.shape[0], dtype=rows.dtype)).mean()
