"""BOIL, "body only update in inner loop": MAML whose inner loop adapts the body and leaves the head alone.

The opposite of ANIL: with the head fixed, inner steps must move the *representation* of the support, and features
change rather than being reused.

Reference: Oh, Yoo, Kim, Yun, "BOIL: Towards Representation Change for Few-shot Learning", 2021, arXiv:2008.08882,
section 3. Differs from the paper: nothing.
"""

import optax

from .. import adjoints
from ..adjoints import Adjoint
from ..models.chain import chain
from ..types import Learner, LossFn, Model
from .maml import maml


def boil(
    body: Model,
    head: Model,
    loss_fn: LossFn,
    inner_optimizer: optax.GradientTransformation,
    *,
    num_steps: int,
    adjoint: Adjoint = adjoints.unrolled(),
) -> Learner:
    """Learn a body's initialisation and a fixed head; adapt the body alone.

    Args:
      body: embeds inputs; changed by inner steps.
      head: maps the body's features to outputs; the same for all tasks.
      loss_fn, inner_optimizer, num_steps, adjoint: as in `maml`.

    Returns:
      A learner with meta-parameters `{"body": ..., "head": ...}` and an adapted state of the same form.

    Raises:
      ValueError: if `num_steps` is negative.

    Example:
      >>> import optax
      >>> from jmeta import learners, losses, models
      >>> body, head = models.mlp([32, 16]), models.mlp([5])
      >>> learner = learners.boil(body, head, losses.cross_entropy, optax.sgd(0.1), num_steps=1)

    Reference:
      Oh, Yoo, Kim, Yun, "BOIL: Towards Representation Change for Few-shot Learning", 2021, arXiv:2008.08882, section 3.
    """
    return maml(
        chain(body, head),
        loss_fn,
        inner_optimizer,
        num_steps=num_steps,
        adjoint=adjoint,
        is_adapted=lambda path: path.startswith("body/"),
    )
