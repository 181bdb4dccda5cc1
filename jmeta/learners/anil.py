"""ANIL, "almost no inner loop": MAML whose inner loop adapts the head alone.

The body's features of the support are computed once, so an inner step costs a head's gradient and no more; the body
learns through them, from the query. With h the head and f the body, φₜ₊₁ = φₜ − α ∇L(h(f(x); φₜ); support).

Reference: Raghu, Raghu, Bengio, Vinyals, "Rapid Learning or Feature Reuse? Towards Understanding the Effectiveness of
MAML", 2020, arXiv:1909.09157, section 4. Differs from the paper: a body's dropout, if any, is drawn once a task.
"""

from typing import Any

import jax
import optax

from .. import adjoints
from ..adaptation import descend
from ..adjoints import Adjoint
from ..models.chain import chain
from ..support import apply_to_support, support_loss, with_support_statistics
from ..types import Aux, Batch, Learner, LossFn, Model, PyTree, RandomKey, Task


def anil(
    body: Model,
    head: Model,
    loss_fn: LossFn,
    inner_optimizer: optax.GradientTransformation,
    *,
    num_steps: int,
    adjoint: Adjoint = adjoints.unrolled(),
) -> Learner:
    """Learn features and a head's initialisation; adapt the head alone.

    Args:
      body: embeds inputs; never changed by inner steps.
      head: maps the body's features to outputs.
      loss_fn, inner_optimizer, num_steps, adjoint: as in `maml`.

    Returns:
      A learner with meta-parameters `{"body": ..., "head": ...}` and an adapted state of the same form.

    Raises:
      ValueError: if `num_steps` is negative.

    Example:
      >>> import optax
      >>> from jmeta import learners, losses, models
      >>> body, head = models.mlp([32, 16]), models.mlp([5])
      >>> learner = learners.anil(body, head, losses.cross_entropy, optax.sgd(0.1), num_steps=5)

    Reference:
      Raghu, Raghu, Bengio, Vinyals, "Rapid Learning or Feature Reuse?", 2020, arXiv:1909.09157, section 4.
    """
    whole = chain(body, head)
    head_loss = support_loss(head, loss_fn)

    def objective(params: PyTree, context: Batch, step: Any, key: RandomKey) -> tuple[Any, Aux]:
        del step
        return head_loss(params, context, key)

    inner_loop = descend(objective, inner_optimizer, num_steps=num_steps, adjoint=adjoint)

    def init(key: RandomKey, task: Task) -> PyTree:
        return whole.init(key, task.support.x)

    def adapt(meta_params: PyTree, support: Batch, key: RandomKey) -> PyTree:
        key_body, key_descend, key_statistics = jax.random.split(key, 3)
        features, body_params = apply_to_support(body, meta_params["body"], support, key_body)
        embedded = support._replace(x=features)
        head_params, _ = inner_loop(meta_params["head"], embedded, key_descend)
        head_params = with_support_statistics(head, head_params, embedded, key_statistics)
        return {"body": body_params, "head": head_params}

    def predict(meta_params: PyTree, adapted: PyTree, x: PyTree, key: RandomKey | None) -> PyTree:
        del meta_params
        return whole.apply(adapted, x, key)

    return Learner(init, adapt, predict)
