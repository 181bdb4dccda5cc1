"""PLATIPUS: MAML whose initialisation is drawn anew for every task, from a learned distribution.

A few examples do not determine a task, so several networks that explain them are sampled: θ is drawn, and from there
gradient steps on the support give φ. The distribution of θ given the support is p = N(μ − γₚ ⊙ ∇L(μ; support), σ²).
Meta-training draws θ from an inference network that sees the query instead, q = N(μ − γ_q ⊙ ∇L(μ; query), v), and
descends the variational bound L(φ; query) + KL(q ‖ p).

Reference: Finn, Xu, Levine, "Probabilistic Model-Agnostic Meta-Learning", 2018, arXiv:1806.02817, algorithm 1-2. As
there, σ, v, γₚ and γ_q have one entry for every parameter. Differs from the paper: σ, v, γₚ and γ_q are learned as
logarithms, so the rates cannot become negative; q sees the query alone, as in algorithm 1, while the text adds the
gradient on the support; losses are averages over examples, so the divergence is divided by the number of queries.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from .. import adjoints
from ..adaptation import descend
from ..adjoints import Adjoint
from ..bounds import is_real, is_whole
from ..losses import checked_loss, num_real
from ..models import but_statistics
from ..optimizers import learned_rates
from ..params import merge, partition
from ..support import support_loss, with_support_statistics
from ..types import Aux, Batch, EpisodeFn, Learner, LossFn, Model, PyTree, RandomKey, Task
from ..uncertain_params import NormalParams, kl_divergence, likelihood, logs_like, predict_with_particles, sample

__all__ = ["platipus"]


class _Context(NamedTuple):
    rest: PyTree  # parameters that inner steps leave unchanged
    batch: Batch
    rates: PyTree = None


def platipus(
    model: Model,
    loss_fn: LossFn,
    inner_optimizer: optax.GradientTransformation,
    *,
    num_steps: int,
    num_samples: int,
    initial_scale: float = 0.02,
    initial_lr: float = 1e-3,
    kl_weight: float = 1.0,
    adjoint: Adjoint = adjoints.unrolled(),
    is_adapted: Callable[[str], bool] = lambda _: True,
) -> Learner:
    """Learn a distribution of initialisations; adapt by gradient steps from several draws.

    Args:
      model: predicts distributions of numbers (`models.normal_outputs`) or logits of classes.
      loss_fn: negative log likelihood of a batch, averaged over examples, such as `losses.negative_log_likelihood` or
        `losses.cross_entropy`. It is descended by inner steps, and gives both gradients that move μ.
      inner_optimizer, num_steps: as in `maml`.
      num_samples: networks that predict together, at least 1. Training draws one, whatever this number is, so a
        learner with more of them may use the same meta-parameters.
      initial_scale: σ and the root of v, which every parameter starts with; positive.
      initial_lr: γₚ and γ_q, which every parameter starts with; positive.
      kl_weight: weight of the divergence; 1 for the bound itself. With 0, p is not trained at all.
      adjoint: how inner steps, and the steps of μ, are differentiated; not `adjoints.implicit`, since one step reaches
        no minimum.
      is_adapted: as in `maml`. Parameters that are not adapted have no distribution: they are shared and certain.

    Returns:
      A learner with meta-parameters `{"params": ..., "prior": ..., "inference": ...}`: μ and, of p and of q, a
      `"log_scale"` and a `"log_lr"`, trees like the adapted parameters. Its adapted state is `num_samples` networks,
      stacked; their predictions are averaged by `distributions.mix`. The training episode's `aux` has the `kl`.

    Raises:
      ValueError: if a number is out of its range; at trace time if no parameter is adapted.

    Example:
      >>> import jax, jmeta, optax
      >>> from jmeta import learners, losses, models
      >>> model = models.normal_outputs(models.mlp([40, 40, 1]), scale=0.3)
      >>> learner = learners.platipus(
      ...     model, losses.negative_log_likelihood, optax.sgd(1e-3), num_steps=5, num_samples=10)
      >>> task = jmeta.tasks.sinusoid(num_shots=5, num_queries=10)(jax.random.key(0))
      >>> meta_params = learner.init(jax.random.key(1), task)
      >>> adapted = jax.jit(learner.adapt)(meta_params, task.support, jax.random.key(2))
      >>> jax.jit(learner.predict)(meta_params, adapted, task.query.x, None).variance().shape
      (10, 1)

    Reference:
      Finn, Xu, Levine, "Probabilistic Model-Agnostic Meta-Learning", 2018, arXiv:1806.02817, algorithm 1-2.
    """
    _check(num_samples, initial_scale, initial_lr, kl_weight)
    inner_optimizer = adjoints.checked_optimizer(inner_optimizer, "an inner optimizer")
    objective = _objective(model, loss_fn)
    inner_loop = descend(objective, inner_optimizer, num_steps=num_steps, adjoint=adjoint)
    one_step = descend(objective, lambda context: learned_rates(context.rates), num_steps=1, adjoint=adjoint)

    def init(key: RandomKey, task: Task) -> PyTree:
        params = model.init(key, task.support.x)
        adapted, _ = partition(params, but_statistics(is_adapted))
        belief = lambda: {"log_scale": logs_like(adapted, initial_scale), "log_lr": logs_like(adapted, initial_lr)}  # noqa: E731
        return {"params": params, "prior": belief(), "inference": belief()}

    def distribution(meta_params: PyTree, of: str, batch: Batch, key: RandomKey) -> tuple[NormalParams, PyTree]:
        mean, rest = partition(meta_params["params"], but_statistics(is_adapted))
        rates = jax.tree.map(jnp.exp, meta_params[of]["log_lr"])
        mean, _ = one_step(mean, _Context(rest, batch, rates), key)
        return NormalParams(mean, meta_params[of]["log_scale"]), rest

    def particle(normal: NormalParams, rest: PyTree, support: Batch, key: RandomKey) -> PyTree:
        key_sample, key_descend, key_statistics = jax.random.split(key, 3)
        params, _ = inner_loop(sample(normal, key_sample), _Context(rest, support), key_descend)
        return with_support_statistics(model, merge(params, rest), support, key_statistics)

    def adapt(meta_params: PyTree, support: Batch, key: RandomKey) -> PyTree:
        key_prior, key_particles = jax.random.split(key)
        prior, rest = distribution(meta_params, "prior", support, key_prior)
        keys = jax.random.split(key_particles, num_samples)
        return jax.vmap(lambda key: particle(prior, rest, support, key))(keys)

    def predict(meta_params: PyTree, adapted: PyTree, x: PyTree, key: RandomKey | None) -> PyTree:
        del meta_params
        return predict_with_particles(model, adapted, x, key)

    def episode(outer_loss: LossFn) -> EpisodeFn:
        def episode_fn(meta_params: PyTree, task: Task, key: RandomKey) -> tuple[Any, Aux]:
            key_prior, key_inference, key_particle, key_predict = jax.random.split(key, 4)
            prior, rest = distribution(meta_params, "prior", task.support, key_prior)
            inference, _ = distribution(meta_params, "inference", task.query, key_inference)
            params = particle(inference, rest, task.support, key_particle)
            outputs = model.apply(params, task.query.x, key_predict)
            loss, aux = checked_loss(outer_loss(outputs, task.query), "what loss_fn returns")
            kl = kl_divergence(inference, prior)
            num_queries = jnp.maximum(num_real(task.query, kl.dtype), 1)
            return loss + kl_weight * kl / num_queries, {**aux, "kl": kl}

        return episode_fn

    return Learner(init, adapt, predict, episode)


def _objective(model: Model, loss_fn: LossFn) -> adjoints.Objective:
    loss_on_batch = support_loss(model, likelihood(loss_fn))

    def objective(params: PyTree, context: _Context, step: Any, key: RandomKey) -> tuple[Any, Aux]:
        del step
        return loss_on_batch(merge(params, context.rest), context.batch, key)

    return objective


def _check(num_samples: int, initial_scale: float, initial_lr: float, kl_weight: float) -> None:
    if not is_whole(num_samples):
        raise ValueError(f"num_samples={num_samples}; expected at least one network to predict with")
    if not (is_real(initial_scale, above=0) and is_real(initial_lr, above=0)):
        raise ValueError(
            f"initial_scale={initial_scale} and initial_lr={initial_lr}; expected positive numbers, whose logarithms "
            "are learned"
        )
    if not is_real(kl_weight, least=0):
        raise ValueError(f"kl_weight={kl_weight}; expected a number of at least 0")
