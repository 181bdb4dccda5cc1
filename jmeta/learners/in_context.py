"""In-context classification: a transformer reads labelled examples and then labels others, without a step of learning.

A support example is a token, the embedding of its input plus the embedding of its label; the tokens see each other. A
query is a token without a label, which sees the support and no other query; the classes' logits are inner products of
its output with the same label embeddings. So the learning algorithm itself is what meta-training finds, in the
weights of the transformer.

Which embedding stands for which class is drawn anew in every adaptation. So there is nothing to learn of a single
label, and every embedding is trained, however few classes tasks have: one network serves any number of them. Or label
embeddings are fixed, vectors of one length with the same, largest possible angle between any two, and the embedding of
inputs is fixed as well, one that was trained on much else before: that is context-aware meta-learning (CAML).

Reference: Müller, Hollmann, Pineda Arango, Grabocka, Hutter, "Transformers Can Do Bayesian Inference", 2021,
arXiv:2112.10510; Kirsch, Harrison, Sohl-Dickstein, Metz, "General-Purpose In-Context Learning by Meta-Learning
Transformers", 2022, arXiv:2212.04458, section 3; Fifty, Duan, Junkins, Amid, Leskovec, Ré, Thrun, "Context-Aware
Meta-Learning", 2023, arXiv:2310.10971, section 4.

Differences from the papers: queries do not see each other, nor are they in the support's sequence (Kirsch et al. use a
causal order, Fifty et al. one sequence for each query); label embeddings, learned or fixed, read out the prediction,
too; inputs have no random projection. For numbers instead of classes, a prior-fitted network is
`transformer_neural_process` with bins; for classes of the rows of a table, it is this one, `standardized` and trained
on `tasks.tables`.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from .. import distributions
from ..bounds import is_whole
from ..losses import real_examples
from ..models.dense import dense, init_dense
from ..models.set_transformer import SetMemory, SetTransformer
from ..types import Batch, Learner, Model, PyTree, RandomKey, Task
from .comparison import embed, embed_support, exclude_absent, one_hot_labels

__all__ = ["LabelledContext", "in_context"]


class LabelledContext(NamedTuple):
    """The adapted state: the support as a memory, once for each assignment of embeddings to classes.

    Attributes:
      params: parameters of the embedding, with the support's statistics if it stores any.
      memory: keys and values of every layer, stacked `[assignments, ...]`.
      assignments: `[assignments, max_ways]`, the row of the label embeddings that stands for each class.
      counts: `[max_ways]`, real examples of each class.
    """

    params: PyTree
    memory: SetMemory
    assignments: Int[Array, "assignments max_ways"]
    counts: Float[Array, "max_ways"]


def in_context(
    embedding: Model,
    transformer: SetTransformer,
    *,
    max_ways: int,
    num_assignments: int = 1,
    labels: str = "learned",
    learns_embedding: bool = True,
) -> Learner:
    """Classify by a transformer whose queries attend to labelled examples.

    Args:
      embedding: embeds inputs; `apply` returns `[examples, features]`.
      transformer: sees the tokens, such as `models.set_transformer`.
      max_ways: most classes of a task; labels are `0..max_ways-1`. A class without a real support example gets a logit
        of -inf.
      num_assignments: how many random assignments of label embeddings to classes adaptation encodes the support with;
        predictions are averaged over them. Few are enough to train, more make predictions depend less on the draw.
      labels: `"learned"` embeddings of labels, or `"equiangular"`, fixed ones, as in CAML.
      learns_embedding: whether meta-training changes the embedding; if not, it is used as it is initialised, or as a
        warm start makes it.

    Returns:
      A learner whose adapted state is a `LabelledContext`, and whose predictions are logits `[examples, max_ways]`.

    Raises:
      ValueError: if `max_ways` or `num_assignments` is not positive, `labels` is neither of the two, or the transformer
        is too narrow for equiangular ones; at trace time if embeddings or labels do not have the form above.

    Example:
      >>> import jax
      >>> from jmeta import learners, models, tasks
      >>> transformer = models.set_transformer(width=16, num_layers=1, num_heads=2)
      >>> learner = learners.in_context(models.mlp([16]), transformer, max_ways=10)
      >>> task = tasks.gaussian_blobs(num_ways=3, num_shots=2, num_queries=4)(jax.random.key(0))
      >>> meta_params = learner.init(jax.random.key(1), task)
      >>> context = jax.jit(learner.adapt)(meta_params, task.support, jax.random.key(2))
      >>> logits = jax.jit(learner.predict)(meta_params, context, task.query.x, None)
      >>> logits.shape, bool((logits[:, 3:] == -jax.numpy.inf).all())
      ((12, 10), True)
    """
    if not is_whole(max_ways) or not is_whole(num_assignments):
        raise ValueError(f"max_ways={max_ways} and num_assignments={num_assignments}; expected at least 1 of each")
    if labels not in ("learned", "equiangular"):
        raise ValueError(f"labels={labels!r}; expected 'learned' or 'equiangular'")
    if labels == "equiangular" and not 2 <= max_ways <= transformer.width:
        raise ValueError(
            f"max_ways={max_ways}; equiangular labels need 2 to {transformer.width}, the transformer's width"
        )

    def rows_of_labels(meta_params: PyTree) -> Float[Array, "max_ways width"]:
        if labels == "learned":
            return meta_params["labels"]
        return _equiangular(max_ways, transformer.width).astype(meta_params["x"]["kernel"].dtype)

    def init(key: RandomKey, task: Task) -> PyTree:
        key_embedding, key_x, key_labels, key_transformer, key_read = jax.random.split(key, 5)
        params = embedding.init(key_embedding, task.support.x)
        features = jax.eval_shape(lambda x: embed(embedding, params, x, None), task.support.x).shape[1]
        width = transformer.width
        meta_params = {
            "embedding": params,
            "x": init_dense(key_x, features, width),
            "transformer": transformer.init(key_transformer),
            "read": init_dense(key_read, width, width),
        }
        if labels == "equiangular":
            return meta_params
        return meta_params | {"labels": jax.random.normal(key_labels, (max_ways, width), jnp.float32)}

    def adapt(meta_params: PyTree, support: Batch, key: RandomKey) -> LabelledContext:
        key_embedding, key_assignments = jax.random.split(key)
        body = meta_params["embedding"]
        body = body if learns_embedding else jax.lax.stop_gradient(body)
        embeddings, params = embed_support(embedding, body, support, key_embedding)
        rows = rows_of_labels(meta_params)
        one_hot = one_hot_labels(support, max_ways, rows.dtype)
        is_real = real_examples(support)
        inputs, start = _inputs(meta_params, embeddings), transformer.start(meta_params["transformer"])

        def encode(assignment: Int[Array, "max_ways"]) -> SetMemory:
            tokens = inputs + jnp.matmul(one_hot, rows[assignment], precision="highest")
            return transformer.extend(meta_params["transformer"], start, tokens, is_real, None)

        draw = lambda key: jax.random.permutation(key, jnp.arange(max_ways, dtype=jnp.int32))  # noqa: E731
        assignments = jax.vmap(draw)(jax.random.split(key_assignments, num_assignments))
        return LabelledContext(params, jax.vmap(encode)(assignments), assignments, one_hot.sum(0))

    def predict(
        meta_params: PyTree, adapted: LabelledContext, x: PyTree, key: RandomKey | None
    ) -> Float[Array, "examples max_ways"]:
        inputs, rows = _inputs(meta_params, embed(embedding, adapted.params, x, key)), rows_of_labels(meta_params)

        def read(memory: SetMemory, assignment: Int[Array, "max_ways"]) -> Float[Array, "examples max_ways"]:
            outputs = dense(meta_params["read"], transformer.read(meta_params["transformer"], memory, inputs, None))
            return outputs @ rows[assignment].T / math.sqrt(outputs.shape[-1])

        logits = jax.vmap(read)(adapted.memory, adapted.assignments)
        if num_assignments == 1:
            return exclude_absent(logits[0], adapted.counts)
        return distributions.mix(jax.vmap(lambda each: exclude_absent(each, adapted.counts))(logits))

    return Learner(init, adapt, predict)


def _inputs(params: PyTree, embeddings: Float[Array, "examples features"]) -> Float[Array, "examples width"]:
    return dense(params["x"], embeddings.astype(params["x"]["kernel"].dtype))


def _equiangular(num_ways: int, width: int) -> Float[Array, "ways width"]:
    """Return vectors of length √width, as random ones have it, any two at the cosine −1 / (ways − 1)."""
    centred = jnp.eye(num_ways, width) - jnp.where(jnp.arange(width) < num_ways, 1 / num_ways, 0.0)[None]
    return centred * math.sqrt(width * num_ways / (num_ways - 1))
