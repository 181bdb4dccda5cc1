"""Model-agnostic meta-learning: an initialisation from which a few gradient steps suffice.

From meta-parameters θ a task is learned by gradient descent on its support, φ₀ = θ, φₜ₊₁ = φₜ − α ∇L(φₜ; support), and
θ is trained so that L(φ_T; query) is small. The meta-gradient goes through the steps, hence the second derivatives; the
`adjoint` chooses how. Three methods of the literature are variants of MAML, and follow it here: `first_order_maml` has
another adjoint, `anil` and `boil` adapt another part of the network.

Reference: Finn, Abbeel, Levine, "Model-Agnostic Meta-Learning for Fast Adaptation of Deep Networks", 2017,
arXiv:1703.03400, algorithm 1-2, eq. 1. Differs from the paper: any optax transformation may take the inner steps.
"""

from collections.abc import Callable
from typing import Any

import jax
import optax

from .. import adjoints
from ..adaptation import descend
from ..adjoints import Adjoint
from ..models import but_statistics, chain
from ..params import merge, partition
from ..support import apply_to_support, support_loss, with_support_statistics
from ..types import Aux, Batch, Learner, LossFn, Model, PyTree, RandomKey, Task

__all__ = ["maml", "first_order_maml", "boil", "anil"]


def maml(
    model: Model,
    loss_fn: LossFn,
    inner_optimizer: optax.GradientTransformation,
    *,
    num_steps: int,
    adjoint: Adjoint = adjoints.unrolled(),
    is_adapted: Callable[[str], bool] = lambda _: True,
) -> Learner:
    """Learn an initialisation; adapt by a few optimizer steps on the support.

    Args:
      model: outputs one row for each example.
      loss_fn: `(outputs, batch) -> (loss, aux)`, descended on the support.
      inner_optimizer: any optax transformation; `optax.sgd(lr)` is the paper's. One that divides by a norm or a root
        needs its `eps_root`, or an exactly zero gradient makes the meta-gradient NaN.
      num_steps: inner steps, at least 0.
      adjoint: how the inner loop is differentiated.
      is_adapted: whether inner steps change the parameter with this path, such as `"params/conv_0/kernel"`; the
        others are shared by all tasks. Statistics of norm layers are never changed by gradient steps.

    Returns:
      A learner whose meta-parameters and whose adapted state are both parameters of `model`.

    Raises:
      ValueError: if `num_steps` is negative; at trace time if no parameter is adapted.

    Example:
      >>> import jax, jmeta, optax
      >>> from jmeta import learners, losses, models
      >>> learner = learners.maml(models.mlp([40, 40, 1]), losses.squared_error, optax.sgd(0.01), num_steps=1)
      >>> task = jmeta.tasks.sinusoid(num_shots=10, num_queries=10)(jax.random.key(0))
      >>> meta_params = learner.init(jax.random.key(1), task)
      >>> adapted = learner.adapt(meta_params, task.support, jax.random.key(2))
      >>> learner.predict(meta_params, adapted, task.query.x, None).shape
      (10, 1)

    Reference:
      Finn, Abbeel, Levine, "Model-Agnostic Meta-Learning for Fast Adaptation of Deep Networks", 2017,
      arXiv:1703.03400, algorithm 1-2.
    """
    inner_optimizer = adjoints.checked_optimizer(inner_optimizer, "an inner optimizer")
    inner_loop = _inner_loop(model, loss_fn, inner_optimizer, num_steps, adjoint)

    def init(key: RandomKey, task: Task) -> PyTree:
        return model.init(key, task.support.x)

    def adapt(meta_params: PyTree, support: Batch, key: RandomKey) -> PyTree:
        key_descend, key_statistics = jax.random.split(key)
        start, rest = partition(meta_params, but_statistics(is_adapted))
        adapted, _ = inner_loop(start, (rest, support), key_descend)
        return with_support_statistics(model, merge(adapted, rest), support, key_statistics)

    def predict(meta_params: PyTree, adapted: PyTree, x: PyTree, key: RandomKey | None) -> PyTree:
        del meta_params
        return model.apply(adapted, x, key)

    return Learner(init, adapt, predict)


def first_order_maml(
    model: Model,
    loss_fn: LossFn,
    inner_optimizer: optax.GradientTransformation,
    *,
    num_steps: int,
    is_adapted: Callable[[str], bool] = lambda _: True,
) -> Learner:
    """Build first-order MAML, which treats every inner gradient as a constant: no second derivatives.

    The meta-gradient is that of the query loss at the adapted parameters, ∇L(φ_T; query). It costs about half the work,
    and on Omniglot 5-way reaches nearly the same accuracy.

    Args:
      model, loss_fn, inner_optimizer, num_steps, is_adapted: as in `maml`.

    Returns:
      The learner `maml(..., adjoint=adjoints.first_order())`.

    Raises:
      ValueError: as `maml`.

    Example:
      >>> import optax
      >>> from jmeta import learners, losses, models
      >>> learner = learners.first_order_maml(models.mlp([8, 5]), losses.cross_entropy, optax.sgd(0.4), num_steps=1)

    Reference:
      Finn, Abbeel, Levine, "Model-Agnostic Meta-Learning for Fast Adaptation of Deep Networks", 2017,
      arXiv:1703.03400, section 5.2; Nichol, Achiam, Schulman, "On First-Order Meta-Learning Algorithms", 2018,
      arXiv:1803.02999, section 4.
    """
    first_order = adjoints.first_order()
    return maml(model, loss_fn, inner_optimizer, num_steps=num_steps, adjoint=first_order, is_adapted=is_adapted)


def boil(
    body: Model,
    head: Model,
    loss_fn: LossFn,
    inner_optimizer: optax.GradientTransformation,
    *,
    num_steps: int,
    adjoint: Adjoint = adjoints.unrolled(),
) -> Learner:
    """Build BOIL, "body only update in inner loop": MAML that adapts the body and leaves the head unchanged.

    With the head fixed, inner steps must change the representation of the support: features change, where ANIL reuses
    them.

    Args:
      body: embeds inputs; changed by inner steps.
      head: maps the body's features to outputs; the same for all tasks.
      loss_fn, inner_optimizer, num_steps, adjoint: as in `maml`.

    Returns:
      The learner `maml(models.chain(body, head), ...)` that adapts the parameters under `"body"`; those are
      `{"body": ..., "head": ...}`.

    Raises:
      ValueError: as `maml`.

    Example:
      >>> import optax
      >>> from jmeta import learners, losses, models
      >>> body, head = models.mlp([32, 16]), models.mlp([5])
      >>> learner = learners.boil(body, head, losses.cross_entropy, optax.sgd(0.1), num_steps=1)

    Reference:
      Oh, Yoo, Kim, Yun, "BOIL: Towards Representation Change for Few-shot Learning", 2021, arXiv:2008.08882, section 3.
    """
    is_of_body = lambda path: path.startswith("body/")  # noqa: E731
    whole = chain(body, head)
    return maml(whole, loss_fn, inner_optimizer, num_steps=num_steps, adjoint=adjoint, is_adapted=is_of_body)


def anil(
    body: Model,
    head: Model,
    loss_fn: LossFn,
    inner_optimizer: optax.GradientTransformation,
    *,
    num_steps: int,
    adjoint: Adjoint = adjoints.unrolled(),
) -> Learner:
    """Build ANIL, "almost no inner loop": MAML of the head, on features computed once for all inner steps.

    An inner step costs only the head's gradient, φₜ₊₁ = φₜ − α ∇L(h(f(x); φₜ); support) with h the head and f the body;
    the body learns through its features, and from the query.

    Args:
      body: embeds inputs; never changed by inner steps.
      head: maps the body's features to outputs.
      loss_fn, inner_optimizer, num_steps, adjoint: as in `maml`.

    Returns:
      A learner with meta-parameters `{"body": ..., "head": ...}` and an adapted state of the same form. Unless the body
      draws dropout, it equals `maml(models.chain(body, head), ...)` that adapts the parameters under `"head"`. With
      dropout, ANIL draws it once per task, unlike the paper.

    Raises:
      ValueError: as `maml`.

    Example:
      >>> import optax
      >>> from jmeta import learners, losses, models
      >>> body, head = models.mlp([32, 16]), models.mlp([5])
      >>> learner = learners.anil(body, head, losses.cross_entropy, optax.sgd(0.1), num_steps=5)

    Reference:
      Raghu, Raghu, Bengio, Vinyals, "Rapid Learning or Feature Reuse? Towards Understanding the Effectiveness of MAML",
      2020, arXiv:1909.09157, section 4.
    """
    of_head = maml(head, loss_fn, inner_optimizer, num_steps=num_steps, adjoint=adjoint)
    whole = chain(body, head)

    def init(key: RandomKey, task: Task) -> PyTree:
        return whole.init(key, task.support.x)

    def adapt(meta_params: PyTree, support: Batch, key: RandomKey) -> PyTree:
        key_body, key_head = jax.random.split(key)
        features, body_params = apply_to_support(body, meta_params["body"], support, key_body)
        head_params = of_head.adapt(meta_params["head"], support._replace(x=features), key_head)
        return {"body": body_params, "head": head_params}

    def predict(meta_params: PyTree, adapted: PyTree, x: PyTree, key: RandomKey | None) -> PyTree:
        del meta_params
        return whole.apply(adapted, x, key)

    return Learner(init, adapt, predict)


def _inner_loop(
    model: Model, loss_fn: LossFn, optimizer: optax.GradientTransformation, num_steps: int, adjoint: Adjoint
) -> adjoints.InnerLoop:
    loss_on_support = support_loss(model, loss_fn)

    def objective(adapted: PyTree, context: tuple[PyTree, Batch], step: Any, key: RandomKey) -> tuple[Any, Aux]:
        del step
        rest, support = context
        return loss_on_support(merge(adapted, rest), support, key)

    return descend(objective, optimizer, num_steps=num_steps, adjoint=adjoint)
