"""Forces on a mechanism: motors and springs of its hinges, the ground under it, the water around it."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from .physics import Body, Mechanism, Motion, Push, jacobians, product

__all__ = [
    "LIMIT_STIFFNESS",
    "LIMIT_DAMPING",
    "GROUND_STIFFNESS",
    "GROUND_DAMPING",
    "SLIP",
    "Hinges",
    "bending",
    "hinge_speeds",
    "at_hinges",
    "from_ground",
    "from_water",
    "together",
]

LIMIT_STIFFNESS = 60.0  # Nm/rad, for a hinge beyond its range
LIMIT_DAMPING = 1.0  # Nm s/rad, for a hinge beyond its range
GROUND_STIFFNESS = 4000.0  # N/m, for one point
GROUND_DAMPING = 0.5  # s/m: a point that leaves the ground at 1 / GROUND_DAMPING is not pushed any more
SLIP = 0.02  # m/s: friction is at 71 % of its limit at this speed


class Hinges(NamedTuple):
    """Springs, dampers and ranges of hinges.

    Attributes:
      rest: angle between link and parent at which the springs are relaxed, in rad.
      low, high: range from the rest, beyond which stiff springs push back.
      stiffness: stiffness of the springs, in Nm/rad.
      damping: damping in Nm s/rad. A motor against it reaches torque / damping rad/s at most.
    """

    rest: Float[np.ndarray, "hinges"]
    low: Float[np.ndarray, "hinges"]
    high: Float[np.ndarray, "hinges"]
    stiffness: float
    damping: Float[np.ndarray, "hinges"]


def bending(shape: Mechanism, hinges: Hinges, position: Float[Array, "coordinates"]) -> Float[Array, "hinges"]:
    """Return the angles of the hinges, from their rest.

    Example:
      >>> import jax.numpy as jnp, numpy as np
      >>> from jmeta.domains.rl.environments.robots.forces import Hinges, bending
      >>> from jmeta.domains.rl.environments.robots.physics import Link, mechanism
      >>> two = mechanism([Link(1.0, 1.0), Link(1.0, 1.0, parent=0)])
      >>> hinges = Hinges(np.array([0.5]), -np.ones(1), np.ones(1), 0.0, np.zeros(1))
      >>> bending(two, hinges, jnp.array([9.0, 9.0, 0.0, 1.5]))
      Array([1.], dtype=float32)
    """
    rest = jnp.asarray(hinges.rest, position.dtype)
    return hinge_speeds(shape, position) - rest


def hinge_speeds(shape: Mechanism, velocity: Float[Array, "coordinates"]) -> Float[Array, "hinges"]:
    """Return the speeds at which hinges bend.

    Example:
      >>> import jax.numpy as jnp
      >>> from jmeta.domains.rl.environments.robots.forces import hinge_speeds
      >>> from jmeta.domains.rl.environments.robots.physics import Link, mechanism
      >>> hinge_speeds(mechanism([Link(1.0, 1.0), Link(1.0, 1.0, parent=0)]), jnp.array([9.0, 9.0, 1.0, 3.0]))
      Array([2.], dtype=float32)
    """
    to_hinges = jnp.asarray(shape.hinges, velocity.dtype)
    return product(to_hinges, velocity[-to_hinges.shape[1] :])


def at_hinges(shape: Mechanism, hinges: Hinges, motion: Motion, torque: Float[Array, "hinges"]) -> Push:
    """Compute the forces of motors, springs, dampers and end stops, and their reactions on the parents.

    Args:
      shape: the mechanism.
      hinges: their springs and ranges.
      motion: motion of the mechanism.
      torque: torque of the motors, in Nm.

    Example:
      >>> import jax.numpy as jnp, numpy as np
      >>> from jmeta.domains.rl.environments.robots.forces import Hinges, at_hinges
      >>> from jmeta.domains.rl.environments.robots.physics import Link, Motion, mechanism
      >>> two = mechanism([Link(1.0, 1.0), Link(1.0, 1.0, parent=0)])
      >>> hinges = Hinges(np.zeros(1), -np.ones(1), np.ones(1), 0.0, np.zeros(1))
      >>> at_hinges(two, hinges, Motion(jnp.zeros(4), jnp.zeros(4)), jnp.array([2.0])).force.tolist()
      [0.0, 0.0, -2.0, 2.0]
    """
    dtype = motion.position.dtype
    angle = bending(shape, hinges, motion.position)
    low, high = (jnp.asarray(bound, dtype) for bound in (hinges.low, hinges.high))
    beyond = angle - jnp.clip(angle, low, high)
    moment = torque - hinges.stiffness * angle - LIMIT_STIFFNESS * beyond
    damping = jnp.asarray(hinges.damping, dtype) + LIMIT_DAMPING * (beyond != 0).astype(dtype)
    to_hinges = jnp.asarray(shape.hinges, dtype)
    matrix = _squares(to_hinges, damping)
    others = motion.position.shape[0] - matrix.shape[0]
    return Push(jnp.pad((moment[:, None] * to_hinges).sum(0), (others, 0)), jnp.pad(matrix, (others, 0)))


def from_ground(solid: Body, motion: Motion, friction: Float[Array, ""]) -> Push:
    """Compute the force of the ground y = 0 on a body's points: a compliant normal force and smooth Coulomb friction.

    A point at depth p that moves at (vₓ, v_y) is pushed up with N = k p (1 − c v_y), never pulled, and back with
    μ N vₓ / √(vₓ² + s²): where Coulomb's law lets it stand still, it creeps at a small fraction of the speed s.

    Args:
      solid: its points touch the ground.
      motion: motion of the body.
      friction: μ.

    Example:
      >>> import jax.numpy as jnp
      >>> from jmeta.domains.rl.environments.robots.forces import from_ground
      >>> from jmeta.domains.rl.environments.robots.physics import Link, Motion, body, lever, mechanism
      >>> stick = mechanism([Link(2.0, 3.0)])
      >>> middle = body(stick, jnp.ones(1), lever(stick, 0, 0.5)[None])
      >>> from_ground(middle, Motion(jnp.array([0.0, -0.01, 0.0]), jnp.zeros(3)), jnp.float32(0.5)).force.tolist()
      [0.0, 40.0, 0.0]
    """
    count = solid.inertia.shape[0]
    along, up = jacobians(solid, motion)
    height = motion.position[1] + product(solid.levers, jnp.sin(motion.position[-count:]))
    sliding, rising = (product(rows, motion.velocity) for rows in (along, up))
    force = jnp.where(rising < 1 / GROUND_DAMPING, GROUND_STIFFNESS * jnp.maximum(-height, 0), 0)
    yielding = GROUND_DAMPING * force
    gripping = friction * (force - yielding * rising) * jax.lax.rsqrt(sliding * sliding + SLIP**2)
    return Push((up * force[:, None]).sum(0), _squares(along, gripping) + _squares(up, yielding))


def from_water(
    solid: Body, motion: Motion, links: np.ndarray, along: Float[Array, ""], across: Float[Array, ""]
) -> Push:
    """Compute the drag at a body's points, proportional to their speeds along and across their links.

    Args:
      solid: its points are dragged.
      motion: motion of the body.
      links: numbers of the links that the points are on.
      along, across: drag of a point in N s/m. The difference between them makes swimming possible.

    Example:
      >>> import jax.numpy as jnp, numpy as np
      >>> from jmeta.domains.rl.environments.robots.forces import from_water
      >>> from jmeta.domains.rl.environments.robots.physics import Link, Motion, body, lever, mechanism
      >>> stick = mechanism([Link(2.0, 3.0)])
      >>> end = body(stick, jnp.ones(1), lever(stick, 0, 1.0)[None])
      >>> at_rest = Motion(jnp.zeros(3), jnp.zeros(3))
      >>> from_water(end, at_rest, np.array([0]), jnp.float32(1.0), jnp.float32(5.0)).damping.diagonal().tolist()
      [1.0, 5.0, 5.0]
    """
    of_x, of_y = jacobians(solid, motion)
    angle = motion.position[-solid.inertia.shape[0] :][links]
    cos, sin = jnp.cos(angle)[:, None], jnp.sin(angle)[:, None]
    count = (len(links),)
    damping = _squares(of_x * cos + of_y * sin, jnp.broadcast_to(along, count))
    return Push(
        jnp.zeros_like(motion.position),
        damping + _squares(of_y * cos - of_x * sin, jnp.broadcast_to(across, count)),
    )


def together(*pushes: Push) -> Push:
    """Sum forces.

    Example:
      >>> import jax.numpy as jnp
      >>> from jmeta.domains.rl.environments.robots.forces import together
      >>> from jmeta.domains.rl.environments.robots.physics import Push
      >>> together(Push(jnp.ones(1), jnp.zeros((1, 1))), Push(jnp.ones(1), jnp.ones((1, 1)))).force.tolist()
      [2.0]
    """
    force, damping = pushes[0]
    for push in pushes[1:]:
        force, damping = force + push.force, damping + push.damping
    return Push(force, damping)


def _squares(rows: Float[Array, "points n"], weights: Float[Array, "points"]) -> Float[Array, "n n"]:
    """Compute Σ w r rᵀ point by point: one reduction or one matrix product takes twice as long on a CPU."""
    total = jnp.zeros((rows.shape[1],) * 2, rows.dtype)
    for i in range(rows.shape[0]):
        total = total + weights[i] * rows[i][:, None] * rows[i][None, :]
    return total
