"""Networks of four libraries, each with batch norm and dropout inside, through second-order MAML."""

import sys
from collections.abc import Callable
from typing import NamedTuple

import equinox as eqx
import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn
from flax import nnx

import jmeta
from jmeta import Model, learners, losses, models
from jmeta.params import path_name

from ..differences import assert_gradient_is_central_difference
from ..networks import in_default_precision, regression_task, stacked_regression_tasks

HIDDEN, RATE = 6, 0.3


class LinenNet(nn.Module):
    rate: float = RATE

    @nn.compact
    def __call__(self, x, train):
        x = nn.BatchNorm(use_running_average=not train, momentum=0.9)(nn.Dense(HIDDEN, use_bias=False)(x))
        return nn.Dense(1, name="head")(nn.Dropout(self.rate, deterministic=not train)(jnp.tanh(x)))


class NnxNet(nnx.Module):
    def __init__(self, rngs, rate=RATE):
        self.hidden = nnx.Linear(3, HIDDEN, use_bias=False, rngs=rngs)
        self.norm = nnx.BatchNorm(HIDDEN, momentum=0.9, rngs=rngs)
        self.dropout = nnx.Dropout(rate, rngs=rngs)
        self.head = nnx.Linear(HIDDEN, 1, rngs=rngs)

    def __call__(self, x):
        return self.head(self.dropout(jnp.tanh(self.norm(self.hidden(x)))))


class EquinoxNet(eqx.Module):
    hidden: eqx.nn.Linear
    norm: eqx.nn.BatchNorm
    dropout: eqx.nn.Dropout
    head: eqx.nn.Linear

    def __init__(self, key, mode="batch"):
        key_hidden, key_head = jax.random.split(key)
        self.hidden = eqx.nn.Linear(3, HIDDEN, use_bias=False, key=key_hidden)
        self.norm = eqx.nn.BatchNorm(HIDDEN, axis_name="batch", mode=mode, momentum=0.9)
        self.dropout = eqx.nn.Dropout(RATE)
        self.head = eqx.nn.Linear(HIDDEN, 1, key=key_head)

    def __call__(self, x, state, *, key=None):
        x, state = self.norm(self.hidden(x), state)
        return self.head(self.dropout(jnp.tanh(x), key=key)), state


def haiku_net(x, train, dropout=None):
    x = hk.Linear(HIDDEN, with_bias=False, name="hidden")(x)
    x = jnp.tanh(hk.BatchNorm(create_scale=True, create_offset=True, decay_rate=0.9)(x, is_training=train))
    if train if dropout is None else dropout:
        x = hk.dropout(hk.next_rng_key(), RATE, x)
    return hk.Linear(1, name="head")(x)


class Bridged(NamedTuple):
    """A model, the same with batch statistics in evaluation too, and where its statistics and hidden kernel are."""

    make: Callable[[bool], Model]
    kernel: str
    mean: str


def linen_model(transductive, rate=RATE):
    evaluation = {"train": transductive}
    return models.from_linen(LinenNet(rate), training={"train": True}, evaluation=evaluation, statistics="batch_stats")


def haiku_model(transductive):
    still = {"train": True, "dropout": False}
    return models.from_haiku(
        hk.transform_with_state(haiku_net),
        training={"train": True},
        evaluation=still if transductive else {"train": False},
        calibration=still,
    )


def equinox_model(transductive, mode="batch"):
    return models.from_equinox(lambda key: eqx.nn.make_with_state(EquinoxNet)(key, mode), transductive=transductive)


BRIDGES = {
    "linen": Bridged(linen_model, "params/Dense_0/kernel", "stats/batch_stats/BatchNorm_0/mean"),
    "nnx": Bridged(
        lambda transductive: models.from_nnx(NnxNet, transductive=transductive),
        "params/hidden/kernel",
        "stats/batch_stats/norm/mean",
    ),
    "equinox": Bridged(equinox_model, "params/hidden/weight", "stats/1"),
    "haiku": Bridged(haiku_model, "params/hidden/w", "stats/batch_norm/~/mean_ema/average"),
}


@pytest.fixture(params=BRIDGES)
def bridged(request):
    return BRIDGES[request.param]


def by_name(params):
    return {path_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(params)}


@pytest.mark.usefixtures("float64")
def test_second_order_maml_under_jit_and_vmap(bridged, key):
    model, tasks = in_default_precision(bridged.make(False)), stacked_regression_tasks(key, 2)
    learner = learners.maml(model, losses.squared_error, optax.sgd(0.1), num_steps=2)
    meta_params = learner.init(key, jax.tree.map(lambda leaf: leaf[0], tasks))
    mean_episode = jmeta.over_tasks(jmeta.episode(learner, losses.squared_error))
    grads = by_name(
        assert_gradient_is_central_difference(lambda params: mean_episode(params, tasks, key)[0], meta_params)
    )
    for name, grad in grads.items():
        assert jnp.isfinite(grad).all(), name
        assert bool(jnp.any(grad != 0)) == (not models.is_statistic(name)), name


def test_every_way_of_batching_tasks(bridged, key):
    model, tasks = bridged.make(False), stacked_regression_tasks(key, 2)
    learner = learners.maml(model, losses.squared_error, optax.sgd(0.1), num_steps=1)
    meta_params = learner.init(key, jax.tree.map(lambda leaf: leaf[0], tasks))
    value_and_grad = jax.value_and_grad(jmeta.episode(learner, losses.squared_error), has_aux=True)
    vmapped, scanned = (
        jax.jit(jmeta.over_tasks(value_and_grad, batching))(meta_params, tasks, key) for batching in ("vmap", "scan")
    )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), vmapped, scanned)


def test_a_key_means_training_and_none_evaluation(bridged, key):
    model, x = bridged.make(False), jax.random.normal(key, (8, 3))
    params = model.init(key, x)
    still, again = model.apply(params, x, None), model.apply(params, x, None)
    np.testing.assert_array_equal(still, again)
    one, same, other = (model.apply(params, x, jax.random.key(i)) for i in (1, 1, 2))
    np.testing.assert_array_equal(one, same)
    assert not np.allclose(one, other)
    # stored statistics in evaluation: no example sees the others; statistics of the call in training
    np.testing.assert_allclose(model.apply(params, x[:2], None), still[:2], rtol=1e-5, atol=1e-6)
    transductive = bridged.make(True)
    assert not np.allclose(transductive.apply(params, x[:2], None), transductive.apply(params, x, None)[:2], atol=1e-3)


@pytest.mark.usefixtures("float64")
def test_calibrate_stores_the_statistics_themselves(bridged, key):
    model, x = in_default_precision(bridged.make(False)), 2 + jax.random.normal(key, (8, 3))
    params = model.init(key, x)
    _, params = model.calibrate(params, x + 5, None)  # old averages, which have to be forgotten
    outputs, calibrated = model.calibrate(params, x, None)
    named = by_name(calibrated)
    kernel = named[bridged.kernel]
    hidden = x @ (kernel.T if kernel.shape == (HIDDEN, 3) else kernel)
    mean = named[bridged.mean]
    if bridged.mean == "stats/1":  # Equinox stores (1 − m) of it, and divides when it evaluates
        mean = mean / (1 - 0.9)
    np.testing.assert_allclose(mean.reshape(-1), hidden.mean(0), rtol=1e-6)
    np.testing.assert_allclose(model.apply(calibrated, x, None), outputs, rtol=1e-6)
    np.testing.assert_allclose(bridged.make(True).apply(params, x, None), outputs, rtol=1e-6)
    assert jax.tree.structure(calibrated) == jax.tree.structure(params)
    avals = lambda tree: jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), tree)
    assert avals(calibrated) == avals(params)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("name", ["linen", "equinox", "haiku"])  # NNX stops this gradient, as its docstring says
def test_stored_statistics_are_differentiable(name, key):
    model, x = in_default_precision(BRIDGES[name].make(False)), jax.random.normal(key, (8, 3))

    def loss(params):
        _, calibrated = model.calibrate(params, x, None)
        return jnp.sin(model.apply(calibrated, x[:3] + 1, None)).sum()

    assert_gradient_is_central_difference(loss, model.init(key, x))


def as_linen(params):
    """The parameters of `NnxNet` under the names of `LinenNet`."""
    names = {"hidden": "Dense_0", "norm": "BatchNorm_0", "head": "head"}
    renamed = lambda layers: {names[name]: layer for name, layer in layers.items()}
    stats = {"batch_stats": renamed(params["stats"]["batch_stats"])}
    return {"params": renamed(params["params"]), "stats": stats}


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("judged_by", ["the call", "the support"])
def test_nnx_is_linen_but_for_the_gradient_of_what_it_stores(judged_by, key):
    """Second-order MAML through batch norm: one loss and one meta-gradient, whichever library wrote the network.

    Judged by the statistics of the call, as in every training episode, there is nothing more to say. Judged by those
    stored from the support, NNX takes them for constants: it is Linen with its statistics stopped.
    """
    linen = linen_model(False, rate=0.0)

    def calibrate_stopped(params, x, key):
        outputs, calibrated = linen.calibrate(params, x, key)
        return outputs, {**calibrated, "stats": jax.lax.stop_gradient(calibrated["stats"])}

    task = regression_task(key)
    nnx_model = in_default_precision(models.from_nnx(lambda rngs: NnxNet(rngs, rate=0.0)))
    start = nnx_model.init(key, task.support.x)
    key_query = key if judged_by == "the call" else None

    def loss_and_gradient(model, meta_params):
        learner = learners.maml(model, losses.squared_error, optax.sgd(0.1), num_steps=3)

        def loss(meta_params):
            adapted = learner.adapt(meta_params, task.support, key)
            return losses.squared_error(learner.predict(meta_params, adapted, task.query.x, key_query), task.query)[0]

        return jax.jit(jax.value_and_grad(loss))(meta_params)

    loss, gradient = loss_and_gradient(nnx_model, start)
    assert jnp.linalg.norm(gradient["params"]["hidden"]["kernel"]) > 1e-3
    stopped = loss_and_gradient(linen._replace(calibrate=calibrate_stopped), as_linen(start))
    assert_all_close = lambda a, b: jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-9), a, b)
    assert_all_close((loss, as_linen(gradient)), stopped)
    exact_loss, exact = loss_and_gradient(linen, as_linen(start))
    assert_all_close(loss, exact_loss)
    if judged_by == "the call":
        assert_all_close(as_linen(gradient), exact)
    else:
        missing = jax.tree.map(jnp.subtract, as_linen(gradient)["params"], exact["params"])
        assert optax.tree.norm(missing) > 1e-2 * optax.tree.norm(exact["params"])


def test_calibrate_with_a_key_is_the_training_pass(bridged, key):
    model, x = bridged.make(False), jax.random.normal(key, (8, 3))
    params = model.init(key, x)
    outputs, calibrated = jax.jit(model.calibrate)(params, 1 + 2 * x, key)
    np.testing.assert_allclose(outputs, model.apply(params, 1 + 2 * x, key), rtol=1e-5, atol=1e-6)
    assert not np.allclose(model.apply(calibrated, x, None), model.apply(params, x, None))
    assert {leaf.dtype for leaf in jax.tree.leaves(calibrated)} == {jnp.dtype("float32")}


def test_equinox_averages_in_training_too(key):
    """`mode="ema"`: calibrated on x it evaluates by x's statistics all the same."""
    model, x = equinox_model(False, "ema"), jax.random.normal(key, (8, 3))
    outputs, params = model.calibrate(model.init(key, x), x, None)
    np.testing.assert_allclose(model.apply(params, x, None), outputs, rtol=1e-5, atol=1e-6)


def test_modules_without_state(key):
    x = jax.random.normal(key, (4, 3))
    for model in (
        models.from_linen(nn.Dense(2)),
        models.from_nnx(lambda rngs: nnx.Linear(3, 2, rngs=rngs)),
        models.from_equinox(lambda key: eqx.nn.MLP(3, 2, 4, 1, key=key)),
        models.from_haiku(hk.transform(lambda x: hk.Linear(2)(x))),
    ):
        params = model.init(key, x)
        assert model.calibrate is None
        assert list(params) == ["params"]
        np.testing.assert_array_equal(model.apply(params, x, key), model.apply(params, x, None))
        assert not np.allclose(model.apply(params, x, None), model.apply(model.init(jax.random.key(1), x), x, None))


def test_linen_asks_for_the_name_of_the_statistics(key):
    with pytest.raises(ValueError, match=r"are \['batch_stats'\]; name the collection"):
        models.from_linen(nn.BatchNorm(use_running_average=True)).init(key, jnp.ones((2, 2)))
    with pytest.raises(ValueError, match=r"statistics='batch_stats', but .* are \[\]"):
        models.from_linen(nn.Dense(2), statistics="batch_stats").init(key, jnp.ones((2, 2)))


def test_haiku_wants_a_transformed_function():
    with pytest.raises(ValueError, match="transform_with_state"):
        models.from_haiku(lambda x: x)


@pytest.mark.parametrize(("library", "bridge"), [("equinox", models.from_equinox), ("haiku", models.from_haiku)])
def test_a_missing_library_is_named(library, bridge, monkeypatch):
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(ImportError, match=r'pip install "jmeta\[bridges\]"'):
        bridge(lambda key: None)
