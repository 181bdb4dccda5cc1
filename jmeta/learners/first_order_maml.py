"""First-order MAML: MAML that takes every inner gradient for a constant.

The meta-gradient is then that of the query loss at the adapted parameters, ∇L(φ_T; query), with no second derivatives:
about half the work, and on Omniglot 5-way nearly the accuracy. It is MAML with the adjoint `first_order`, under the
name that papers know.

Reference: Finn, Abbeel, Levine, 2017, arXiv:1703.03400, section 5.2; Nichol, Achiam, Schulman, "On First-Order
Meta-Learning Algorithms", 2018, arXiv:1803.02999, section 4.
"""

import optax

from .. import adjoints
from ..types import Learner, LossFn, Model
from .maml import maml


def first_order_maml(
    model: Model, loss_fn: LossFn, inner_optimizer: optax.GradientTransformation, *, num_steps: int
) -> Learner:
    """Learn an initialisation without second derivatives.

    Args:
      model, loss_fn, inner_optimizer, num_steps: as in `maml`.

    Returns:
      The learner `maml(..., adjoint=adjoints.first_order())`.

    Raises:
      ValueError: if `num_steps` is negative.

    Example:
      >>> import optax
      >>> from jmeta import learners, losses, models
      >>> learner = learners.first_order_maml(models.mlp([8, 5]), losses.cross_entropy, optax.sgd(0.4), num_steps=1)

    Reference:
      Finn, Abbeel, Levine, "Model-Agnostic Meta-Learning for Fast Adaptation of Deep Networks", 2017,
      arXiv:1703.03400, section 5.2.
    """
    return maml(model, loss_fn, inner_optimizer, num_steps=num_steps, adjoint=adjoints.first_order())
