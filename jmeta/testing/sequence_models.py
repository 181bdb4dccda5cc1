"""The contract of a network with memory."""

import jax
import jax.numpy as jnp

from ..types import PyTree, RandomKey, SequenceModel
from .claims import assert_close, assert_same_avals, claim

__all__ = ["check_sequence_model"]


def check_sequence_model(
    model: SequenceModel, key: RandomKey, *, num_features: int = 3, num_steps: int = 6, rtol: float = 1e-4
) -> None:
    """Check a network with memory against its contract.

    `init` depends on shapes alone. Single steps equal `unroll`, from the first memory and from a later one, and every
    memory has the same structure, shapes and dtypes. No output depends on a later input. An empty sequence changes
    nothing. `jit` and `vmap` over sequences change nothing.

    Args:
      model: the network to check.
      key: random key of parameters and inputs.
      num_features: number of features of an input.
      num_steps: length of the sequences, at least 3 and no more than the model remembers.
      rtol: relative tolerance of all comparisons.

    Raises:
      AssertionError: at the first clause that is violated, naming it.

    Example:
      >>> import jax, jmeta
      >>> check_sequence_model(jmeta.models.gru(4), jax.random.key(0))
    """
    key_init, key_x = jax.random.split(key)
    x = jax.random.normal(key_x, (num_steps, num_features))
    params = model.init(key_init, x)
    assert_close(model.init(key_init, jnp.zeros_like(x)), params, 0.0, "`init` depends on values of the sequence")
    start = model.start(params)
    unroll = jax.jit(lambda params, memory, x: model.unroll(params, memory, x))
    memory, outputs = unroll(params, start, x)
    claim(outputs.shape[0] == num_steps, f"`unroll` returns {outputs.shape[0]} outputs for {num_steps} steps")
    assert_same_avals(memory, start, "a memory after steps has another structure, shape or dtype than the first one")
    eager = model.unroll(params, start, x)
    assert_close(eager, (memory, outputs), rtol, "jax.jit gives another result")
    _check_steps(model, params, x, outputs, memory, rtol)
    changed = unroll(params, start, x.at[-1].add(1.0))[1]
    assert_close(changed[:-1], outputs[:-1], rtol, "an output depends on a later input")
    middle, _ = unroll(params, start, x[: num_steps // 2])
    halves = unroll(params, middle, x[num_steps // 2 :])
    assert_close((halves[0], halves[1]), (memory, outputs[num_steps // 2 :]), rtol, "halves differ from the whole")
    still, nothing = model.unroll(params, middle, x[:0])
    assert_close(still, middle, 0.0, "a sequence of no steps changes the memory")
    claim(nothing.shape == (0, *outputs.shape[1:]), f"a sequence of no steps has outputs of shape {nothing.shape}")
    several = jnp.stack([x, x[::-1]])
    together = jax.jit(jax.vmap(model.unroll, (None, None, 0)))(params, start, several)
    alone = [unroll(params, start, each) for each in several]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *alone)
    assert_close(together, stacked, rtol, "jax.vmap over sequences differs from a loop")


def _check_steps(
    model: SequenceModel, params: PyTree, x: jax.Array, outputs: jax.Array, memory: PyTree, rtol: float
) -> None:
    """Compare `step` in a scan, whose carry must keep its type, with `unroll`."""

    def one(memory: PyTree, x: jax.Array) -> tuple[PyTree, jax.Array]:
        return model.step(params, memory, x)

    stepped = jax.jit(lambda x: jax.lax.scan(one, model.start(params), x))(x)
    assert_close(stepped, (memory, outputs), rtol, "steps in turn differ from `unroll`")
