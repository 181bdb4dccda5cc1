"""Amortized Bayesian meta-learning: a prior over parameters from which a few variational steps give a posterior.

The meta-parameters are a prior p = N(μ, σ²) over a network's parameters. A task is learned by gradient descent on the
mean and the log scale of a normal q, from q = p, which minimises −E_q[log p(support | φ)] + KL(q ‖ p); several draws of
q then predict together. The prior is trained by the same bound, of support and query together.

Reference: Ravi, Beatson, "Amortized Bayesian Meta-Learning", ICLR 2019, algorithm 1, eq. 4-5. As there, the posterior
comes from the support alone, and the meta-gradient goes through the steps and through the prior in both bounds. Differs
from the paper: inner steps descend the log scale, which stays finite and needs no projection; every bound is divided by
its number of examples, so that a rate means the same for all sizes; noise is drawn for whole networks, without local
reparameterisation or flipout; the hyperprior is optional.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from .. import adjoints
from ..adaptation import descend
from ..adjoints import Adjoint
from ..bounds import is_real, is_whole
from ..losses import checked_loss, num_real
from ..models import but_statistics
from ..params import merge, partition
from ..support import apply_to_support, support_loss, with_support_statistics
from ..types import Aux, Batch, EpisodeFn, Learner, LossFn, Model, PyTree, RandomKey, Task
from ..uncertain_params import NormalParams, kl_divergence, likelihood, logs_like, predict_with_particles, sample

__all__ = ["abml", "negative_elbo"]


class _Context(NamedTuple):
    prior: NormalParams
    rest: PyTree  # parameters that inner steps leave unchanged
    support: Batch


class _Adapted(NamedTuple):
    posterior: NormalParams
    particles: PyTree  # parameters of the whole network, stacked


def abml(
    model: Model,
    loss_fn: LossFn,
    inner_optimizer: optax.GradientTransformation,
    *,
    num_steps: int,
    num_samples: int,
    num_inner_samples: int = 1,
    initial_scale: float = 0.02,
    kl_weight: float = 1.0,
    hyperprior_weight: float = 0.0,
    precision_prior: tuple[float, float] = (1.0, 0.01),
    adjoint: Adjoint = adjoints.unrolled(),
    is_adapted: Callable[[str], bool] = lambda _: True,
) -> Learner:
    """Learn a prior over parameters; adapt by a few steps of variational inference.

    Every inner step draws new noise. With the same noise on every step the mean would move to undo it, and nothing
    would hold the scale: a single draw fits the support equally well at any scale.

    Args:
      model: predicts distributions of numbers (`models.normal_outputs`) or logits of classes.
      loss_fn: negative log likelihood of a batch, averaged over examples, such as `losses.negative_log_likelihood` or
        `losses.cross_entropy`.
      inner_optimizer: takes the steps of the mean and the log scale; the paper's is `optax.sgd(lr)`. The divergence
        from a narrow prior is steep: SGD diverges where lr · kl_weight exceeds 2 σ² times the examples of the support.
      num_steps: inner steps, at least 0.
      num_samples: networks that predict together, and that training averages over; at least 1. A learner with another
        number may use the same meta-parameters.
      num_inner_samples: networks that an inner step averages over, at least 1.
      initial_scale: σ of every parameter in an untrained prior, positive.
      kl_weight: weight of the divergence in both bounds; 1 for the bounds themselves.
      hyperprior_weight: weight of −log p(μ, σ) in the bound that trains the prior, at least 0; 1 in the paper's
        algorithm, 1 / (number of training tasks) for the mode of the hierarchical model.
      precision_prior: shape and rate of the Gamma distribution of every 1 / σ² in the hyperprior, positive; that of
        every μ is N(0, 1).
      adjoint: how inner steps are differentiated; not `adjoints.implicit`, since their objective is random.
      is_adapted: as in `maml`. Parameters that are not adapted have no distribution: they are shared and certain.

    Returns:
      A learner with meta-parameters `{"params": ..., "log_scale": ...}`: μ, and log σ of the adapted parameters. Its
      adapted state has the `posterior`, an `uncertain_params.NormalParams`, and `num_samples` networks drawn from it,
      the `particles`; their predictions are averaged by `distributions.mix`. The training episode's loss is the
      negative bound of support and query, divided by their number of examples; its `aux` is that of the query, averaged
      over the particles, with the `kl`.

    Raises:
      ValueError: if a number is out of its range; at trace time if no parameter is adapted.

    Example:
      >>> import jax, jmeta, optax
      >>> from jmeta import learners, losses, models
      >>> model = models.normal_outputs(models.mlp([40, 40, 1]), scale=0.3)
      >>> learner = learners.abml(
      ...     model, losses.negative_log_likelihood, optax.sgd(1e-3), num_steps=5, num_samples=10)
      >>> task = jmeta.tasks.sinusoid(num_shots=5, num_queries=10)(jax.random.key(0))
      >>> meta_params = learner.init(jax.random.key(1), task)
      >>> adapted = jax.jit(learner.adapt)(meta_params, task.support, jax.random.key(2))
      >>> jax.jit(learner.predict)(meta_params, adapted, task.query.x, None).variance().shape
      (10, 1)

    Reference:
      Ravi, Beatson, "Amortized Bayesian Meta-Learning", ICLR 2019, algorithm 1.
    """
    _check_samples(num_samples=num_samples, num_inner_samples=num_inner_samples)
    _check_numbers(initial_scale, hyperprior_weight, precision_prior)
    inner_optimizer = adjoints.checked_optimizer(inner_optimizer, "an inner optimizer")
    bound = negative_elbo(model, loss_fn, num_samples=num_inner_samples, kl_weight=kl_weight)

    def objective(posterior: NormalParams, context: _Context, step: Any, key: RandomKey) -> tuple[Any, Aux]:
        del step
        return bound(posterior, context.prior, context.rest, context.support, key)

    inner_loop = descend(objective, inner_optimizer, num_steps=num_steps, adjoint=adjoint)

    def init(key: RandomKey, task: Task) -> PyTree:
        params = model.init(key, task.support.x)
        adapted, _ = partition(params, but_statistics(is_adapted))
        return {"params": params, "log_scale": logs_like(adapted, initial_scale)}

    def prior_of(meta_params: PyTree) -> tuple[NormalParams, PyTree]:
        mean, rest = partition(meta_params["params"], but_statistics(is_adapted))
        return NormalParams(mean, meta_params["log_scale"]), rest

    def adapt(meta_params: PyTree, support: Batch, key: RandomKey) -> _Adapted:
        key_descend, key_particles = jax.random.split(key)
        prior, rest = prior_of(meta_params)
        posterior, _ = inner_loop(prior, _Context(prior, rest, support), key_descend)

        def particle(key: RandomKey) -> PyTree:
            key_sample, key_statistics = jax.random.split(key)
            params = merge(sample(posterior, key_sample), rest)
            return with_support_statistics(model, params, support, key_statistics)

        return _Adapted(posterior, jax.vmap(particle)(jax.random.split(key_particles, num_samples)))

    def predict(meta_params: PyTree, adapted: _Adapted, x: PyTree, key: RandomKey | None) -> PyTree:
        del meta_params
        return predict_with_particles(model, adapted.particles, x, key)

    def episode(outer_loss: LossFn) -> EpisodeFn:
        def episode_fn(meta_params: PyTree, task: Task, key: RandomKey) -> tuple[Any, Aux]:
            key_adapt, key_predict = jax.random.split(key)
            posterior, particles = adapt(meta_params, task.support, key_adapt)
            keys = jax.random.split(key_predict, num_samples)
            errors, aux = jax.vmap(lambda params, key: _total_loss(model, outer_loss, params, task, key))(
                particles, keys
            )
            prior, _ = prior_of(meta_params)
            kl = kl_divergence(posterior, prior)
            loss = errors.mean() + kl_weight * kl
            if hyperprior_weight:
                loss = loss - hyperprior_weight * _log_hyperprior(prior, *precision_prior)
            num_examples = num_real(task.support, loss.dtype) + num_real(task.query, loss.dtype)
            return loss / jnp.maximum(num_examples, 1), {**jax.tree.map(lambda leaf: leaf.mean(0), aux), "kl": kl}

        return episode_fn

    return Learner(init, adapt, predict, episode)


def negative_elbo(
    model: Model, loss_fn: LossFn, *, num_samples: int, kl_weight: float = 1.0
) -> Callable[[NormalParams, NormalParams, PyTree, Batch, RandomKey], tuple[Any, Aux]]:
    """Build the negative evidence lower bound of a batch, divided by its number N of examples.

    It is −E_q[log p(batch | φ)] / N + KL(q ‖ p) / N, with the first term estimated by draws of φ from q. At the exact
    posterior q it is −log p(batch) / N, and larger at any other.

    Args:
      model, loss_fn: as in `abml`.
      num_samples: draws, at least 1.
      kl_weight: weight of the divergence, at least 0; 1 for the bound itself.

    Returns:
      `(q, p, rest, batch, key) -> (loss, aux)`: `q` and `p` are `uncertain_params.NormalParams` over the adapted
      parameters, and `rest` has the other ones (see `params.partition`); `aux` has the `kl`.

    Raises:
      ValueError: if a number is out of its range.

    Example:
      >>> import jax, jax.numpy as jnp, jmeta
      >>> from jmeta import learners, losses, models
      >>> from jmeta.uncertain_params import NormalParams, logs_like
      >>> model = models.normal_outputs(models.mlp([1]), scale=1.0)
      >>> batch = jmeta.Batch(jnp.zeros((2, 1)), jnp.zeros((2, 1)))
      >>> params = model.init(jax.random.key(0), batch.x)
      >>> prior, rest = NormalParams(params, logs_like(params, 1e-6)), jax.tree.map(lambda _: None, params)
      >>> bound = learners.negative_elbo(model, losses.negative_log_likelihood, num_samples=3)
      >>> loss, aux = bound(prior, prior, rest, batch, jax.random.key(1))
      >>> round(float(loss), 4), float(aux["kl"])
      (0.9189, 0.0)
    """
    _check_samples(num_samples=num_samples)
    if not is_real(kl_weight, least=0):
        raise ValueError(f"kl_weight={kl_weight}; expected a number of at least 0")
    loss_on_batch = support_loss(model, likelihood(loss_fn))

    def bound(
        q: NormalParams, p: NormalParams, rest: PyTree, batch: Batch, key: RandomKey
    ) -> tuple[Float[Array, ""], Aux]:
        def loss_of_draw(key: RandomKey) -> Any:
            key_sample, key_model = jax.random.split(key)
            params = merge(sample(q, key_sample), rest)
            return checked_loss(loss_on_batch(params, batch, key_model), "what loss_fn returns")[0]

        losses, kl = jax.vmap(loss_of_draw)(jax.random.split(key, num_samples)), kl_divergence(q, p)
        return losses.mean() + kl_weight * kl / jnp.maximum(num_real(batch, kl.dtype), 1), {"kl": kl}

    return bound


def _total_loss(model: Model, loss_fn: LossFn, params: PyTree, task: Task, key: RandomKey) -> tuple[Any, Aux]:
    """The loss of one network on the support and the query, summed over examples, and the `aux` of the query."""
    key_support, key_query = jax.random.split(key)
    outputs, _ = apply_to_support(model, params, task.support, key_support)
    on_support, _ = checked_loss(loss_fn(outputs, task.support), "what loss_fn returns")
    outputs = model.apply(params, task.query.x, key_query)
    on_query, aux = checked_loss(loss_fn(outputs, task.query), "what loss_fn returns")
    num_shots, num_queries = (num_real(batch, on_query.dtype) for batch in (task.support, task.query))
    return num_shots * on_support + num_queries * on_query, aux


def _log_hyperprior(prior: NormalParams, shape: float, rate: float) -> Float[Array, ""]:
    """The log density of N(0, 1) at the means and of Gamma(shape, rate) at the precisions, summed."""
    of_means = lambda mean: (-0.5 * jnp.square(mean) - 0.5 * math.log(2 * math.pi)).sum()  # noqa: E731

    def of_precisions(log_scale: Array) -> Array:
        log_precision = -2 * log_scale
        constant = shape * math.log(rate) - math.lgamma(shape)
        return (constant + (shape - 1) * log_precision - rate * jnp.exp(log_precision)).sum()

    terms = jax.tree.map(of_means, prior.mean), jax.tree.map(of_precisions, prior.log_scale)
    return jnp.asarray(optax.tree.sum(terms))


def _check_samples(**numbers: int) -> None:
    for name, number in numbers.items():
        if not is_whole(number):
            raise ValueError(f"{name}={number}; expected at least one network")


def _check_numbers(initial_scale: float, hyperprior_weight: float, precision_prior: tuple[float, float]) -> None:
    if not is_real(initial_scale, above=0):
        raise ValueError(f"initial_scale={initial_scale}; expected a positive standard deviation")
    if not is_real(hyperprior_weight, least=0):
        raise ValueError(f"hyperprior_weight={hyperprior_weight}; expected a number of at least 0")
    if len(precision_prior) != 2 or not all(is_real(number, above=0) for number in precision_prior):
        raise ValueError(f"precision_prior={precision_prior}; expected a positive shape and a positive rate")
