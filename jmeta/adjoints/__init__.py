"""How an inner loop is differentiated: the `adjoint` argument of `jmeta.adaptation.descend`.

An inner loop is T steps of an optimizer on an objective. *How a meta-gradient flows back through it* is a separate
choice, an adjoint. All adjoints give the same adapted parameters.

| adjoint | meta-gradient | stored for each step of the loop |
|---|---|---|
| `unrolled()` | exact | everything that the step computed |
| `rematerialized()` | exact | the parameters and the optimizer's state; with blocks, those of 2 √T steps in all |
| `mixed_mode()` | exact | the same, and no residuals of second derivatives |
| `truncated(k)` | exact in the last k steps, first-order before them | everything, in the last k steps |
| `first_order()` | without second derivatives | the updates |
| `implicit(solver)` | exact at a minimum, with a certificate of the distance to it | nothing |

An adjoint is a function `(objective, make_optimizer, num_steps) -> inner_loop`, so anyone can write another.
"""

from .implicit import conjugate_gradient, implicit, lineax_solver, neumann_series
from .inner_loop import Adjoint, InnerLoop, MakeOptimizer, Objective, checked_optimizer
from .mixed_mode import mixed_mode
from .unrolling import first_order, rematerialized, truncated, unrolled

__all__ = [
    "Adjoint",
    "InnerLoop",
    "MakeOptimizer",
    "Objective",
    "checked_optimizer",
    "conjugate_gradient",
    "first_order",
    "implicit",
    "lineax_solver",
    "mixed_mode",
    "neumann_series",
    "rematerialized",
    "truncated",
    "unrolled",
]
