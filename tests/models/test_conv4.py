"""conv4: its norm policies, names and forms, and that its meta-gradient survives the compiler."""

import importlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.flatten_util import ravel_pytree

import jmeta
from jmeta import Batch, Model, Task, chunks, learners, losses, models
from jmeta.models import conv4 as conv4_factory
from jmeta.params import path_name

POLICIES = ("batch", "support", "group", "layer", "none")


def images(key, num_examples=4, size=16, channels=1):
    return jax.random.uniform(key, (num_examples, size, size, channels))


def small(norm="batch", **changes):
    """A small network, compiled: the persistent cache then makes its tests fast."""
    model = conv4_factory(3, num_filters=4, norm=norm, **changes)
    return Model(*[function and jax.jit(function) for function in model])


def moved(params, key):
    """Parameters away from their initial ones and zeros."""
    flat, unravel = ravel_pytree(params)
    return unravel(flat + 0.2 * jax.random.uniform(key, flat.shape))


def names(params):
    return [path_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(params)]


@pytest.mark.parametrize("norm", POLICIES)
@pytest.mark.parametrize("pooling", ["max", "strided"])
def test_shapes(norm, pooling, key):
    x = jnp.zeros((2, 28, 28, 1))
    for num_outputs, width in ((3, 3), (None, 4 if pooling == "max" else 16)):
        model = conv4_factory(num_outputs, num_filters=4, norm=norm, pooling=pooling)
        outputs = jax.eval_shape(lambda key: model.apply(model.init(key, x), x, None), key)
        assert (outputs.shape, outputs.dtype) == ((2, width), jnp.float32)


@pytest.mark.parametrize("norm", POLICIES)
def test_names_say_what_a_leaf_is(norm, key):
    leaves = names(jax.eval_shape(small(norm).init, key, images(key)))
    assert [name for name in leaves if models.is_head(name)] == ["params/head/bias", "params/head/kernel"]
    assert len([name for name in leaves if models.is_norm(name)]) == (0 if norm == "none" else 8)
    assert len([name for name in leaves if models.is_statistic(name)]) == (8 if norm == "support" else 0)
    biases = [name for name in leaves if "conv" in name and "bias" in name]
    assert len(biases) == (0 if norm in ("batch", "support") else 4)


def test_a_context_scales_and_shifts_feature_maps_and_zeros_change_nothing(key):
    plain, modulated = small("group"), small("group", num_context=2)
    x, context = images(key), jnp.array([0.7, -1.2])
    appended = lambda context: jnp.concatenate([x, jnp.broadcast_to(context, (*x.shape[:3], 2))], axis=-1)
    params = moved(modulated.init(key, appended(context)), key)
    with_films = params["params"]
    films = {name: film for name, film in with_films.items() if name.startswith("film")}
    without_bias = {name: {"kernel": film["kernel"], "bias": 0 * film["bias"]} for name, film in films.items()}
    at_zero = modulated.apply({"params": {**with_films, **without_bias}}, appended(jnp.zeros(2)), None)
    without_films = {"params": {name: leaf for name, leaf in with_films.items() if name not in films}}
    np.testing.assert_allclose(at_zero, plain.apply(without_films, x, None), rtol=1e-5, atol=1e-6)

    # the affine maps of a fixed context are those of the norm layers, which come just before
    scaled = dict(without_films["params"])
    for i in range(4):
        scale, shift = jnp.split(context @ films[f"film_{i}"]["kernel"] + films[f"film_{i}"]["bias"], 2)
        norm = scaled[f"norm_{i}"]
        scaled[f"norm_{i}"] = {"scale": norm["scale"] * (1 + scale), "bias": norm["bias"] * (1 + scale) + shift}
    expected = plain.apply({"params": scaled}, x, None)
    np.testing.assert_allclose(modulated.apply(params, appended(context), None), expected, rtol=1e-4, atol=1e-5)


def test_an_input_that_is_all_context_is_refused(key):
    with pytest.raises(ValueError, match="num_context=1 of them are context, which leaves no image"):
        small(num_context=1).init(key, images(key))


@pytest.mark.parametrize("path", ["BatchNorm_0/scale", "bn1/bias", "layer3/bn/weight", "net/~/layer_norm/offset"])
def test_usual_names_of_norm_layers(path):
    assert models.is_norm(f"params/{path}")
    assert not models.is_norm(f"batch_stats/{path}")
    assert models.is_statistic(f"batch_stats/{path}")


@pytest.mark.parametrize("path", ["conv_0/kernel", "abnormal/kernel2", "subnet/kernel", "overhead/bias"][2:])
def test_other_names_are_not_mistaken(path):
    assert not models.is_norm(f"params/{path}")
    assert not models.is_head(f"params/{path}")


@pytest.mark.parametrize("norm", POLICIES)
def test_only_batch_statistics_depend_on_the_company(norm, key):
    model, x = small(norm), images(key)
    params = moved(model.init(key, x), key)
    together, alone = model.apply(params, x, None), model.apply(params, x[:1], None)
    assert bool(jnp.allclose(together[:1], alone, atol=1e-5)) == (norm != "batch")


def test_the_norm_of_a_batch_has_mean_0_and_variance_1(key):
    from jmeta.models.norms import Norm

    x = 3 + 2 * images(key, 8)
    for policy, axes in (("batch", (0, 1, 2)), ("support", (0, 1, 2)), ("group", (1, 2, 3)), ("layer", (1, 2, 3))):
        norm = Norm(policy, epsilon=0.0)
        variables = norm.init(key, x, calibrating=False)
        out, _ = norm.apply(variables, x, calibrating=True, mutable=["stats"])
        np.testing.assert_allclose(out.mean(axes), 0.0, atol=1e-5)
        np.testing.assert_allclose(out.var(axes), 1.0, rtol=1e-4)


def test_calibrate_stores_the_statistics_it_used(key):
    model, x, other = small("support"), images(key), images(jax.random.key(1))
    params = moved(model.init(key, x), key)
    assert model.calibrate is not None
    outputs, calibrated = model.calibrate(params, x, None)
    np.testing.assert_allclose(model.apply(calibrated, x, None), outputs, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(model.apply(calibrated, x, key), outputs, rtol=1e-5, atol=1e-6)
    assert not np.allclose(model.apply(params, x, None), outputs)
    # on its own input it is the batch policy; on others it is not
    shared = {"params": params["params"]}
    np.testing.assert_allclose(small("batch").apply(shared, x, None), outputs, rtol=1e-5, atol=1e-6)
    assert not np.allclose(small("batch").apply(shared, other, None), model.apply(calibrated, other, None), atol=1e-3)


def test_the_query_is_differentiated_through_the_supports_statistics(key):
    model, support, query = small("support"), images(key), images(jax.random.key(1))
    params = moved(model.init(key, support), key)

    def loss(support):
        _, calibrated = model.calibrate(params, support, None)
        return jnp.sin(model.apply(calibrated, query, None)).sum()

    assert jnp.abs(jax.jit(jax.grad(loss))(support)).max() > 1e-5


def test_frozen_keeps_its_statistics(key):
    model, x = small("support"), images(key)
    _, params = model.calibrate(model.init(key, x), x, None)
    frozen = models.frozen(model)
    assert frozen.calibrate is None
    # two images alone and among six: not the same bits, for a backend divides a larger batch differently
    np.testing.assert_allclose(
        frozen.apply(params, x[:2], None), model.apply(params, x, None)[:2], rtol=1e-5, atol=1e-6
    )


def test_a_meta_gradient_leaves_frozen_statistics_alone(key):
    model = models.conv4(3, num_filters=4, norm="support")
    x = jax.random.uniform(key, (6, 16, 16, 1))
    _, params = jax.jit(lambda key: model.calibrate(model.init(key, x), x, None))(key)
    grads = jax.jit(jax.grad(lambda params: (models.frozen(model).apply(params, x, None) ** 2).sum()))(params)
    sizes = {path_name(path): float(abs(leaf).max()) for path, leaf in jax.tree_util.tree_leaves_with_path(grads)}
    assert all(size == 0 for name, size in sizes.items() if models.is_statistic(name))
    assert all(size > 0 for name, size in sizes.items() if "kernel" in name)


def test_bfloat16_is_for_activations_only(key):
    x = images(key)
    for norm in POLICIES:
        exact, rough = small(norm), small(norm, dtype=jnp.bfloat16)
        params = rough.init(key, x)
        assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype("float32")}
        outputs = rough.apply(params, x, None)
        assert outputs.dtype == jnp.float32
        np.testing.assert_allclose(outputs, exact.apply(params, x, None), rtol=0.1, atol=0.1)
        assert not np.array_equal(outputs, exact.apply(params, x, None))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_outputs": 0}, "num_outputs=0"),
        ({"num_filters": 0}, "num_filters=0"),
        ({"num_context": -1}, "num_context=-1"),
        ({"norm": "instance"}, "'batch', 'support', 'group', 'layer', 'none'"),
        ({"pooling": "mean"}, "'max' or 'strided'"),
        ({"conv": "fft"}, "'patches' or 'xla'"),
    ],
)
def test_static_mistakes(arguments, message):
    with pytest.raises(ValueError, match=message):
        conv4_factory(**{"num_outputs": 3, **arguments})


@pytest.mark.parametrize("shape", [(2, 28, 28), (2, 8, 8, 1), (28, 28, 1)])
def test_what_is_no_batch_of_large_enough_images(shape, key):
    with pytest.raises(ValueError, match="16x16 pixels"):
        small().init(key, jnp.zeros(shape))


def flat_task(key, size):
    """Images with large flat regions, as drawings have: equal pixels are what makes pooling hard to differentiate."""

    def batch(key, per_class):
        strokes = jax.random.bernoulli(key, 0.2, (3 * per_class, size, size, 1))
        return Batch(strokes.astype(float), jnp.tile(jnp.arange(3), per_class))

    keys = jax.random.split(key)
    return Task(batch(keys[0], 1), batch(keys[1], 3))


def meta_gradient(model, params, tasks, batching):
    learner = learners.maml(model, losses.cross_entropy, optax.sgd(0.4), num_steps=1)
    value_and_grad = jax.value_and_grad(jmeta.episode(learner, losses.cross_entropy), has_aux=True)
    _, grads = jax.jit(jmeta.over_tasks(value_and_grad, batching))(params, tasks, jax.random.key(2))
    return ravel_pytree(grads)[0]


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("norm", ["batch", "support"])
def test_images_taken_through_layers_in_chunks_give_the_same_in_all_derivatives(norm, monkeypatch, key):
    model = conv4_factory(3, num_filters=10, norm=norm)
    x = jax.random.uniform(jax.random.key(1), (6, 16, 16, 1), float)

    def derivatives():
        params = moved(model.init(key, x), jax.random.key(2))

        def loss(params):
            stored = params if model.calibrate is None else model.calibrate(params, x, None)[1]
            return jnp.sin(model.apply(stored, x, None)).sum(), stored

        def squared_gradient(params):
            grads, stored = jax.grad(loss, has_aux=True)(params)
            return jnp.square(ravel_pytree(grads)[0]).sum(), (grads, stored)

        return jax.jit(jax.grad(squared_gradient, has_aux=True))(params)

    at_once = derivatives()
    monkeypatch.setattr(chunks, "CHUNK_BYTES", 25_000)
    assert chunks.chunk_of(6, 16 * 16 * 10 * 8) == 1
    in_chunks = derivatives()
    scale = float(max(jnp.abs(leaf).max() for leaf in jax.tree.leaves(at_once)))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12 * scale), at_once, in_chunks)


def test_chunks_leave_the_dtype_of_activations(monkeypatch, key):
    monkeypatch.setattr(chunks, "CHUNK_BYTES", 8_000)
    model = conv4_factory(3, num_filters=10, dtype=jnp.bfloat16)
    params = jax.jit(model.init)(key, images(key))
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype("float32")}
    narrow = jax.jit(model.apply)(params, images(key), None)
    wide = jax.jit(conv4_factory(3, num_filters=10).apply)(params, images(key), None)
    np.testing.assert_allclose(narrow, wide, atol=0.1)
    assert not (narrow == wide).all()


@pytest.mark.slow
@pytest.mark.optimized
@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(
    ("batching", "size", "plain_conv", "chunk_bytes"),
    [("vmap", 28, "patches", 2**22), ("scan", 16, "xla", 2**22), ("scan", 16, "xla", 20_000)],
)
def test_the_meta_gradient_is_that_of_plain_layers_under_jit(batching, size, plain_conv, chunk_bytes, monkeypatch):
    """The compiler may recompute a layer's input with another rounding: no gradient may hang on equality of floats.

    `x.reshape(...).max(...)` for pooling fails here under vmap: its meta-gradient is 3 % wrong. Slow: optimizing these
    programs for users takes half a minute each.
    """
    tasks = jax.vmap(lambda key: flat_task(key, size))(jax.random.split(jax.random.key(0), 2))
    make = lambda conv: conv4_factory(3, num_filters=10, conv=conv)
    params = make("patches").init(jax.random.key(1), tasks.support.x[0])
    params = jax.tree.map(lambda leaf: leaf.astype(float), params)
    monkeypatch.setattr(chunks, "CHUNK_BYTES", chunk_bytes)
    fast = meta_gradient(make("patches"), params, tasks, batching)
    network = importlib.import_module("jmeta.models.conv4")  # not the function of that name
    monkeypatch.setattr(network, "max_pool", lambda x: models.max_pool(x, "window"))
    plain = meta_gradient(make(plain_conv), params, tasks, batching)
    np.testing.assert_allclose(fast, plain, rtol=1e-7, atol=1e-9 * float(jnp.linalg.norm(plain)))
