"""LLAMA: on linear models it is Bayesian linear regression, and its curvature is that of matrices written out."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn
from jax.flatten_util import ravel_pytree

import jmeta
from jmeta import Batch, Model, learners, losses, models, tasks

from ..differences import assert_gradient_is_central_difference
from ..networks import in_default_precision, regression_task, smooth_mlp
from .few_shot_tasks import blobs, predict
from .short_training import query_losses
from .test_gradient_based import assert_trees_close

LOSS, LR = losses.negative_log_likelihood, 0.02
MODEL = models.normal_outputs(smooth_mlp(), scale=0.5)
CURVATURES = ["diagonal", "kronecker"]
linear = in_default_precision(models.mlp([2]))


class Network(nn.Module):
    """A compact module of one function."""

    fn: Callable

    @nn.compact
    def __call__(self, x):
        return self.fn(x)


def flax_model(fn):
    network = Network(fn)
    return Model(network.init, lambda params, x, key: network.apply(params, x))


def make(model=MODEL, **options):
    return learners.llama(model, LOSS, optax.sgd(LR), num_steps=3, **options)


def linear_setting(key, scale=0.5):
    """A linear model with two outputs, its parameters, and a batch; the design matrix has a column of ones."""
    key_x, key_y, key_params = jax.random.split(key, 3)
    x, y = jax.random.normal(key_x, (7, 3)), jax.random.normal(key_y, (7, 2))
    model = models.normal_outputs(linear, scale=scale)
    return model, model.init(key_params, x), Batch(x, y), jnp.concatenate([x, jnp.ones((7, 1))], 1)


def dense(precision):
    """The matrix of a Kronecker precision of one layer, over the rows of the kernel and the bias."""
    (inputs,), (outputs,) = precision.inputs.values(), precision.outputs.values()
    kronecker = jnp.kron(inputs, outputs)
    return kronecker + precision.prior * jnp.eye(len(kronecker))


def test_the_kronecker_precision_of_a_linear_model_is_that_of_bayesian_regression(float64, key):
    """Xᵀ X / σ² + τ for each output, and its log determinant."""
    model, params, batch, design = linear_setting(key)
    precision = learners.laplace_precision(model, curvature="kronecker", prior_precision=0.7)(params, batch)
    expected = jnp.kron(design.T @ design / 0.5**2, jnp.eye(2)) + 0.7 * jnp.eye(8)
    np.testing.assert_allclose(dense(precision), expected, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(precision.log_det(), jnp.linalg.slogdet(expected)[1], rtol=1e-12)


def test_the_diagonal_precision_of_a_linear_model_is_that_of_bayesian_regression(float64, key):
    """The diagonal of the same matrix, which for orthogonal features is all of it."""
    model, params, batch, design = linear_setting(key)
    precision = learners.laplace_precision(model, curvature="diagonal", prior_precision=0.7)(params, batch)
    expected = jnp.diag(design.T @ design) / 0.5**2 + 0.7
    head = precision.values["params"]["head"]
    np.testing.assert_allclose(head["kernel"], jnp.tile(expected[:3, None], (1, 2)), rtol=1e-12)
    np.testing.assert_allclose(head["bias"], jnp.tile(expected[3:], 2), rtol=1e-12)
    orthogonal = Batch(jnp.array([[2.0, 1, 1], [2, -1, -1], [-2, 1, -1], [-2, -1, 1]]), jnp.zeros((4, 2)))
    log_dets = [
        learners.laplace_precision(model, curvature=curvature, prior_precision=0.7)(params, orthogonal).log_det()
        for curvature in CURVATURES
    ]
    np.testing.assert_allclose(*log_dets, rtol=1e-12)


def test_laplace_of_a_linear_model_is_its_evidence(float64, key):
    """−log N(y; X θ, σ² + X Xᵀ / τ) = −log p(y | φ) + τ/2 ‖φ − θ‖² + ½ log det Λ − d/2 log τ, with φ the mode."""
    model, params, batch, design = linear_setting(key)
    prior, variance = 0.7, 0.5**2
    theta = jnp.concatenate([params["params"]["head"]["kernel"], params["params"]["head"]["bias"][None]])
    theta = theta + 0.3
    mode = jnp.linalg.solve(
        design.T @ design / variance + prior * jnp.eye(4), design.T @ batch.y / variance + prior * theta
    )
    at_mode = {"params": {"head": {"kernel": mode[:3], "bias": mode[3]}}}
    log_det = learners.laplace_precision(model, curvature="kronecker", prior_precision=prior)(at_mode, batch).log_det()
    nll = 7 * LOSS(model.apply(at_mode, batch.x, None), batch)[0]
    found = nll + prior / 2 * jnp.sum((mode - theta) ** 2) + log_det / 2 - 8 / 2 * jnp.log(prior)
    covariance = variance * jnp.eye(7) + design @ design.T / prior
    normal = jax.scipy.stats.multivariate_normal.logpdf
    expected = -sum(normal(batch.y[:, i], design @ theta[:, i], covariance) for i in range(2))
    np.testing.assert_allclose(found, expected, rtol=1e-10)


def jacobian_fisher(model, params, batch, information):
    """Σᵢ Jᵢᵀ Hᵢ Jᵢ, with the Jacobian of the flat outputs and `information` their Fisher matrix for each example."""
    flat, unravel = ravel_pytree(params)
    outputs = lambda flat, x: ravel_pytree(model.apply(unravel(flat), x[None], None))[0]
    jacobians = jax.vmap(lambda x: jax.jacobian(outputs)(flat, x))(batch.x)
    matrices = jax.vmap(lambda x: information(outputs(flat, x)))(batch.x)
    return jnp.einsum("nop,noq,nqr->pr", jacobians, matrices, jacobians)


def of_logits(logits):
    probs = jax.nn.softmax(logits)
    return jnp.diag(probs) - jnp.outer(probs, probs)


def of_normal(loc_and_scale):
    _, scale = loc_and_scale
    return jnp.diag(jnp.array([1.0, 2.0]) / scale**2)


@pytest.mark.parametrize("kind", ["logits", "normal"])
def test_the_diagonal_is_that_of_the_fisher_information(float64, key, kind):
    if kind == "logits":
        model, batch, information = smooth_mlp(3), blobs(key).support, of_logits
    else:
        model, batch, information = models.normal_outputs(smooth_mlp(2)), regression_task(key).support, of_normal
    params = model.init(key, batch.x)
    precision = learners.laplace_precision(model, curvature="diagonal", prior_precision=0.3)(params, batch)
    expected = jnp.diag(jacobian_fisher(model, params, batch, information)) + 0.3
    np.testing.assert_allclose(ravel_pytree(precision.values)[0], expected, rtol=1e-10)


def test_the_fisher_information_of_classes_is_the_hessian_of_the_cross_entropy(float64, key):
    """For a linear model, whatever the labels; its diagonal."""
    batch, model = blobs(key).support, in_default_precision(models.mlp([3]))
    params, unravel = ravel_pytree(model.init(key, batch.x))
    total = lambda flat: losses.cross_entropy(model.apply(unravel(flat), batch.x, None), batch)[0] * len(batch.y)
    precision = learners.laplace_precision(model, curvature="diagonal", prior_precision=0.3)(unravel(params), batch)
    expected = jnp.diag(jax.hessian(total)(params)) + 0.3
    np.testing.assert_allclose(ravel_pytree(precision.values)[0], expected, rtol=1e-10)


def test_kronecker_factors_are_those_of_a_network_written_out(float64, key):
    """Second moments of a layer's inputs, and J Jᵀ / σ² of its outputs; one example gives the exact block."""
    task = regression_task(key)
    params = MODEL.init(key, task.support.x)
    hidden, head = params["params"]["hidden_0"], params["params"]["head"]
    precision = learners.laplace_precision(MODEL, curvature="kronecker", prior_precision=0.3)(params, task.support)
    after = jnp.tanh(task.support.x @ hidden["kernel"] + hidden["bias"][None])
    moment = lambda rows: (
        jnp.concatenate([rows, jnp.ones((5, 1))], 1).T @ jnp.concatenate([rows, jnp.ones((5, 1))], 1) / 5
    )
    back = (1 - after**2) * head["kernel"].T / 0.5
    assert sorted(precision.inputs) == ["params/head", "params/hidden_0"]
    np.testing.assert_allclose(precision.inputs["params/hidden_0"], moment(task.support.x), rtol=1e-10)
    np.testing.assert_allclose(precision.inputs["params/head"], moment(after), rtol=1e-10)
    np.testing.assert_allclose(precision.outputs["params/hidden_0"], back.T @ back, rtol=1e-10)
    np.testing.assert_allclose(precision.outputs["params/head"], jnp.full((1, 1), 5 / 0.5**2), rtol=1e-10)


def test_kronecker_curvature_is_that_of_the_adapted_parameters(float64, key):
    """Of whole layers, or of kernels or biases alone."""
    model, params, batch, design = linear_setting(key)
    for name, columns in (("kernel", design[:, :3]), ("bias", design[:, 3:])):
        chosen = lambda path, name=name: path.endswith(name)
        build = learners.laplace_precision(model, curvature="kronecker", prior_precision=0.7, is_adapted=chosen)
        expected = jnp.kron(columns.T @ columns / 0.5**2, jnp.eye(2)) + 0.7 * jnp.eye(2 * columns.shape[1])
        np.testing.assert_allclose(dense(build(params, batch)), expected, rtol=1e-12, atol=1e-12)
    net = flax_model(lambda x: nn.Dense(3, name="head")(nn.LayerNorm()(x)))
    params, batch = net.init(key, batch.x), Batch(batch.x, jnp.arange(7) % 3)
    build = learners.laplace_precision(net, curvature="kronecker", prior_precision=0.7, is_adapted=models.is_head)
    assert list(build(params, batch).inputs) == ["params/head"]


@pytest.mark.parametrize("curvature", CURVATURES)
def test_samples_have_the_covariance_of_the_posterior(float64, key, curvature):
    model, params, batch, design = linear_setting(key)
    precision = learners.laplace_precision(model, curvature=curvature, prior_precision=0.7)(params, batch)
    draw = jax.jit(jax.vmap(lambda key: precision.sample(params, key)))
    drawn = draw(jax.random.split(key, 20_000))["params"]["head"]
    rows = jnp.concatenate([drawn["kernel"], drawn["bias"][:, None]], 1).reshape(20_000, 8)
    head = params["params"]["head"]
    mean = jnp.concatenate([head["kernel"], head["bias"][None]]).reshape(8)
    whole = jnp.kron(design.T @ design / 0.5**2, jnp.eye(2)) + 0.7 * jnp.eye(8)
    covariance = jnp.linalg.inv(whole) if curvature == "kronecker" else jnp.diag(1 / jnp.diag(whole))
    scale = jnp.sqrt(jnp.diag(covariance))
    np.testing.assert_allclose((rows.mean(0) - mean) / scale, 0, atol=0.03)
    np.testing.assert_allclose(
        jnp.cov(rows.T) / jnp.outer(scale, scale), covariance / jnp.outer(scale, scale), atol=0.04
    )


@pytest.mark.parametrize("curvature", CURVATURES)
def test_without_a_weight_it_is_maml(float64, key, curvature):
    task = regression_task(key)
    learner = make(curvature=curvature, log_det_weight=0.0)
    maml = learners.maml(MODEL, LOSS, optax.sgd(LR), num_steps=3)
    meta_params = learner.init(jax.random.key(1), task)
    found, expected = (
        jax.jit(jax.grad(jmeta.episode(each, LOSS), has_aux=True))(meta_params, task, key)[0]
        for each in (learner, maml)
    )
    assert_trees_close(found, expected)
    assert_trees_close(*(jax.jit(each.adapt)(meta_params, task.support, key) for each in (learner, maml)))


@pytest.mark.parametrize("curvature", CURVATURES)
def test_the_meta_gradient_is_the_central_difference(float64, key, curvature):
    """With fewer examples than rows, eigenvalues of the factors are zero, many times over."""
    task, learner = regression_task(key, num_examples=2), make(curvature=curvature, log_det_weight=0.5)
    meta_params = learner.init(jax.random.key(1), task)
    episode_fn = jmeta.episode(learner, LOSS)
    assert_gradient_is_central_difference(lambda params: episode_fn(params, task, key)[0], meta_params)


@pytest.mark.parametrize("curvature", CURVATURES)
def test_sampled_predictions_center_on_the_point_estimate(key, curvature):
    """Without samples the prediction is one normal; a very precise prior makes samples of the point estimate."""
    task = regression_task(key)
    point, sampled = make(), make(curvature=curvature, prior_precision=1e12, num_samples=2)
    meta_params = point.init(jax.random.key(1), task)
    expected, found = (predict(learner, meta_params, task) for learner in (point, sampled))
    np.testing.assert_allclose(found.mean(), expected.mean(), atol=1e-4)
    np.testing.assert_allclose(found.variance(), expected.variance(), rtol=1e-4)
    wide = make(curvature=curvature, prior_precision=0.1, num_samples=16)
    found = predict(wide, meta_params, task)
    assert (found.variance() > 1.1 * expected.variance()).all()


def test_sinusoids_are_learned():
    model = models.normal_outputs(models.mlp([20, 1]), scale=0.3)
    learner = learners.llama(model, LOSS, optax.sgd(0.005), num_steps=1, curvature="kronecker", log_det_weight=1e-3)
    sample = tasks.sinusoid(num_shots=10, num_queries=10)
    before, after, _ = query_losses(learner, LOSS, sample)
    assert after.mean() < 0.9 * before.mean(), (before, after)


@pytest.mark.slow
def test_blobs_are_learned_with_samples():
    learner = learners.llama(
        models.mlp([16, 3]),
        losses.cross_entropy,
        optax.sgd(0.1),
        num_steps=2,
        curvature="diagonal",
        log_det_weight=1e-3,
        prior_precision=100.0,
        num_samples=4,
    )
    sample = tasks.gaussian_blobs(num_ways=3, num_shots=2, num_queries=4, num_features=4)
    before, after, _ = query_losses(learner, losses.cross_entropy, sample)
    assert (after < before).all(), (before, after)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"curvature": "full"}, "curvature='full'; expected 'diagonal' or 'kronecker'"),
        ({"log_det_weight": -1.0}, "log_det_weight=-1.0"),
        ({"prior_precision": 0.0}, "prior_precision=0.0"),
        ({"num_samples": 0}, "num_samples=0"),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        make(**options)


def test_what_has_no_kronecker_factors_is_refused(key):
    cases = [
        (flax_model(lambda x: nn.LayerNorm()(nn.Dense(3)(x))), (3, 3), "which these are not: params/LayerNorm_0/scale"),
        (flax_model(lambda x: nn.Dense(3)(x).mean(1)), (3, 2, 3), r"applied more than once .* shape \(1, 2, 3\)"),
        (flax_model(applied_twice), (3, 3), "'params/Dense_0' is applied more than once"),
        (models.mlp([3])._replace(apply=jax.jit(models.mlp([3]).apply)), (3, 3), "these are not: params/head;"),
    ]
    for model, shape, message in cases:
        build = learners.laplace_precision(model, curvature="kronecker", prior_precision=1.0)
        with pytest.raises(ValueError, match=message):
            build(model.init(key, jnp.ones(shape)), Batch(jnp.ones(shape), jnp.array([0, 1, 2])))


def applied_twice(x):
    layer = nn.Dense(3)
    return layer(layer(x))


def test_outputs_without_a_fisher_information_are_refused(key):
    task = regression_task(key)
    build = learners.laplace_precision(smooth_mlp(), curvature="diagonal", prior_precision=1.0)
    with pytest.raises(ValueError, match=r"outputs float32\[1, 1\] are of no distribution"):
        build(smooth_mlp().init(key, task.support.x), task.support)
