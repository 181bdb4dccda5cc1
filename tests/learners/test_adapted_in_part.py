"""`is_adapted` means one thing to every learner with an inner loop."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jmeta
from jmeta import learners, losses, models
from jmeta.params import path_name

from ..networks import regression_task, smooth_mlp
from ..registry import ADAPTED_IN_PART, CLASSIFY, blobs

PARTS = {"head": "hidden_0", "hidden_0": "head"}
LOSS, LR = losses.squared_error, 0.1


def layers(tree) -> dict[str, dict[str, jax.Array]]:
    """The network's own leaves in meta-parameters or an adapted state, by layer: rates and the like left out."""
    found = {"hidden_0": {}, "head": {}}
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        *before, layer, name = ["", "", *path_name(path).split("/")]
        if before[-1:] == ["params"] and before[2] not in ("lr", "norms", "optimizer_state"):
            found[layer][name] = leaf
    assert all(len(leaves) == 2 for leaves in found.values()), found
    return found


@pytest.mark.parametrize("chosen", PARTS)
@pytest.mark.parametrize("name", ADAPTED_IN_PART)
def test_inner_steps_change_what_is_adapted_and_nothing_else(name, chosen, key):
    learner, task = ADAPTED_IN_PART[name](lambda path: f"/{chosen}/" in path), blobs(key)
    meta_params = learner.init(jax.random.key(1), task)
    before, after = layers(meta_params), layers(jax.jit(learner.adapt)(meta_params, task.support, key))
    jax.tree.map(np.testing.assert_array_equal, after[PARTS[chosen]], before[PARTS[chosen]])
    for leaf in before[chosen]:
        assert np.abs(after[chosen][leaf] - before[chosen][leaf]).max() > 0


@pytest.mark.parametrize("name", ADAPTED_IN_PART)
def test_what_is_not_adapted_is_still_learned_but_by_reptile(name, key):
    learner, task = ADAPTED_IN_PART[name](lambda path: "/head/" in path), blobs(key)
    meta_params = learner.init(jax.random.key(1), task)
    make = jmeta.episode if name.startswith("reptile") else jmeta.plain_episode
    grads = layers(jax.jit(jax.grad(make(learner, CLASSIFY), has_aux=True))(meta_params, task, key)[0])
    sizes = jax.tree.map(lambda leaf: float(jnp.abs(leaf).max()), grads)
    assert all(size > 0 for size in sizes["head"].values())
    assert all((size == 0) == name.startswith("reptile") for size in sizes["hidden_0"].values())


@pytest.mark.parametrize("name", [name for name in ADAPTED_IN_PART if name not in ("proto_maml", "fine_tune")])
def test_a_learner_that_would_adapt_nothing_is_refused(name, key):
    learner, task = ADAPTED_IN_PART[name](lambda path: "absent" in path), blobs(key)
    with pytest.raises(ValueError, match="adapt nothing"):
        jax.eval_shape(lambda key: learner.adapt(learner.init(key, task), task.support, key), key)


@pytest.mark.parametrize("name", ["proto_maml", "fine_tune"])
def test_a_learner_with_a_head_of_its_own_may_leave_the_whole_body_alone(name, key):
    learner, task = ADAPTED_IN_PART[name](lambda path: False), blobs(key)
    meta_params = learner.init(jax.random.key(1), task)
    adapted = learner.adapt(meta_params, task.support, key)
    jax.tree.map(np.testing.assert_array_equal, layers(adapted), layers(meta_params))


@pytest.mark.parametrize("name", ["meta_sgd", "maml_plus_plus", "imaml"])
def test_a_partly_adapting_learner_is_maml_that_adapts_the_same_part(float64, name, key):
    model, task, chosen = smooth_mlp(), regression_task(key), lambda path: "hidden" in path
    reference = learners.maml(model, LOSS, optax.sgd(LR), num_steps=3, is_adapted=chosen)
    if name == "imaml":  # without a tie
        untied = {"regularization": 1e-12, "adjoint": jmeta.adjoints.unrolled()}
        learner = learners.imaml(model, LOSS, optax.sgd(LR), num_steps=3, is_adapted=chosen, **untied)
    else:
        learner = getattr(learners, name)(model, LOSS, num_steps=3, initial_lr=LR, is_adapted=chosen)
    meta_params, params = learner.init(jax.random.key(1), task), reference.init(jax.random.key(1), task)
    compiled = lambda learner: jax.jit(jax.grad(jmeta.plain_episode(learner, LOSS), has_aux=True))
    gradient = lambda learner, start: compiled(learner)(start, task, key)[0]
    got, expected = layers(gradient(learner, meta_params)), layers(gradient(reference, params))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-8), got, expected)


def test_from_scratch_leaves_what_it_does_not_adapt_as_it_was_drawn(key):
    task, model = blobs(key), models.mlp([8, 3])
    make = lambda num_steps: learners.from_scratch(
        model, CLASSIFY, optax.sgd(LR), num_steps=num_steps, is_adapted=lambda path: "/head/" in path
    )
    drawn, trained = (layers(make(num_steps).adapt({}, task.support, key)) for num_steps in (0, 3))
    jax.tree.map(np.testing.assert_array_equal, drawn["hidden_0"], trained["hidden_0"])
    assert np.abs(drawn["head"]["kernel"] - trained["head"]["kernel"]).max() > 0


def test_fine_tuning_the_whole_network_is_the_same_steps_by_hand(float64, key):
    """Two steps of gradient descent on body and head together, from the head that the key of `adapt` draws."""
    task, body = blobs(key), smooth_mlp(4)
    task = jax.tree.map(lambda leaf: leaf.astype(float) if leaf.dtype == jnp.float32 else leaf, task)
    make = lambda num_steps: learners.fine_tune(
        body, optax.sgd(LR), num_classes=20, num_ways=3, num_steps=num_steps, head="linear", is_adapted=lambda _: True
    )
    meta_params = make(0).init(jax.random.key(1), task)
    start, adapted = (jax.jit(make(num_steps).adapt)(meta_params, task.support, key) for num_steps in (0, 2))

    def loss(body_and_head):
        features = body.apply(body_and_head[0], task.support.x, None)
        logits = features @ body_and_head[1]["weights"].T + body_and_head[1]["bias"][None]
        return losses.cross_entropy(logits, task.support)[0]

    both, grad_fn = (start.body, start.head), jax.jit(jax.grad(loss))
    for _ in range(2):
        both = jax.tree.map(lambda leaf, grad: leaf - LR * grad, both, grad_fn(both))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9), (adapted.body, adapted.head), both)
