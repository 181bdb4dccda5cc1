"""Transformer neural processes, and prior-fitted networks: Bayesian regression in the forward pass of a transformer.

Every example of the support is a token of its input and its target; the tokens see each other. A query is a token of
its input alone, which sees the support and no other query. What the transformer makes of it is the distribution of its
target: p(y | x, D), which meta-training fits to tasks of the prior. With normal outputs this is TNP-D; with bins
(`models.binned_outputs`) it is a prior-fitted network.

The autoregressive one, TNP-A, is trained on log p(y₁, ..., yₙ | D) = Σᵢ log p(yᵢ | D, y₁, ..., yᵢ₋₁) in one pass: the
targets are in the sequence twice, with y, where they see the support, themselves and those before them, and without y,
where they see the support and those before them. The support sees no target.

Reference: Nguyen, Grover, "Transformer Neural Processes: Uncertainty-Aware Meta Learning Via Sequence Modeling", 2022,
arXiv:2207.04179, section 3. Müller, Hollmann, Pineda Arango, Grabocka, Hutter, "Transformers Can Do Bayesian
Inference", 2021, arXiv:2112.10510.

Differences from the papers: a token without a target lacks the whole term of the target, which in TNP is a target of 0
instead; one learned token is in every support, so that an empty one is allowed; norms come before the branches; and
TNP-A draws the order of the targets anew in every episode.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ..losses import checked_loss, real_examples, without_padding
from ..models.dense import dense, init_dense
from ..models.set_transformer import SetMemory, SetTransformer
from ..types import Aux, Batch, EpisodeFn, Learner, LossFn, Model, PyTree, RandomKey, Task
from .autoregressive import random_ranks
from .comparison import embed, embed_support

__all__ = ["Context", "transformer_neural_process"]


class Context(NamedTuple):
    """The adapted state of an in-context learner.

    Attributes:
      params: parameters of the embedding, with the support's statistics if it stores any.
      memory: the support, as the keys and values of every layer.
    """

    params: PyTree
    memory: SetMemory


def transformer_neural_process(
    embedding: Model, transformer: SetTransformer, head: Model, *, autoregressive: bool = False
) -> Learner:
    """Predict distributions of numbers by a transformer whose queries attend to the support.

    Args:
      embedding: embeds inputs; `apply` returns `[examples, features]`.
      transformer: sees the tokens, such as `models.set_transformer`.
      head: makes predictions from `[examples, width]` of the transformer: a `models.normal_outputs` or a
        `models.binned_outputs` with as many numbers as a target has.
      autoregressive: whether to meta-train on the joint density of the query, given by `loss_fn` of one prediction for
        each target given those before it. Adaptation and prediction are the same, and `learners.log_joint` evaluates
        either.

    Returns:
      A learner whose adapted state is a `Context`, and whose predictions are those of `head`. Targets are floating
      point, `[examples, numbers]`. Each query is predicted alone: a sum of log densities is that of independent ones.

    Raises:
      ValueError: at trace time, if targets or embeddings do not have the form above.

    Example:
      >>> import jax
      >>> from jmeta import learners, models, tasks
      >>> sample = tasks.gaussian_process(tasks.kernels.rbf(length_scale=0.5), num_shots=5, num_queries=3, noise=0.1)
      >>> learner = learners.transformer_neural_process(
      ...     models.mlp([16, 16]),
      ...     models.set_transformer(width=16, num_layers=2, num_heads=2),
      ...     models.normal_outputs(models.mlp([16, 2])),
      ... )
      >>> task = sample(jax.random.key(0))
      >>> meta_params = learner.init(jax.random.key(1), task)
      >>> context = jax.jit(learner.adapt)(meta_params, task.support, jax.random.key(2))
      >>> jax.jit(learner.predict)(meta_params, context, task.query.x, None).scale.shape
      (3, 1)

    Reference:
      Nguyen, Grover, 2022, arXiv:2207.04179, section 3; Müller et al., 2021, arXiv:2112.10510.
    """

    def init(key: RandomKey, task: Task) -> PyTree:
        key_embedding, key_x, key_y, key_token, key_transformer, key_head = jax.random.split(key, 6)
        params = embedding.init(key_embedding, task.support.x)
        features = jax.eval_shape(lambda x: embed(embedding, params, x, None), task.support.x).shape[1]
        width = transformer.width
        return {
            "embedding": params,
            "x": init_dense(key_x, features, width),
            "y": init_dense(key_y, _checked_targets(task.support).shape[1], width),
            "token": init_dense(key_token, width, width),
            "transformer": transformer.init(key_transformer),
            "head": head.init(key_head, jnp.zeros((1, width), jnp.float32)),
        }

    def extended(
        meta_params: PyTree, memory: SetMemory, embeddings: Array, batch: Batch, is_visible: Array | None
    ) -> SetMemory:
        targets = dense(meta_params["y"], _checked_targets(batch).astype(meta_params["y"]["kernel"].dtype))
        tokens = _tokens(meta_params, embeddings, targets)
        return transformer.extend(meta_params["transformer"], memory, tokens, real_examples(batch), is_visible)

    def adapt(meta_params: PyTree, support: Batch, key: RandomKey) -> Context:
        embeddings, params = embed_support(embedding, meta_params["embedding"], support, key)
        start = transformer.start(meta_params["transformer"])
        return Context(params, extended(meta_params, start, embeddings, without_padding(support), None))

    def read(
        meta_params: PyTree, memory: SetMemory, embeddings: Array, is_visible: Array | None, key: RandomKey | None
    ) -> PyTree:
        tokens = _tokens(meta_params, embeddings, None)
        outputs = transformer.read(meta_params["transformer"], memory, tokens, is_visible)
        return head.apply(meta_params["head"], outputs, key)

    def predict(meta_params: PyTree, adapted: Context, x: PyTree, key: RandomKey | None) -> PyTree:
        key_embedding, key_head = (None, None) if key is None else jax.random.split(key)
        return read(meta_params, adapted.memory, embed(embedding, adapted.params, x, key_embedding), None, key_head)

    def episode(loss_fn: LossFn) -> EpisodeFn:
        def episode_fn(meta_params: PyTree, task: Task, key: RandomKey) -> tuple[Any, Aux]:
            key_adapt, key_embedding, key_order, key_head = jax.random.split(key, 4)
            query, is_real = task.query, real_examples(task.query)
            context = adapt(meta_params, task.support, key_adapt)
            embeddings = embed(embedding, context.params, query.x, key_embedding)
            ranks = random_ranks(key_order, is_real)
            is_earlier = ranks[None, :] < ranks[:, None]
            known = is_earlier | jnp.eye(ranks.size, dtype=bool)
            memory = extended(meta_params, context.memory, embeddings, query, known)
            sees_support = jnp.ones((ranks.size, context.memory.is_real.size), bool)
            visible = jnp.concatenate([sees_support, is_earlier], 1)
            outputs = read(meta_params, memory, embeddings, visible, key_head)
            return checked_loss(loss_fn(outputs, query), "what loss_fn returns")

        return episode_fn

    return Learner(init, adapt, predict, episode if autoregressive else None)


def _tokens(
    params: PyTree, embeddings: Float[Array, "examples features"], targets: Float[Array, "examples width"] | None
) -> Float[Array, "examples width"]:
    hidden = dense(params["x"], embeddings.astype(params["x"]["kernel"].dtype))
    return dense(params["token"], jax.nn.gelu(hidden if targets is None else hidden + targets))


def _checked_targets(batch: Batch) -> Float[Array, "examples numbers"]:
    y = batch.y
    if not jnp.issubdtype(y.dtype, jnp.floating) or y.ndim != 2:
        raise ValueError(
            f"expected targets of the form [examples, numbers] in floating point, but y has shape {y.shape} and dtype "
            f"{y.dtype}; reshape numbers, and classify with learners.in_context"
        )
    return y
