"""The bound of neural processes, by other routes: closed forms of a linear model, quadrature, and many samples."""

import jax
import jax.numpy as jnp
import numpy as np

import jmeta
from jmeta import Batch, Model, Task, learners, losses
from jmeta.distributions import Normal, normal_kl

from ..registry import LEARNERS

PRIOR_STD, NOISE = 1.5, 0.4


def by_hand(apply):
    """A network whose parameters are one number that it ignores or uses."""
    return Model(lambda key, x: jnp.zeros(()), lambda params, x, key: apply(params, x))


def linear_process(num_points, num_samples, num_elbo_samples):
    """y = z x + noise with z ~ N(0, 1.5²), and a posterior that is exact for `num_points` points, plus `params` off."""

    def posterior(off, means):
        precision = 1 / PRIOR_STD**2 + num_points * means[:, :1] / NOISE**2
        is_empty = means[:, :1] == 0
        loc = num_points * means[:, 1:] / NOISE**2 / precision
        return Normal(jnp.where(is_empty, loc, loc + off), jnp.where(is_empty, 1, 1 + off) / jnp.sqrt(precision))

    encoder = by_hand(lambda _, rows: jnp.stack([rows[:, 0] ** 2, rows[:, 0] * rows[:, 1]], 1))
    decoder = by_hand(lambda _, rows: Normal(rows[:, :1] * rows[:, 1:], jnp.full_like(rows[:, :1], NOISE)))
    return learners.neural_process(
        encoder, by_hand(posterior), decoder, num_samples=num_samples, num_elbo_samples=num_elbo_samples
    )


def params_of(off):
    return {"latent": {"encoder": 0.0, "posterior": jnp.asarray(off)}, "decoder": 0.0}


def linear_task(num_points=4):
    x, noise = np.random.default_rng(0).normal(size=(2, num_points, 1))
    query = Batch(jnp.asarray(x), jnp.asarray(0.8 * x + NOISE * noise))
    return Task(jax.tree.map(lambda leaf: leaf[:0], query), query)


def log_evidence(task):
    x, y = task.query.x[:, 0], task.query.y[:, 0]
    covariance = PRIOR_STD**2 * jnp.outer(x, x) + NOISE**2 * jnp.eye(len(x))
    return jax.scipy.stats.multivariate_normal.logpdf(y, jnp.zeros_like(y), covariance)


def test_kl_is_an_integral_and_a_mean_over_samples(float64, key):
    q, p = Normal(jnp.array([0.3, -1.0]), jnp.array([0.5, 2.0])), Normal(jnp.array([0.0, 1.0]), jnp.array([1.5, 0.7]))
    grid = jnp.linspace(-20, 20, 20_001)
    expected = 0.0
    for i in range(2):
        log_q, log_p = (jax.scipy.stats.norm.logpdf(grid, each.loc[i], each.scale[i]) for each in (q, p))
        expected += np.trapezoid(np.exp(log_q) * (log_q - log_p), grid)
    np.testing.assert_allclose(normal_kl(q, p).sum(), expected, rtol=1e-9)
    samples = jax.vmap(q.sample)(jax.random.split(key, 100_000))
    differences = jax.vmap(lambda sample: (q.log_prob(sample) - p.log_prob(sample)).sum())(samples)
    error = differences.std() / np.sqrt(len(differences))
    assert abs(normal_kl(q, p).sum() - differences.mean()) < 4 * error
    assert (normal_kl(q, q) == 0).all()


def test_the_bound_is_the_evidence_minus_the_divergence_from_the_exact_posterior(float64, key):
    """ELBO = log p(y) − KL(q ‖ p(z | y)), where all three have closed forms but the expectation under q."""
    task, num_samples = linear_task(), 40_000
    episode_fn = jax.jit(jmeta.episode(linear_process(4, 1, num_samples), losses.negative_log_likelihood))
    x, y = task.query.x, task.query.y
    precision = 1 / PRIOR_STD**2 + (x**2).sum() / NOISE**2
    exact = Normal((x * y).sum() / NOISE**2 / precision, precision**-0.5)
    for off in (0.0, 0.3):
        loss, aux = episode_fn(params_of(off), task, key)
        chosen = Normal(exact.loc + off, exact.scale * (1 + off))
        log_likelihoods = jax.scipy.stats.norm.logpdf(
            y, x * (chosen.loc + chosen.scale * jax.random.normal(key, (1, 1000))), NOISE
        ).sum(0)
        error = log_likelihoods.std() / np.sqrt(num_samples)
        np.testing.assert_allclose(-4 * loss, log_evidence(task) - normal_kl(chosen, exact), atol=5 * error, rtol=0)
        np.testing.assert_allclose(aux["kl"], normal_kl(chosen, Normal(jnp.zeros(()), jnp.float64(PRIOR_STD))))


def test_with_many_samples_the_mixture_is_the_exact_predictive(float64, key):
    """From no point: each target is normal with mean 0 and variance 1.5² x² + 0.4²."""
    task, learner = linear_task(), linear_process(4, 20_000, 1)
    adapted = learner.adapt(params_of(0.3), task.support, key)
    prediction = learner.predict(params_of(0.3), adapted, task.query.x, None)
    exact = Normal(jnp.zeros((4, 1)), jnp.sqrt(PRIOR_STD**2 * task.query.x**2 + NOISE**2))
    np.testing.assert_allclose(prediction.log_prob(task.query.y), exact.log_prob(task.query.y), atol=0.05)
    np.testing.assert_allclose(prediction.cdf(task.query.y), exact.cdf(task.query.y), atol=0.02)


def test_the_bound_is_below_the_joint_log_density_under_many_samples(float64, key):
    """log ∫ Πᵢ p(yᵢ | xᵢ, z) q(z | context) dz, of a network as it is drawn, with and without attention."""
    for name in ("neural_process", "attentive_neural_process_with_latents"):
        learner, loss_fn, sample, *_ = LEARNERS[name]
        task = jax.jit(sample)(key)
        start = jax.jit(learner.init)(jax.random.key(1), task)
        meta_params = jax.tree.map(lambda leaf: 2 * leaf.astype("float64") + 0.1, start)

        def log_density(meta_params, key, learner=learner, task=task):
            adapted = learner.adapt(meta_params, task.support, key)
            return learner.predict(meta_params, adapted, task.query.x, None).components.log_prob(
                jnp.broadcast_to(task.query.y[..., None], (4, 1, 3))
            )

        keys = jax.random.split(key, 4000)
        log_densities = jax.jit(jax.vmap(log_density, (None, 0)))(meta_params, keys).sum((1, 2)).ravel()
        joint = jax.nn.logsumexp(log_densities) - np.log(len(log_densities))
        episode_fn = jmeta.episode(learner, loss_fn)
        bounds = -4 * jax.jit(jax.vmap(lambda params, key: episode_fn(params, task, key)[0], (None, 0)))(
            meta_params, keys
        )
        error = bounds.std() / np.sqrt(len(bounds))
        assert bounds.mean() + 4 * error < joint, name
