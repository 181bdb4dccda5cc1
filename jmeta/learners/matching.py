"""Matching networks: a query's label is an attention-weighted vote of the labels of the support.

p(y = k | x) = Σ_{i: yᵢ = k} aᵢ(x), with a = softmaxᵢ(τ cos(f(x, S), g(xᵢ, S))). Full context embeddings make both
sides depend on the whole support S: g runs a bidirectional LSTM over the embedded support, g(xᵢ, S) = →hᵢ + ←hᵢ +
f′(xᵢ), and f runs K steps of an LSTM that reads the support by attention,
ĥₖ, cₖ = LSTM(f′(x), [hₖ₋₁, rₖ₋₁], cₖ₋₁), hₖ = ĥₖ + f′(x), rₖ₋₁ = Σᵢ softmaxᵢ(hₖ₋₁ · g(xᵢ)) g(xᵢ), f(x, S) = h_K.
Paper: Vinyals, Blundell, Lillicrap, Kavukcuoglu, Wierstra, "Matching Networks for One Shot Learning", 2016,
arXiv:1606.04080, eq. 1-6 and appendix A.1-A.2.

Differences from the paper: the cosine has a scale. In the paper's softmax a cosine stands alone, τ = 1: among n support
examples no attention can then exceed 1 / (1 + (n − 1) e⁻²), which is 0.65 for n = 5 and 0.28 for n = 20, so a correct
answer is never confident and the loss keeps pulling at embeddings that are already correct. Reproductions that follow
it to the letter stay points below the paper's accuracy. Here τ > 0 is learned, starting at 10, where the bounds are
above 0.9999. A zero vector has cosine 0 and gradient 0 where a division by its length has NaN. Also, one model f′
embeds both sides (the paper allows two), and the LSTMs are as wide as its embeddings, as their sums require.

With full context the order of the support matters, as in the paper: an LSTM reads it. Padding, at any position, leaves
the LSTMs' states unchanged.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Bool, Float

from ..bounds import is_real, is_whole
from ..types import Batch, Learner, Model, PyTree, RandomKey, Task
from .comparison import check_num_ways, directions, embed, embed_support, exclude_absent, one_hot_labels

__all__ = ["Memory", "matching"]

_NEVER = -1e30  # an attention score whose weight next to a real one is exactly 0; -inf would make NaN gradients


class Memory(NamedTuple):
    """The adapted state: everything inferred from a support.

    Attributes:
      params: parameters of the model, with the support's statistics if it stores any.
      embeddings: `[support examples, features]`, g(xᵢ, S).
      one_hot: `[support examples, ways]`, the labels; a row of zeros is padding.
    """

    params: PyTree
    embeddings: Array
    one_hot: Array


def matching(
    model: Model,
    *,
    num_ways: int,
    full_context: bool = True,
    num_process_steps: int = 5,
    initial_scale: float = 10.0,
) -> Learner:
    """Classify by an attention-weighted vote over the support.

    Args:
      model: embeds inputs; `apply` returns `[examples, features]`.
      num_ways: number of classes in a task; labels are `0..num_ways-1`. A class without a real support example gets a
        logit of -inf.
      full_context: whether embeddings depend on the whole support; if so, its order matters.
      num_process_steps: K, the number of steps of the LSTM that embeds a query; no effect without full context.
      initial_scale: initial factor of the cosine, positive; its logarithm is a meta-parameter.

    Returns:
      A learner whose outputs are log-probabilities and whose adapted state is `Memory`. Its meta-parameters are
      `{"params": ..., "log_scale": ...}`, with full context also `"forward"`, `"backward"` and `"process"`.

    Raises:
      ValueError: if a number is not positive; at trace time if the model's outputs or the labels do not have the form
        above.

    Example:
      >>> import jax, jmeta
      >>> learner = matching(jmeta.models.mlp([32, 16]), num_ways=5)
      >>> task = jmeta.tasks.gaussian_blobs(num_ways=5, num_shots=1, num_queries=3)(jax.random.key(0))
      >>> meta_params = learner.init(jax.random.key(1), task)
      >>> adapted = jax.jit(learner.adapt)(meta_params, task.support, jax.random.key(2))
      >>> log_probs = jax.jit(learner.predict)(meta_params, adapted, task.query.x, None)
      >>> bool(abs(jax.numpy.exp(log_probs).sum(-1) - 1).max() < 1e-5)
      True

    Reference:
      Vinyals, Blundell, Lillicrap, Kavukcuoglu, Wierstra, "Matching Networks for One Shot Learning", 2016,
      arXiv:1606.04080, eq. 1-6, appendix A.
    """
    check_num_ways(num_ways)
    if not is_whole(num_process_steps):
        raise ValueError(f"num_process_steps={num_process_steps}; expected at least 1 (full_context=False has none)")
    if not is_real(initial_scale, above=0):
        raise ValueError(f"initial_scale={initial_scale}; expected a positive number, such as 10")

    def init(key: RandomKey, task: Task) -> PyTree:
        key_model, key_forward, key_backward, key_process = jax.random.split(key, 4)
        params = model.init(key_model, task.support.x)
        meta_params = {"params": params, "log_scale": jnp.asarray(math.log(initial_scale), jnp.float32)}
        if not full_context:
            return meta_params
        features = jax.eval_shape(lambda x: embed(model, params, x, None), task.support.x).shape[1]
        return meta_params | {
            "forward": _init_lstm(key_forward, features, features),
            "backward": _init_lstm(key_backward, features, features),
            "process": _init_lstm(key_process, features, 2 * features),
        }

    def adapt(meta_params: PyTree, support: Batch, key: RandomKey) -> Memory:
        embeddings, params = embed_support(model, meta_params["params"], support, key)
        one_hot = one_hot_labels(support, num_ways, embeddings.dtype)
        if full_context:
            is_real = one_hot.sum(1) > 0
            embeddings = (
                embeddings
                + _read_sequence(meta_params["forward"], embeddings, is_real, reverse=False)
                + _read_sequence(meta_params["backward"], embeddings, is_real, reverse=True)
            )
        return Memory(params, embeddings, one_hot)

    def predict(
        meta_params: PyTree, adapted: Memory, x: PyTree, key: RandomKey | None
    ) -> Float[Array, "examples ways"]:
        queries = embed(model, adapted.params, x, key)
        if full_context:
            process = lambda query: _process(meta_params["process"], query, adapted, num_process_steps)  # noqa: E731
            queries = jax.vmap(process)(queries)
        cosines = jnp.matmul(directions(queries), directions(adapted.embeddings).T, precision="highest")
        log_probs = jax.vmap(_log_votes, in_axes=(0, None))(
            jnp.exp(meta_params["log_scale"]) * cosines, adapted.one_hot
        )
        return exclude_absent(log_probs, adapted.one_hot.sum(0))

    return Learner(init, adapt, predict)


def _init_lstm(key: RandomKey, features: int, input_features: int) -> PyTree:
    state = (jnp.zeros(features), jnp.zeros(features))
    return nn.OptimizedLSTMCell(features).init(key, state, jnp.zeros(input_features))


def _lstm_step(params: PyTree, state: tuple[Array, Array], x: Float[Array, "inputs"]) -> tuple[Array, Array]:
    """Take one step of an LSTM cell on its state `(c, h)`."""
    state, _ = nn.OptimizedLSTMCell(state[1].shape[0]).apply(params, state, x)  # pyright: ignore[reportAssignmentType]
    return state


def _read_sequence(
    params: PyTree, xs: Float[Array, "examples features"], is_real: Bool[Array, "examples"], *, reverse: bool
) -> Float[Array, "examples features"]:
    """Return the LSTM's output at each example; it reads them in order or backwards and skips padding."""

    def step(state: tuple[Array, Array], x_and_is_real: tuple[Array, Array]) -> tuple[tuple[Array, Array], Array]:
        x, is_real = x_and_is_real
        new_state = _lstm_step(params, state, x)
        state = jax.tree.map(lambda new, old: jnp.where(is_real, new, old), new_state, state)
        return state, state[1]

    start = jnp.zeros(xs.shape[1], xs.dtype)
    _, outputs = jax.lax.scan(step, (start, start), (xs, is_real), reverse=reverse)
    return outputs


def _process(
    params: PyTree, query: Float[Array, "features"], memory: Memory, num_steps: int
) -> Float[Array, "features"]:
    """Return the embedding of one query in the context of the support: h_K of the module's equations."""
    is_real = memory.one_hot.sum(1) > 0

    def step(state: tuple[Array, Array], _: Any) -> tuple[tuple[Array, Array], None]:
        scores = jnp.matmul(memory.embeddings, state[1], precision="highest")
        attention = jax.nn.softmax(jnp.where(is_real, scores, _NEVER))
        read = jnp.matmul(attention, memory.embeddings, precision="highest")
        cell_state, output = _lstm_step(params, state, jnp.concatenate([query, read]))
        return (cell_state, output + query), None

    start = jnp.zeros_like(query)
    (_, hidden), _ = jax.lax.scan(step, (start, start), None, length=num_steps)
    return hidden


def _log_votes(scores: Float[Array, "support"], one_hot: Float[Array, "support ways"]) -> Float[Array, "ways"]:
    """Return the logarithm of each class's share of softmax(scores); about -1e30, not -inf, for an empty class."""
    of_class = jnp.where(one_hot.T > 0, scores[None, :], _NEVER)
    of_class = jnp.pad(of_class, ((0, 0), (0, 1)), constant_values=_NEVER)  # there may be no example at all
    return jax.nn.log_softmax(jax.nn.logsumexp(of_class, axis=1))
