"""Bayesian MAML: particles of the initialisation that Stein variational gradient descent moves to a task's posterior.

Meta-parameters are M particles θ₁ ... θ_M of a network. A task is learned by SVGD, which moves all particles together
so that they become samples of the posterior p(θ | support) ∝ p(support | θ) p(θ),
θᵢ ← θᵢ + ε/M Σⱼ [k(θⱼ, θᵢ) ∇ log p(θⱼ | support) + ∇_θⱼ k(θⱼ, θᵢ)]. The first term attracts particles to probable
parameters, and the second keeps them apart. Predictions average those of the particles. Meta-training makes the
particles after n steps on the support (the chaser) come close to what s further steps on support and query make of them
(the leader).

Reference: Kim, Yoon, Dia, Kim, Bengio, Ahn, "Bayesian Model-Agnostic Meta-Learning", 2018, arXiv:1806.03836,
algorithm 2-3; Liu and Wang, "Stein Variational Gradient Descent", 2016, arXiv:1608.04471, algorithm 1.
Differs from the paper: the noise of a regression is the model's, and the prior's precision is given, where the paper
infers both. A step is the paper's divided by the number of examples, so that learning rates mean what they mean in
MAML; the posterior that steps converge to is the same. Bandwidths divide by log(M + 1), which one particle allows.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from .. import adjoints
from ..adaptation import descend
from ..adjoints import Adjoint, InnerLoop
from ..bounds import is_real, is_whole
from ..losses import checked_loss, num_real, real_examples
from ..models import but_statistics
from ..params import merge, partition
from ..support import support_loss, with_support_statistics
from ..types import Aux, Batch, EpisodeFn, Learner, LossFn, Model, PyTree, RandomKey, Task
from ..uncertain_params import likelihood, predict_with_particles

__all__ = ["bayesian_maml", "svgd"]

_SMALLEST_BANDWIDTH = 1e-6  # bounds the repulsion of particles that nearly coincide


class _Context(NamedTuple):
    rest: PyTree  # of every particle, the parameters that inner steps leave unchanged
    batch: Batch


def bayesian_maml(
    model: Model,
    loss_fn: LossFn,
    inner_optimizer: optax.GradientTransformation,
    *,
    num_steps: int,
    num_particles: int,
    num_leader_steps: int | None = None,
    prior_precision: float = 0.0,
    adjoint: Adjoint = adjoints.unrolled(),
    is_adapted: Callable[[str], bool] = lambda _: True,
) -> Learner:
    """Learn particles of the initialisation; adapt by SVGD on the posterior; predict by the particles' mixture.

    With one particle, a flat prior and the query loss it is MAML.

    Args:
      model: outputs a distribution of numbers (`models.normal_outputs`), or logits of classes.
      loss_fn: the negative log likelihood, averaged over examples: `losses.negative_log_likelihood` or
        `losses.cross_entropy`.
      inner_optimizer: as in `maml`; it is given the negative SVGD direction divided by the number of examples, of all
        particles at once: a norm that it takes is that of them together.
      num_steps: n, inner steps on the support, at least 0.
      num_particles: M, at least 1. Particles that coincide stay together: SVGD cannot tell them apart.
      num_leader_steps: s, at least 1, further steps on support and query to the leader of the chaser loss; `None` to
        train on the query loss of the mixture instead.
      prior_precision: of a normal prior around 0 of the adapted parameters, at least 0; 0 is a flat prior.
      adjoint: how the inner loop is differentiated. `adjoints.implicit` does not apply: particles come to rest where
        SVGD directions vanish, which is no minimum of a loss.
      is_adapted: as in `maml`; distances between particles are those of the adapted parameters.

    Returns:
      A learner whose meta-parameters and whose adapted state are both parameters of `model`, stacked along a first
      axis of particles. With a leader its training episode's loss is the chaser loss, Σₘ ‖θₘ − θₘ*‖² over chaser
      particles θₘ and leader particles θₘ*, which are held constant; `aux` is that of the loss on the query, which has
      no part in the gradient.

    Raises:
      ValueError: if a number is out of range; at trace time if no parameter is adapted, or the model predicts
        neither a distribution nor logits of integer labels.

    Example:
      >>> import jax, jmeta, optax
      >>> from jmeta import learners, losses, models
      >>> model = models.normal_outputs(models.mlp([16, 1]), scale=0.3)
      >>> learner = learners.bayesian_maml(
      ...     model, losses.negative_log_likelihood, optax.sgd(0.01), num_steps=1, num_particles=5, num_leader_steps=1)
      >>> task = jmeta.tasks.sinusoid(num_shots=10, num_queries=10)(jax.random.key(0))
      >>> meta_params = learner.init(jax.random.key(1), task)
      >>> adapted = jax.jit(learner.adapt)(meta_params, task.support, jax.random.key(2))
      >>> jax.jit(learner.predict)(meta_params, adapted, task.query.x, None).variance().shape
      (10, 1)

    Reference:
      Kim et al., 2018, arXiv:1806.03836, algorithm 2-3.
    """
    _check_numbers(num_particles, num_leader_steps, prior_precision)
    inner_optimizer = adjoints.checked_optimizer(inner_optimizer, "an inner optimizer")
    objective = _negative_log_posteriors(model, loss_fn, prior_precision)

    def inner_loop(num_steps: int) -> InnerLoop:
        make_optimizer = lambda context: optax.chain(svgd(temperature=1 / _num_real(context.batch)), inner_optimizer)  # noqa: E731
        return descend(objective, make_optimizer, num_steps=num_steps, adjoint=adjoint)

    chase = inner_loop(num_steps)

    def init(key: RandomKey, task: Task) -> PyTree:
        return jax.vmap(lambda key: model.init(key, task.support.x))(jax.random.split(key, num_particles))

    def adapt(meta_params: PyTree, support: Batch, key: RandomKey) -> PyTree:
        key_descend, key_statistics = jax.random.split(key)
        start, rest = partition(meta_params, but_statistics(is_adapted))
        particles, _ = chase(start, _Context(rest, support), key_descend)
        keys = jax.random.split(key_statistics, num_particles)
        calibrated = lambda params, key: with_support_statistics(model, params, support, key)  # noqa: E731
        return jax.vmap(calibrated)(merge(particles, rest), keys)

    def predict(meta_params: PyTree, adapted: PyTree, x: PyTree, key: RandomKey | None) -> PyTree:
        del meta_params
        return predict_with_particles(model, adapted, x, key)

    if num_leader_steps is None:
        return Learner(init, adapt, predict)
    lead = inner_loop(num_leader_steps)

    def episode(outer_loss: LossFn) -> EpisodeFn:
        def episode_fn(meta_params: PyTree, task: Task, key: RandomKey) -> tuple[Array, Aux]:
            key_adapt, key_lead, key_predict = jax.random.split(key, 3)
            adapted = adapt(meta_params, task.support, key_adapt)
            chaser, rest = partition(adapted, but_statistics(is_adapted))
            leader, _ = lead(*jax.lax.stop_gradient((chaser, _Context(rest, _joined(*task[:2])))), key_lead)
            distance = optax.tree.norm(jax.tree.map(jnp.subtract, chaser, leader), squared=True)
            outputs = predict(meta_params, adapted, task.query.x, key_predict)
            _, aux = checked_loss(outer_loss(outputs, task.query), "what loss_fn returns")
            return distance, jax.lax.stop_gradient(aux)

        return episode_fn

    return Learner(init, adapt, predict, episode)


def svgd(*, temperature: float | Array = 1.0) -> optax.GradientTransformation:
    """Turn gradients of particles into negative directions of Stein variational gradient descent.

    It is the first of a chain, `optax.chain(svgd(), optax.sgd(0.1))`, which moves particles θᵢ towards samples of a
    density p. From gradients gⱼ = −T ∇ log p(θⱼ), with T the temperature, it makes
    1/M Σⱼ k(θⱼ, θᵢ) [gⱼ − T · 2/h (θᵢ − θⱼ)], with k(θ, θ') = exp(−‖θ − θ'‖² / h). The bandwidth h is the median of
    the squared distances between different particles, divided by log(M + 1), and at least 10⁻⁶; it is held constant in
    derivatives.

    Args:
      temperature: T, positive: what −log p was multiplied by before it was differentiated. The direction is multiplied
        by it as a whole, so that it scales the steps and not the density.

    Returns:
      A transformation of trees whose leaves have the particles on their first axis. Its `update` needs the parameters.

    Raises:
      ValueError: if `temperature` is a number that is not positive.

    Example:
      >>> import jax.numpy as jnp, optax
      >>> move = optax.chain(svgd(), optax.sgd(0.5))
      >>> particles = jnp.array([-0.1, 0.1])  # too close to each other to be samples of a normal distribution
      >>> updates, _ = move.update(particles, move.init(particles), particles)  # -∇ log p is the particle itself
      >>> bool((jnp.abs(optax.apply_updates(particles, updates)) > 0.5).all())
      True

    Reference:
      Liu and Wang, "Stein Variational Gradient Descent: A General Purpose Bayesian Inference Algorithm", 2016,
      arXiv:1608.04471, algorithm 1, eq. 8.
    """
    if not is_real(temperature, above=0):
        raise ValueError(f"temperature={temperature}; expected a positive number")

    def directions(grads: PyTree, particles: PyTree) -> PyTree:
        num_particles = jax.tree.leaves(particles)[0].shape[0]
        as_rows = lambda leaf: leaf.reshape(num_particles, -1)  # noqa: E731
        between = jax.tree.map(lambda leaf: as_rows(leaf)[:, None] - as_rows(leaf)[None], particles)
        squared = jax.tree.reduce(jnp.add, jax.tree.map(lambda leaf: jnp.square(leaf).sum(-1), between))
        bandwidth = _bandwidth(jax.lax.stop_gradient(squared))
        kernel, scale = jnp.exp(-squared / bandwidth), jnp.asarray(temperature, squared.dtype)

        def direction(grad: Array, away: Array) -> Array:
            repulsion = (2 * scale / bandwidth).astype(away.dtype) * away
            pulls = kernel[..., None].astype(grad.dtype) * (as_rows(grad)[None] - repulsion)
            return (pulls.sum(1) / num_particles).reshape(grad.shape)

        return jax.tree.map(direction, grads, between)

    return optax.stateless(directions)


def _check_numbers(num_particles: int, num_leader_steps: int | None, prior_precision: float) -> None:
    if not is_whole(num_particles):
        raise ValueError(f"num_particles={num_particles}; expected at least one particle")
    if num_leader_steps is not None and not is_whole(num_leader_steps):
        raise ValueError(
            f"num_leader_steps={num_leader_steps}; expected at least 1, or the leader is the chaser itself and nothing "
            "is learned; pass None to train on the query loss"
        )
    if not is_real(prior_precision, least=0):
        raise ValueError(f"prior_precision={prior_precision}; expected at least 0, where 0 is a flat prior")


def _bandwidth(squared: Float[Array, "particles particles"]) -> Float[Array, ""]:
    """The median of squared distances over log(M + 1)."""
    num_particles = squared.shape[0]
    if num_particles == 1:
        return jnp.ones((), squared.dtype)  # a kernel of one particle with itself is 1, whatever its width
    pairs = squared[jnp.triu_indices(num_particles, 1)]
    return jnp.maximum(jnp.median(pairs) / jnp.log(num_particles + 1.0).astype(squared.dtype), _SMALLEST_BANDWIDTH)


def _negative_log_posteriors(model: Model, loss_fn: LossFn, prior_precision: float) -> adjoints.Objective:
    """Build the sum over particles of −log p(θ | batch) / examples: each particle's gradient is its own."""

    loss_on_batch = support_loss(model, likelihood(loss_fn))

    def objective(particles: PyTree, context: _Context, step: Any, key: RandomKey) -> tuple[Any, Aux]:
        del step
        rest, batch = context

        def of_particle(params: PyTree, rest: PyTree, key: RandomKey) -> Array:
            loss, _ = loss_on_batch(merge(params, rest), batch, key)
            penalty = 0.5 * prior_precision * optax.tree.norm(params, squared=True)
            return loss + penalty / _num_real(batch).astype(penalty.dtype)

        keys = jax.random.split(key, jax.tree.leaves(particles)[0].shape[0])
        return jax.vmap(of_particle)(particles, rest, keys).sum(), {}

    return objective


def _num_real(batch: Batch) -> Float[Array, ""]:
    """The number of real examples; 1 if there are none."""
    return jnp.maximum(num_real(batch, float), 1)


def _joined(first: Batch, second: Batch) -> Batch:
    """The examples of both batches."""
    x, y = jax.tree.map(lambda a, b: jnp.concatenate([a, b]), (first.x, first.y), (second.x, second.y))
    if first.mask is None and second.mask is None:
        return Batch(x, y)
    return Batch(x, y, jnp.concatenate([real_examples(first), real_examples(second)]))
