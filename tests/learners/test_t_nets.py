"""T-nets and MT-nets: MAML at the identity, the metric of the maps, and masks that hold a subspace still."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.flatten_util import ravel_pytree

import jmeta
from jmeta import adjoints, learners, losses
from jmeta.learners.t_nets import _drawn

from ..differences import assert_gradient_is_central_difference
from ..networks import in_default_precision, regression_task, smooth_mlp

LOSS, INNER, STEPS = losses.squared_error, optax.sgd(0.1), 2


def assert_close(a, b, rtol=1e-11):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=rtol, atol=1e-13), a, b)


def gradient(learner, meta_params, task, key):
    episode_fn = jmeta.episode(learner, LOSS)
    return jax.jit(jax.grad(lambda params: episode_fn(params, task, key)[0]))(meta_params)


def moved(tree):
    flat, unravel = ravel_pytree(tree)
    return unravel(flat + 0.2 * jnp.asarray(np.random.default_rng(0).standard_normal(flat.shape)))


@pytest.mark.parametrize("adjoint", [adjoints.unrolled(), adjoints.first_order()], ids=["second order", "first order"])
def test_maps_of_the_identity_are_maml_and_so_are_masks_that_let_everything_through(float64, adjoint, key):
    task, options = regression_task(key), {"num_steps": STEPS, "adjoint": adjoint}
    maml = learners.maml(smooth_mlp(), LOSS, INNER, **options)
    params = maml.init(jax.random.key(1), task)
    for learner in (
        learners.t_net(smooth_mlp(), LOSS, INNER, **options),
        learners.mt_net(smooth_mlp(), LOSS, INNER, initial_logit=100.0, **options),
    ):
        meta_params = learner.init(jax.random.key(1), task)
        assert_close(meta_params["params"], params)
        assert_close(learner.adapt(meta_params, task.support, key), maml.adapt(params, task.support, key))
        got = gradient(learner, meta_params, task, key)
        assert_close(got["params"], gradient(maml, params, task, key), rtol=1e-9)


def test_steps_through_a_map_are_steps_in_its_metric(float64, key):
    """A kernel W M is changed by −α ∇ MᵀM: Meta-Curvature on the mapped network, with that matrix for the outputs."""
    task, is_kernel = regression_task(key), lambda path: path.endswith("kernel")
    t_net = learners.t_net(smooth_mlp(), LOSS, INNER, num_steps=STEPS, is_adapted=is_kernel)
    curved = learners.meta_curvature(smooth_mlp(), LOSS, INNER, num_steps=STEPS, is_adapted=is_kernel)
    meta_params = moved(t_net.init(jax.random.key(1), task))
    mapped = {
        layer: {name: leaf @ meta_params["maps"][f"params/{layer}"] for name, leaf in leaves.items()}
        for layer, leaves in meta_params["params"]["params"].items()
    }
    start = curved.init(jax.random.key(1), task) | {"params": {"params": mapped}}
    for layer, modes in start["curvature"]["params"].items():
        matrix = meta_params["maps"][f"params/{layer}"]
        modes["kernel"]["outputs"] = matrix.T @ matrix
    assert_close(t_net.adapt(meta_params, task.support, key), curved.adapt(start, task.support, key))


def test_a_map_follows_the_layer_also_of_a_convolution(float64, key):
    """Before a norm over examples, whose own parameters have no map: the images that a linear map of channels gives."""
    network = in_default_precision(jmeta.models.conv4(2, num_filters=3, pooling="strided", norm="group"))
    learner = learners.t_net(network, losses.cross_entropy, INNER, num_steps=0)
    task = jmeta.Task(*[jmeta.Batch(jax.random.normal(key, (2, 8, 8, 1)), jnp.arange(2))] * 2)
    meta_params = learner.init(key, task)
    assert set(meta_params["maps"]) == {"params/head", *(f"params/conv_{i}" for i in range(4))}
    meta_params["maps"]["params/conv_0"] = matrix = jax.random.normal(key, (3, 3))
    before, after = (
        tree["params"]["conv_0"] for tree in (meta_params["params"], learner.adapt(meta_params, task.support, key))
    )
    conv = lambda kernel: jax.lax.conv_general_dilated(
        task.support.x, kernel, (2, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    np.testing.assert_allclose(conv(after["kernel"]), conv(before["kernel"]) @ matrix, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(after["bias"], before["bias"] @ matrix)


@pytest.mark.parametrize("name", ["t_net", "mt_net"])
def test_the_meta_gradient_is_the_central_difference(float64, name, key):
    """With one draw of the masks; their logits' derivative is that of soft masks, so these are held."""
    task = regression_task(key)
    learner = getattr(learners, name)(smooth_mlp(), LOSS, INNER, num_steps=STEPS)
    meta_params = moved(learner.init(jax.random.key(1), task))
    logits = {key: meta_params.pop(key) for key in ["mask_logits"] if key in meta_params}
    episode_fn = jmeta.episode(learner, LOSS)
    assert_gradient_is_central_difference(lambda params: episode_fn(params | logits, task, key)[0], meta_params)


def test_masked_outputs_stay_where_they_were(key):
    task = regression_task(key)
    learner = learners.mt_net(smooth_mlp(), LOSS, INNER, num_steps=STEPS)
    meta_params = learner.init(jax.random.key(1), task)
    before, after = (
        tree["params"]["hidden_0"] for tree in (meta_params["params"], learner.adapt(meta_params, task.support, key))
    )
    moves = np.abs(after["bias"] - before["bias"]) > 0
    assert 0 < moves.sum() < moves.size
    np.testing.assert_array_equal((np.abs(after["kernel"] - before["kernel"]) > 0).all(0), moves)
    np.testing.assert_array_equal((np.abs(after["kernel"] - before["kernel"]) > 0).any(0), moves)


def test_masks_are_bernoulli_and_their_derivative_is_that_of_soft_ones(float64, key):
    logits = {"a": jnp.full(20_000, 0.7), "b": jnp.full(20_000, -0.4)}
    masks = _drawn(logits, 0.5, key)
    assert set(np.unique(masks["a"])) == {0.0, 1.0}
    for name, mask in masks.items():
        chance = jax.nn.sigmoid(logits[name][0])
        assert abs(mask.mean() - chance) < 4 * jnp.sqrt(chance * (1 - chance) / mask.size)
    assert abs(np.corrcoef(masks["a"], masks["b"])[0, 1]) < 0.03
    # the mean slope of σ((ζ + L) / τ) is the slope of its mean, over the same noise
    total = lambda shift, temperature: _drawn({"a": logits["a"] + shift}, temperature, key)["a"].mean()
    soft = lambda shift: jax.nn.sigmoid(
        (logits["a"] + shift + jax.random.logistic(jax.random.split(key, 1)[0], (20_000,))) / 0.5
    ).mean()
    np.testing.assert_allclose(jax.grad(total)(0.0, 0.5), (soft(1e-5) - soft(-1e-5)) / 2e-5, rtol=1e-7)


def test_mistakes_are_refused(key):
    with pytest.raises(ValueError, match=r"temperature=0\.0; expected a positive"):
        learners.mt_net(smooth_mlp(), LOSS, INNER, num_steps=1, temperature=0.0)
    odd = jmeta.Model(lambda key, x: {"layer": {"w": jnp.ones((2, 3)), "b": jnp.ones(2)}}, lambda params, x, key: x)
    learner = learners.t_net(odd, LOSS, INNER, num_steps=1)
    with pytest.raises(ValueError, match=r"layer 'layer' have shapes .*one size of its outputs"):
        learner.init(key, regression_task(key))
