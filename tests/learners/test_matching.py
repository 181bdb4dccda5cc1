"""Matching networks: attention against loops, full context against the paper's recursion, and a confident cosine."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jmeta
from jmeta import Batch, losses
from jmeta.learners.matching import matching
from jmeta.learners.protonet import protonet

from ..differences import assert_gradient_is_central_difference
from ..networks import identity, smooth_mlp
from .few_shot_tasks import (
    NUM_FEATURES,
    assert_absent_ways_change_nothing,
    assert_padding_alone_is_finite,
    assert_padding_changes_nothing,
    assert_support_order_is_irrelevant,
    assert_trees_close,
    blobs,
    in_double,
    loss_and_gradient,
    predict,
)


def learner_and_params(task, full_context, model=None, num_ways=3):
    learner = matching(model or smooth_mlp(3), num_ways=num_ways, full_context=full_context, num_process_steps=2)
    return learner, in_double(learner.init(jax.random.key(1), task))


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def lstm(params, state, x):
    """An LSTM cell written out; `i*` act on the input, `h*` on the hidden state, for gates i, f, g, o."""
    cell, hidden = state
    gate = {
        g: x @ params[f"i{g}"]["kernel"] + hidden @ params[f"h{g}"]["kernel"] + params[f"h{g}"]["bias"] for g in "ifgo"
    }
    cell = sigmoid(gate["f"]) * cell + sigmoid(gate["i"]) * np.tanh(gate["g"])
    return cell, sigmoid(gate["o"]) * np.tanh(cell)


def log_probs_by_loops(meta_params, task, full_context, num_steps=2, num_ways=3):
    """Vinyals et al., eq. 1-6, one query and one example at a time, on inputs that are their own embeddings."""
    meta_params = jax.tree.map(np.asarray, meta_params)
    embedded, labels = np.asarray(task.support.x), np.asarray(task.support.y)
    zeros = (np.zeros(NUM_FEATURES), np.zeros(NUM_FEATURES))
    memory = embedded.copy()
    if full_context:
        for name, order in (("forward", range(len(embedded))), ("backward", reversed(range(len(embedded))))):
            state = zeros
            for i in order:
                state = lstm(meta_params[name]["params"], state, embedded[i])
                memory[i] += state[1]
    outputs = []
    for query in np.asarray(task.query.x):
        cell, hidden = zeros
        for _ in range(num_steps):
            weights = np.exp(memory @ hidden)
            read = weights @ memory / weights.sum()
            cell, out = (
                lstm(meta_params["process"]["params"], (cell, hidden), np.concatenate([query, read]))
                if full_context
                else zeros
            )
            hidden = out + query
        cosines = memory @ hidden / np.linalg.norm(memory, axis=1) / np.linalg.norm(hidden)
        attention = np.exp(np.exp(meta_params["log_scale"]) * cosines)
        outputs.append([np.log(attention[labels == k].sum() / attention.sum()) for k in range(num_ways)])
    return np.array(outputs)


@pytest.mark.parametrize("full_context", [False, True])
def test_log_probabilities_are_the_papers(float64, key, full_context):
    task = blobs(key)
    learner, meta_params = learner_and_params(task, full_context, identity())
    expected = log_probs_by_loops(meta_params, task, full_context)
    np.testing.assert_allclose(predict(learner, meta_params, task), expected, rtol=1e-8)


def test_one_shot_without_context_is_a_cosine_prototypical_network(float64, key):
    task = blobs(key, num_shots=1)
    learner, meta_params = learner_and_params(task, full_context=False)
    of_prototypes = predict(protonet(smooth_mlp(3), num_ways=3, distance="cosine"), meta_params, task)
    np.testing.assert_allclose(predict(learner, meta_params, task), jax.nn.log_softmax(of_prototypes), rtol=1e-9)


@pytest.mark.parametrize("full_context", [False, True])
def test_meta_gradient_is_the_central_difference(float64, key, full_context):
    task = blobs(key)
    learner, meta_params = learner_and_params(task, full_context)
    episode_fn = jmeta.episode(learner, losses.cross_entropy)
    assert_gradient_is_central_difference(lambda m: episode_fn(m, task, key)[0], meta_params)
    _, gradient = loss_and_gradient(learner, meta_params, task)
    assert all(jnp.abs(leaf).max() > 0 for leaf in jax.tree.leaves(gradient))


@pytest.mark.parametrize("full_context", [False, True])
def test_padding_and_absent_ways_change_nothing(float64, key, full_context):
    """With full context this says that both LSTMs pass over padding, which stands between real examples."""
    task = blobs(key)
    learner, meta_params = learner_and_params(task, full_context)
    assert_padding_changes_nothing(learner, meta_params, task)
    assert_padding_alone_is_finite(learner, meta_params, task)
    make = lambda num_ways: learner_and_params(task, full_context, num_ways=num_ways)[0]
    assert_absent_ways_change_nothing(make, meta_params, task, num_ways=3)


def test_support_order_matters_with_full_context_alone(float64, key):
    task = blobs(key)
    assert_support_order_is_irrelevant(*learner_and_params(task, full_context=False), task)
    with pytest.raises(AssertionError):
        assert_support_order_is_irrelevant(*learner_and_params(task, full_context=True), task)


def test_each_query_is_judged_alone(float64, key):
    task = blobs(key)
    learner, meta_params = learner_and_params(task, full_context=True)
    first = task._replace(query=jax.tree.map(lambda leaf: leaf[:1], task.query))
    assert_trees_close(predict(learner, meta_params, first), predict(learner, meta_params, task)[:1])


def one_hot_task(num_ways):
    """Each class is its own axis, so that the right cosine is 1 and every other one is 0; the query is the support."""
    batch = Batch(jnp.eye(num_ways), jnp.arange(num_ways))
    return jmeta.Task(batch, batch)


@pytest.mark.parametrize("num_ways", [5, 20])
def test_perfect_embeddings_give_confident_predictions(num_ways):
    """At the scale 1 of a plain cosine they do not: the softmax cannot reach what the embeddings say."""
    confidence = {}
    for scale in (1.0, 10.0):
        learner = matching(identity(), num_ways=num_ways, full_context=False, initial_scale=scale)
        meta_params = learner.init(jax.random.key(0), one_hot_task(num_ways))
        confidence[scale] = jnp.exp(predict(learner, meta_params, one_hot_task(num_ways))).diagonal().min()
    np.testing.assert_allclose(confidence[1.0], np.e / (np.e + num_ways - 1), rtol=1e-5)
    assert confidence[1.0] < 0.5
    assert confidence[10.0] > 0.999


def test_gradient_sharpens_a_flat_attention_until_it_is_right():
    """From the collapsed scale 1, with 2.1 nats for perfect embeddings in 20 ways, descent finds the scale."""
    learner = matching(identity(), num_ways=20, full_context=False, initial_scale=1.0)
    task = one_hot_task(20)
    meta_params = learner.init(jax.random.key(0), task)
    start, gradient = loss_and_gradient(learner, meta_params, task)
    assert start > 2.0
    assert gradient["log_scale"] < -0.1
    gradient_fn = jax.jit(
        jax.grad(lambda m: jmeta.episode(learner, losses.cross_entropy)(m, task, jax.random.key(0))[0])
    )
    for _ in range(30):
        meta_params = jax.tree.map(lambda m, g: m - 0.5 * g, meta_params, gradient_fn(meta_params))
    end, _ = loss_and_gradient(learner, meta_params, task)
    assert end < 0.1


@pytest.mark.parametrize("full_context", [False, True])
def test_gradient_is_finite_where_embeddings_are_alike_or_vanish(float64, key, full_context):
    task = blobs(key)
    learner, meta_params = learner_and_params(task, full_context)
    alike = task._replace(support=task.support._replace(x=jnp.ones_like(task.support.x)))
    _, gradient = loss_and_gradient(learner, meta_params, alike._replace(query=task.query))
    assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))
    _, gradient = loss_and_gradient(learner, jax.tree.map(jnp.zeros_like, meta_params), task)
    assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))


def test_an_undecided_query_pulls(float64, key):
    """Between two classes, each of cosine 1/√2: p is ½ and the gradient −½ τ/√2 along the difference, τ = 10."""
    support, query = Batch(jnp.eye(2), jnp.arange(2)), Batch(jnp.ones((1, 2)), jnp.zeros(1, jnp.int32))
    learner = matching(identity(), num_ways=2, full_context=False)
    meta_params = learner.init(key, jmeta.Task(support, query))

    @jax.jit
    @jax.value_and_grad
    def loss_and_slope(x):
        adapted = learner.adapt(meta_params, support, key)
        return losses.cross_entropy(learner.predict(meta_params, adapted, x, None), query)[0]

    loss, gradient = loss_and_slope(query.x)
    np.testing.assert_allclose(loss, np.log(2), rtol=1e-9)
    np.testing.assert_allclose(gradient[0], [-5 / 2**0.5, 5 / 2**0.5], rtol=1e-6)


def test_mistakes_are_refused():
    with pytest.raises(ValueError, match="num_ways=0; expected"):
        matching(identity(), num_ways=0)
    with pytest.raises(ValueError, match="num_process_steps=0; expected at least 1"):
        matching(identity(), num_ways=2, num_process_steps=0)
    with pytest.raises(ValueError, match=r"initial_scale=-1\.0; expected a positive"):
        matching(identity(), num_ways=2, initial_scale=-1.0)
