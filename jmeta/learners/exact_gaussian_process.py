"""The exact posterior of a Gaussian process: what no learner of its tasks can beat on average.

The kernel's hyper-parameters, which a task draws from a uniform prior, are integrated out by a tensor product of
Gauss-Legendre rules: each node has the Gaussian posterior of its hyper-parameters, weighted by how probable the support
is under them. Nothing is meta-learned. Compare a learner with it on the same tasks, task by task: the difference is
the learner's distance from exact Bayesian inference.

In float32 the log density of a target is off by at most 1e-3 nats where the noise is 0.02 and the process has scale 1
(a test compares it with float64); use float64 (`jax_enable_x64`) where there is less noise.

Reference: Rasmussen and Williams, "Gaussian Processes for Machine Learning", 2006, sections 2.2 and 5.2.
"""

import itertools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ..bounds import is_real, is_whole
from ..distributions import Mixture, Normal
from ..losses import num_real, real_examples, without_padding
from ..tasks.kernels import Kernel
from ..tasks.regression_protocols import RegressionProtocol
from ..types import Aux, Batch, EpisodeFn, Learner, PyTree, RandomKey, Task

__all__ = ["Posterior", "evidence", "exact_gaussian_process", "exact_joint", "exact_posteriors"]


class Posterior(NamedTuple):
    """The posterior of a process given a support, at each node of the quadrature.

    Attributes:
      x: inputs of the support, `[points, features]`.
      is_real: which of them are not padding, `[points]`.
      factors: Cholesky factors of the covariances of the support, `[nodes, points, points]`.
      weights: inverse covariances times targets, `[nodes, points, 1]`.
      log_probs: log posterior probabilities of the nodes, `[nodes]`.
    """

    x: Array
    is_real: Array
    factors: Array
    weights: Array
    log_probs: Array


def exact_gaussian_process(kernel: Kernel, *, noise: float, num_nodes: int = 16) -> Learner:
    """Predict by the exact posterior of a Gaussian process whose kernel, prior and noise are known.

    Args:
      kernel: as the tasks were drawn with (`tasks.kernels`).
      noise: standard deviation of the noise, of the tasks; predictions include it.
      num_nodes: nodes of the quadrature along each drawn hyper-parameter. Double it to see the quadrature's error.

    Returns:
      A learner without meta-parameters whose adapted state is a `Posterior`, and whose predictions are mixtures of
      normal distributions `[points, 1]`: the exact marginal of each target. Targets are `[points, 1]`.

    Raises:
      ValueError: if `noise` or `num_nodes` is not positive.

    Example:
      >>> import jax
      >>> from jmeta import learners, tasks
      >>> kernel = tasks.kernels.rbf(length_scale=(0.1, 0.6))
      >>> task = tasks.gaussian_process(kernel, num_shots=10, num_queries=5, noise=0.1)(jax.random.key(0))
      >>> learner = learners.exact_gaussian_process(kernel, noise=0.1, num_nodes=8)
      >>> posterior = jax.jit(learner.adapt)({}, task.support, jax.random.key(1))
      >>> jax.jit(learner.predict)({}, posterior, task.query.x, None).mean().shape
      (5, 1)
    """
    condition = _condition(kernel, noise, num_nodes)
    nodes, _ = _gauss_legendre(kernel.num_drawn, num_nodes)

    def init(key: RandomKey, task: Task) -> PyTree:
        del key, task
        return {}

    def adapt(meta_params: PyTree, support: Batch, key: RandomKey) -> Posterior:
        del meta_params, key
        factors, weights, log_joint = condition(support)
        is_real = real_examples(support)
        return Posterior(without_padding(support).x, is_real, factors, weights, jax.nn.log_softmax(log_joint))

    def predict(
        meta_params: PyTree, adapted: Posterior, x: Float[Array, "points features"], key: RandomKey | None
    ) -> Mixture:
        del meta_params, key

        def at_node(unit: Array, factor: Array, weights: Array) -> tuple[Array, Array]:
            across = jnp.where(adapted.is_real[:, None], kernel.gram(unit, adapted.x, x), 0)
            explained = jnp.square(jax.scipy.linalg.solve_triangular(factor, across, lower=True)).sum(0)
            prior = jax.vmap(lambda point: kernel.gram(unit, point[None], point[None])[0, 0])(x)
            return across.T @ weights, jnp.sqrt(prior - explained + noise**2)[:, None]

        at_nodes = jax.vmap(at_node, out_axes=-1)
        normals = Normal(*at_nodes(jnp.asarray(nodes, adapted.x.dtype), adapted.factors, adapted.weights))
        return Mixture(jnp.broadcast_to(adapted.log_probs, normals.loc.shape), normals)

    return Learner(init, adapt, predict)


def evidence(kernel: Kernel, *, noise: float, num_nodes: int = 16) -> Callable[[Batch], Float[Array, ""]]:
    """Build `batch -> log p(y | x)`, in nats, the hyper-parameters integrated out.

    The evidence of support and query together, minus that of the support, is the exact *joint* log density of the
    query, with which autoregressive predictions compare; the sum of marginals of `exact_gaussian_process` is lower.

    Args:
      kernel, noise, num_nodes: as for `exact_gaussian_process`.

    Example:
      >>> import jax.numpy as jnp
      >>> from jmeta import Batch, learners, tasks
      >>> log_density = learners.evidence(tasks.kernels.rbf(length_scale=1.0), noise=1.0)
      >>> round(float(log_density(Batch(jnp.zeros((1, 1)), jnp.zeros((1, 1))))), 4)  # of a normal with variance 2
      -1.2655
    """
    condition = _condition(kernel, noise, num_nodes)
    return lambda batch: jax.nn.logsumexp(condition(batch)[2])


def exact_joint(kernel: Kernel, *, noise: float, num_nodes: int = 16) -> EpisodeFn:
    """Build the episode whose loss is that of the exact joint prediction, with which autoregressive ones compare.

    Args:
      kernel, noise, num_nodes: as for `exact_gaussian_process`.

    Returns:
      `(meta_params, task, key) -> (loss, aux)`: −log p(query | support), in nats a target; neither meta-parameters nor
      keys matter. For `evaluation.evaluate_episodes`.

    Example:
      >>> import jax
      >>> from jmeta import evaluation, tasks
      >>> kernel = tasks.kernels.rbf(length_scale=0.5)
      >>> sample = tasks.gaussian_process(kernel, num_shots=5, num_queries=5, noise=0.1)
      >>> episode_fn = exact_joint(kernel, noise=0.1)
      >>> key = jax.random.key(0)
      >>> result = evaluation.evaluate_episodes(episode_fn, {}, sample, key, protocol="RBF", num_tasks=50)
      >>> result.inductive["negative_log_likelihood"].mean < 1
      True
    """
    log_density = evidence(kernel, noise=noise, num_nodes=num_nodes)

    def episode_fn(meta_params: PyTree, task: Task, key: RandomKey) -> tuple[Array, Aux]:
        del meta_params, key
        joined = lambda *leaves: jnp.concatenate(leaves)  # noqa: E731
        x, y = jax.tree.map(joined, task.support[:2], task.query[:2])
        support, query = real_examples(task.support), real_examples(task.query)
        masks = jnp.stack([joined(support, jnp.zeros_like(query)), joined(support, query)])
        # one batch of decompositions: of two at once, each may wait for the other's threads (docs/upstream)
        of_support, of_both = jax.vmap(lambda mask: log_density(Batch(x, y, mask)))(masks)
        loss = (of_support - of_both) / num_real(task.query, y.dtype)
        return loss, {"negative_log_likelihood": loss}

    return episode_fn


def exact_posteriors(protocol: RegressionProtocol, *, num_nodes: int) -> dict[str, Learner | EpisodeFn]:
    """Build the baselines of a protocol: the exact posterior of its test tasks, and that under the prior of training.

    The second is what a learner can reach that knows its training tasks alone; it is there where test tasks differ.
    Neither is there where the protocol has no kernel for it.

    Args:
      protocol: from `tasks.regression_protocol`; a joint one makes episodes of joint densities.
      num_nodes: as for `exact_gaussian_process`.

    Example:
      >>> from jmeta import tasks
      >>> sorted(exact_posteriors(tasks.regression_protocol("tnp_rbf", tested_on="tnp_matern52"), num_nodes=8))
      ['exact posterior', 'exact posterior of the training prior']
    """
    kernels = {"exact posterior": protocol.tested_kernel}
    if protocol.trained_kernel is not protocol.tested_kernel:
        kernels["exact posterior of the training prior"] = protocol.trained_kernel
    build = exact_joint if protocol.is_joint else exact_gaussian_process
    return {
        name: build(kernel, noise=protocol.noise, num_nodes=num_nodes)
        for name, kernel in kernels.items()
        if kernel is not None
    }


def _condition(kernel: Kernel, noise: float, num_nodes: int) -> Callable[[Batch], tuple[Array, Array, Array]]:
    """Build `batch -> (factors, weights, log p(y, node))`, of all nodes."""
    if not is_real(noise, above=0) or not is_whole(num_nodes):
        raise ValueError(f"noise={noise} and num_nodes={num_nodes}; expected positive numbers")
    nodes, quadrature = _gauss_legendre(kernel.num_drawn, num_nodes)

    def condition(batch: Batch) -> tuple[Array, Array, Array]:
        is_real, (x, y, _) = real_examples(batch), without_padding(batch)

        def at_node(unit: Array) -> tuple[Array, Array, Array]:
            # padding is a point of variance 1, apart from the others and observed at 0: it changes nothing
            among = jnp.where(is_real[:, None] & is_real[None], kernel.gram(unit, x, x), 0)
            factor = jnp.linalg.cholesky(among + jnp.diag(jnp.where(is_real, noise**2, 1.0)))
            whitened = jax.scipy.linalg.solve_triangular(factor, y, lower=True)
            log_det = 2 * jnp.log(jnp.diagonal(factor)).sum()
            weights = jax.scipy.linalg.solve_triangular(factor.T, whitened, lower=False)
            num_real = is_real.sum().astype(y.dtype)
            return factor, weights, -(jnp.square(whitened).sum() + log_det + num_real * jnp.log(2 * jnp.pi)) / 2

        factors, weights, log_likelihoods = jax.vmap(at_node)(jnp.asarray(nodes, x.dtype))
        return factors, weights, log_likelihoods + jnp.asarray(np.log(quadrature), x.dtype)

    return condition


def _gauss_legendre(num_dimensions: int, num_nodes: int) -> tuple[np.ndarray, np.ndarray]:
    """Return nodes `[nodes, dimensions]` in the unit cube, and their weights, which sum to 1."""
    points, weights = np.polynomial.legendre.leggauss(num_nodes)
    axis = list(zip((points + 1) / 2, weights / 2, strict=True))
    product = list(itertools.product(axis, repeat=num_dimensions))
    nodes = np.array([[point for point, _ in each] for each in product]).reshape(len(product), num_dimensions)
    return nodes, np.array([np.prod([weight for _, weight in each]) for each in product])
