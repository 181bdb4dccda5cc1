"""MAML++: MAML with the changes that make it train reliably.

Three of them are here, each a function of its own that other learners can use. Each parameter array has its own learned
rate for each inner step (`per_step_rates`); each inner step has its own scales and biases of the norm layers, learned
but not adapted (`per_step_norms`); and early in training the query loss is taken after *every* inner step,
Σₜ wₜ L(φₜ; query), while the weights move from uniform to the last step alone (`multi_step_loss`).

Reference: Antoniou, Edwards, Storkey, "How to train your MAML", 2019, arXiv:1810.09502, section 4. Differs from the
paper: the model's policy chooses the statistics of norm layers, never running averages; no switch from first to second
order in mid-training; the weights change with every meta-step, in the authors' code once per epoch.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from .. import adjoints
from ..adaptation import descend
from ..adjoints import Adjoint
from ..bounds import is_real, is_whole
from ..losses import checked_loss
from ..models import is_norm, is_statistic
from ..params import merge, partition
from ..support import support_loss, with_support_statistics
from ..types import Aux, Batch, EpisodeFn, Learner, LossFn, Model, PyTree, RandomKey, Task

__all__ = [
    "InnerSteps",
    "maml_plus_plus",
    "per_step_rates",
    "per_step_norms",
    "at_step",
    "multi_step_loss",
    "multi_step_weights",
]


class InnerSteps(NamedTuple):
    """An inner loop divided into steps, so that a loss may use every step of it.

    Attributes:
      start: `meta_params -> state`, before the first step; any pytree of arrays.
      step: `(meta_params, state, support, index, key) -> state`; `index` is an integer scalar that counts from 0.
      finish: `(meta_params, state, support, index, key) -> adapted`, the learner's adapted state if the step `index`
        was the last one.
    """

    start: Callable[[PyTree], PyTree]
    step: Callable[[PyTree, PyTree, Batch, Int[Array, ""], RandomKey], PyTree]
    finish: Callable[[PyTree, PyTree, Batch, Int[Array, ""], RandomKey], PyTree]


class _Context(NamedTuple):
    rates: PyTree  # rates of all steps
    first_step: Int[Array, ""]
    rest: PyTree  # parameters that this step leaves unchanged
    support: Batch


def maml_plus_plus(
    model: Model,
    loss_fn: LossFn,
    *,
    num_steps: int,
    initial_lr: float,
    annealed_until: float = 0.1,
    adjoint: Adjoint = adjoints.unrolled(),
    is_adapted: Callable[[str], bool] = lambda _: True,
) -> Learner:
    """Learn an initialisation, a rate for each parameter array and step, and norm parameters for each step.

    With more inner steps than in training, the rates and norms of the last trained step are used for the rest. Its
    training episode is `multi_step_loss`.

    Args:
      model, loss_fn, num_steps, adjoint: as in `maml`.
      initial_lr: inner learning rate that every parameter array and step starts with.
      annealed_until: fraction of training after which only the last step counts, above 0.
      is_adapted: as in `maml`; scales and biases of norm layers are never adapted.

    Returns:
      A learner with meta-parameters `{"params", "norms", "lr"}`; the leaves of the last two have the steps on their
      first axis, and `lr` has `None` for a parameter that is not adapted. Its adapted state is parameters of `model`.
      The `aux` of its training episode is that of the last step.

    Raises:
      ValueError: if `num_steps` is negative, or `initial_lr` or `annealed_until` is not positive; from its `episode`,
        if `num_steps` is 0, and at trace time if tasks have no `progress`; at trace time if no parameter is adapted.

    Example:
      >>> import jax, jmeta, jax.numpy as jnp
      >>> from jmeta import learners, losses, models
      >>> learner = learners.maml_plus_plus(models.mlp([16, 5]), losses.cross_entropy, num_steps=3, initial_lr=0.1)
      >>> episode_fn = jmeta.episode(learner, losses.cross_entropy)
      >>> task = jmeta.tasks.gaussian_blobs(num_ways=5, num_shots=1, num_queries=3)(jax.random.key(0))
      >>> task = task._replace(progress=jnp.zeros(()))  # in training, `sampled_steps` sets it
      >>> loss, aux = episode_fn(learner.init(jax.random.key(1), task), task, jax.random.key(2))

    Reference:
      Antoniou, Edwards, Storkey, "How to train your MAML", 2019, arXiv:1810.09502, section 4.
    """
    if not is_whole(num_steps, least=0):
        raise ValueError(f"num_steps={num_steps}; expected an integer of at least 0 (0 leaves the model unchanged)")
    if not is_real(initial_lr, above=0):
        raise ValueError(f"initial_lr={initial_lr}; expected a positive rate, such as 0.1")
    _check_annealed_until(annealed_until)
    steps = _inner_steps(model, loss_fn, adjoint, is_adapted)

    def init(key: RandomKey, task: Task) -> PyTree:
        params, norms = per_step_norms(model.init(key, task.support.x), num_steps=num_steps)
        adapted, _ = partition(params, is_adapted)
        rates = jax.tree.map(lambda leaf: jnp.full(max(num_steps, 1), initial_lr, leaf.dtype), adapted)
        return {"params": params, "norms": norms, "lr": rates}

    def adapt(meta_params: PyTree, support: Batch, key: RandomKey) -> PyTree:
        key_steps, key_statistics = jax.random.split(key)

        def step(params: PyTree, index_and_key: tuple[Any, RandomKey]) -> tuple[PyTree, None]:
            return steps.step(meta_params, params, support, *index_and_key), None

        params, _ = jax.lax.scan(step, steps.start(meta_params), _indices_and_keys(num_steps, key_steps))
        return steps.finish(meta_params, params, support, jnp.array(max(num_steps - 1, 0)), key_statistics)

    def predict(meta_params: PyTree, adapted: PyTree, x: PyTree, key: RandomKey | None) -> PyTree:
        del meta_params
        return model.apply(adapted, x, key)

    episode = multi_step_loss(steps, predict, num_steps=num_steps, annealed_until=annealed_until)
    return Learner(init, adapt, predict, episode)


def per_step_rates(rates: PyTree, *, first_step: Int[Array, ""] | int = 0) -> optax.GradientTransformation:
    """Build gradient descent with a learning rate for each step and leaf of the parameters: ∆ₜ = −rateₜ gradient.

    Pass it to `descend` as `lambda context: per_step_rates(context.rates)`, and the rates receive a meta-gradient. The
    last rate is used for all later steps.

    Args:
      rates: a tree like the parameters; each leaf has the steps on its first axis, `[steps]` or `[steps, *shape]`.
      first_step: number of the first step, counted from 0.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from jmeta import adaptation
      >>> objective = lambda params, context, step, key: (params["w"], {})  # of slope 1
      >>> loop = adaptation.descend(objective, lambda rates: per_step_rates(rates), num_steps=3)
      >>> params, _ = loop({"w": jnp.array(0.0)}, {"w": jnp.array([1.0, 0.5])}, jax.random.key(0))
      >>> float(params["w"])  # −(1 + 0.5 + 0.5)
      -2.0

    Reference:
      Antoniou, Edwards, Storkey, "How to train your MAML", 2019, arXiv:1810.09502, section 4, "learning per-layer
      per-step learning rates".
    """

    def init(params: PyTree) -> Int[Array, ""]:
        del params
        return jnp.asarray(first_step, jnp.int32)

    def update(grads: PyTree, step: Int[Array, ""], params: PyTree = None) -> tuple[PyTree, Int[Array, ""]]:
        del params
        return jax.tree.map(lambda rate, grad: -rate * grad, at_step(rates, step), grads), step + 1

    return optax.GradientTransformation(init, update)  # pyright: ignore[reportArgumentType]


def per_step_norms(params: PyTree, *, num_steps: int) -> tuple[PyTree, PyTree]:
    """Split a model's parameters into shared ones and those of norm layers, with one copy of the latter per inner step.

    The copies are meta-learned, and no inner step changes them. The model of step t is
    `merge(shared, at_step(norms, t))`.

    Args:
      params: parameters of a model whose norm layers `models.is_norm` recognises by their names; stored statistics go
        with them.
      num_steps: number of copies, at least one.

    Returns:
      `(shared, norms)`: two trees like `params`, each with `None` where the other one has the leaf. The leaves of
      `norms` have the steps on their first axis.

    Raises:
      ValueError: if no parameter would be left to share.

    Example:
      >>> import jax.numpy as jnp
      >>> shared, norms = per_step_norms({"conv": jnp.ones(3), "norm_0": jnp.ones(3)}, num_steps=5)
      >>> shared["norm_0"], norms["norm_0"].shape
      (None, (5, 3))

    Reference:
      Antoniou, Edwards, Storkey, "How to train your MAML", 2019, arXiv:1810.09502, section 4, "per-step batch
      normalization weights and biases".
    """
    shared, norms = partition(params, lambda path: not (is_norm(path) or is_statistic(path)))
    return shared, jax.tree.map(lambda leaf: jnp.repeat(leaf[None], max(num_steps, 1), 0), norms)


def _check_annealed_until(annealed_until: float) -> None:
    if not is_real(annealed_until, above=0):
        raise ValueError(f"annealed_until={annealed_until}; expected a positive share of training, such as 0.1")


def _check_has_steps(num_steps: int) -> None:
    if not is_whole(num_steps):
        raise ValueError(f"num_steps={num_steps}; the multi-step loss needs at least one inner step")


def at_step(stacked: PyTree, step: Int[Array, ""] | int) -> PyTree:
    """Take the rows of one step from a tree whose leaves have the steps on their first axis; the last row repeats.

    Example:
      >>> import jax.numpy as jnp
      >>> float(at_step({"lr": jnp.array([0.1, 0.5])}, 7)["lr"])
      0.5
    """
    return jax.tree.map(lambda leaf: leaf[jnp.minimum(step, leaf.shape[0] - 1)], stacked)


def multi_step_loss(
    steps: InnerSteps,
    predict: Callable[[PyTree, PyTree, PyTree, RandomKey | None], PyTree],
    *,
    num_steps: int,
    annealed_until: float = 0.1,
) -> Callable[[LossFn], EpisodeFn]:
    """Build a learner's training episode, which weights the query loss after every inner step, Σₜ wₜ L(φₜ; query).

    The weights are those of `multi_step_weights` at `task.progress`, which `training.sampled_steps` sets.

    Args:
      steps: the inner loop.
      predict: the learner's `predict`.
      num_steps: inner steps.
      annealed_until: fraction of training after which only the last step counts, above 0; from then on this is the
        plain episode.

    Returns:
      `loss_fn -> episode_fn`, for use as the fourth function of a `jmeta.Learner`. The `aux` of the episode is that of
      the last step.

    Raises:
      ValueError: if `annealed_until` is not positive; from the returned function, if `num_steps` is less than 1, and at
        trace time if tasks have no `progress`.

    Example:
      >>> import jax, jax.numpy as jnp, jmeta
      >>> from jmeta import losses
      >>> model = jmeta.models.mlp([1])
      >>> def step(meta_params, params, support, index, key):  # plain gradient descent
      ...     loss = lambda params: losses.squared_error(model.apply(params, support.x, None), support)[0]
      ...     return jax.tree.map(lambda leaf, grad: leaf - 0.1 * grad, params, jax.grad(loss)(params))
      >>> steps = InnerSteps(lambda meta_params: meta_params, step, lambda meta_params, params, *_: params)
      >>> predict = lambda meta_params, adapted, x, key: model.apply(adapted, x, key)
      >>> episode_fn = multi_step_loss(steps, predict, num_steps=2)(losses.squared_error)
      >>> task = jmeta.tasks.sinusoid(num_shots=5, num_queries=5)(jax.random.key(0))._replace(progress=jnp.zeros(()))
      >>> meta_params = model.init(jax.random.key(1), task.support.x)
      >>> loss, aux = episode_fn(meta_params, task, jax.random.key(2))  # half the sum of the losses after each step

    Reference:
      Antoniou, Edwards, Storkey, "How to train your MAML", 2019, arXiv:1810.09502, section 4, "multi-step loss
      optimization".
    """
    _check_annealed_until(annealed_until)

    def episode(loss_fn: LossFn) -> EpisodeFn:
        _check_has_steps(num_steps)

        def episode_fn(meta_params: PyTree, task: Task, key: RandomKey) -> tuple[Array, Aux]:
            if task.progress is None:
                raise ValueError(
                    "MAML++'s multi-step loss needs task.progress; pass num_total_steps to training.sampled_steps, or "
                    "judge by jmeta.plain_episode"
                )
            key_steps, key_query = jax.random.split(key)

            def step(state: PyTree, index_and_key: tuple[Any, RandomKey]) -> tuple[PyTree, tuple[Array, Aux]]:
                index, key_step = index_and_key
                key_descend, key_finish = jax.random.split(key_step)
                state = steps.step(meta_params, state, task.support, index, key_descend)
                adapted = steps.finish(meta_params, state, task.support, index, key_finish)
                outputs = predict(meta_params, adapted, task.query.x, jax.random.fold_in(key_query, index))
                return state, checked_loss(loss_fn(outputs, task.query), "what loss_fn returns")

            _, (losses, aux) = jax.lax.scan(step, steps.start(meta_params), _indices_and_keys(num_steps, key_steps))
            weights = multi_step_weights(task.progress, num_steps=num_steps, annealed_until=annealed_until)
            return jnp.dot(weights, losses), jax.tree.map(lambda leaf: leaf[-1], aux)

        return episode_fn

    return episode


def multi_step_weights(
    progress: Float[Array, ""], *, num_steps: int, annealed_until: float
) -> Float[Array, " num_steps"]:
    """Weight the query losses after each of N inner steps: uniformly at first, and in the end the last one alone.

    With s = progress / annealed_until, every step but the last weighs max(1 − s, 0.03) / N while s < 1, and nothing
    from then on; the last one has the rest of the total weight 1. The floor of 0.03 / N is that of the authors' code.

    Args:
      progress: fraction of meta-training that is done, in [0, 1].
      num_steps: N, at least 1.
      annealed_until: fraction of training after which only the last step counts, above 0.

    Raises:
      ValueError: if `num_steps` or `annealed_until` is not positive.

    Example:
      >>> import jax.numpy as jnp
      >>> multi_step_weights(jnp.array(0.05), num_steps=2, annealed_until=0.1).tolist()
      [0.25, 0.75]

    Reference:
      Antoniou, Edwards, Storkey, "How to train your MAML", 2019, arXiv:1810.09502, section 4; its code,
      github.com/AntreasAntoniou/HowToTrainYourMAMLPytorch, `get_per_step_loss_importance_vector`.
    """
    _check_has_steps(num_steps)
    _check_annealed_until(annealed_until)
    share = progress / annealed_until
    of_others = jnp.where(share < 1, jnp.maximum(1 - share, 0.03), 0.0) / num_steps
    return jnp.full(num_steps, of_others).at[-1].set(1 - (num_steps - 1) * of_others)


def _inner_steps(model: Model, loss_fn: LossFn, adjoint: Adjoint, is_adapted: Callable[[str], bool]) -> InnerSteps:
    """Build gradient descent in single steps: it keeps no state between them, so a scan over them is the whole loop."""
    loss_on_support = support_loss(model, loss_fn)

    def objective(params: PyTree, context: _Context, step: Any, key: RandomKey) -> tuple[Any, Aux]:
        del step
        return loss_on_support(merge(params, context.rest), context.support, key)

    def make_optimizer(context: _Context) -> optax.GradientTransformation:
        return per_step_rates(context.rates, first_step=context.first_step)

    descend_once = descend(objective, make_optimizer, num_steps=1, adjoint=adjoint)

    def start(meta_params: PyTree) -> PyTree:
        return meta_params["params"]

    def step(meta_params: PyTree, params: PyTree, support: Batch, index: Int[Array, ""], key: RandomKey) -> PyTree:
        adapted, shared = partition(params, is_adapted)
        rest = merge(shared, at_step(meta_params["norms"], index))
        adapted, _ = descend_once(adapted, _Context(meta_params["lr"], index, rest, support), key)
        return merge(adapted, shared)

    def finish(meta_params: PyTree, params: PyTree, support: Batch, index: Int[Array, ""], key: RandomKey) -> PyTree:
        whole = merge(params, at_step(meta_params["norms"], index))
        return with_support_statistics(model, whole, support, key)

    return InnerSteps(start, step, finish)


def _indices_and_keys(num_steps: int, key: RandomKey) -> tuple[Int[Array, " num_steps"], Array]:
    return jnp.arange(num_steps), jax.random.split(key, num_steps)
