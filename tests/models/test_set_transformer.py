"""Set transformers: gradient descent by hand-made weights, and memories that grow in several ways to the same."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jmeta import models
from jmeta.models.attention import attend_linearly
from jmeta.models.dense import dense

WIDTH, NUM_TOKENS = 8, 5


@pytest.mark.parametrize("num_steps", [1, 3])
def test_layers_of_linear_attention_are_steps_of_gradient_descent(float64, num_steps):
    """Tokens (x, y − W x) whose keys are x and values y − W x; a step adds η mean (y − W x) xᵀ to W.

    Every layer moves the residuals of the context, too, so that the next one takes the next step.
    """
    rng = np.random.default_rng(0)
    x, y, query, start = (rng.standard_normal(shape) for shape in ((6, 3), (6, 2), (4, 3), (2, 3)))
    rate, is_real = 0.3, np.array([True, True, False, True, True, True])
    pick_x, pick_residual = np.diag([1.0, 1, 1, 0, 0]), np.diag([0.0, 0, 0, 1, 1])
    read = {"kernel": jnp.asarray(-rate * pick_residual), "bias": jnp.zeros(5)}
    visible = jnp.broadcast_to(jnp.asarray(is_real)[None], (10, 6))

    def layer(tokens):
        queries, keys, values = (tokens @ kernel for kernel in (pick_x, pick_x[:, :5], pick_residual))
        attended = attend_linearly(queries[None], keys[None, :6], values[None, :6], visible)
        return tokens + dense(read, attended[0])

    context = np.concatenate([x, y - x @ start.T], 1)
    tokens = jnp.asarray(np.concatenate([context, np.concatenate([query, -query @ start.T], 1)]))
    for _ in range(num_steps):
        tokens = layer(tokens)

    loss = lambda weights: 0.5 * (jnp.square(y - x @ weights.T) * is_real[:, None]).sum() / is_real.sum()
    weights = jnp.asarray(start)
    for _ in range(num_steps):
        weights = weights - rate * jax.grad(loss)(weights)
    np.testing.assert_allclose(-tokens[6:, 3:], query @ weights.T, rtol=1e-10)


def in_double(tree, key):
    """In double precision, and away from norms that scale by 1 and shift by 0."""
    leaves, structure = jax.tree.flatten(tree)
    keys = jax.random.split(key, len(leaves))
    leaves = [leaf + 0.3 * jax.random.normal(key, leaf.shape) for leaf, key in zip(leaves, keys, strict=True)]
    return jax.tree.unflatten(structure, [leaf.astype("float64") for leaf in leaves])


@pytest.fixture(params=["softmax", "linear"])
def transformer(request):
    attend = {"linear": {"attend": attend_linearly}, "softmax": {}}[request.param]
    made = models.set_transformer(width=WIDTH, num_layers=2, num_heads=2, **attend)
    return made._replace(extend=jax.jit(made.extend), read=jax.jit(made.read))


@pytest.fixture
def setting(float64, transformer, key):
    """Parameters, tokens and queries."""
    key_params, key_noise, key_tokens, key_queries = jax.random.split(key, 4)
    params = in_double(transformer.init(key_params), key_noise)
    return params, *(jax.random.normal(key, (NUM_TOKENS, WIDTH)) for key in (key_tokens, key_queries))


def assert_same(a, b):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-12), a, b)


def test_tokens_one_at_a_time_are_those_that_see_each_other_backwards(transformer, setting):
    params, tokens, queries = setting
    is_real, earlier = jnp.ones(NUM_TOKENS, bool), jnp.tril(jnp.ones((NUM_TOKENS, NUM_TOKENS), bool))
    start = transformer.start(params)
    together = transformer.extend(params, start, tokens, is_real, earlier)
    in_turn = start
    for token in tokens:
        in_turn = transformer.extend(params, in_turn, token[None], jnp.ones(1, bool), None)
    assert_same(in_turn, together)
    visible = jnp.arange(NUM_TOKENS + 1) <= 2  # the start and two tokens
    first = transformer.extend(params, start, tokens[:2], jnp.ones(2, bool), earlier[:2, :2])
    of_part = transformer.read(params, together, queries, jnp.broadcast_to(visible[None], (NUM_TOKENS, 6)))
    assert_same(of_part, transformer.read(params, first, queries, None))


def test_padding_and_order_change_nothing_of_what_is_read(transformer, setting):
    params, tokens, queries = setting
    start = transformer.start(params)
    three = transformer.extend(params, start, tokens[:3], jnp.ones(3, bool), None)
    is_real = jnp.array([False, True, True, False, True])
    padded = jnp.full_like(tokens, 7.0).at[jnp.array([4, 1, 2])].set(tokens[:3])
    memory = transformer.extend(params, start, padded, is_real, None)
    found = transformer.read(params, memory, queries, None)
    assert_same(found, transformer.read(params, three, queries, None))
    assert_same(found[2:3], transformer.read(params, memory, queries[2:3], None))
    assert abs(found - transformer.read(params, start, queries, None)).max() > 1e-3


def test_numbers_out_of_range_are_refused():
    with pytest.raises(ValueError, match="num_heads=3 does not divide width=8"):
        models.set_transformer(width=8, num_layers=1, num_heads=3)
    with pytest.raises(ValueError, match="num_layers"):
        models.set_transformer(width=8, num_layers=0, num_heads=2)
