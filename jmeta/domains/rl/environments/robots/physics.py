"""Planar mechanisms of rigid links on hinges: their equations of motion in reduced coordinates, and one time step.

A link is a thin rod, and θ its angle in the world. Seen from the centre of mass, every point of a free mechanism is a
sum Σⱼ wⱼ (cos θⱼ, sin θⱼ) whose weights w, its *lever*, depend on lengths and masses alone. With coordinates
q = (x, y, θ₁ ... θₙ), x and y those of the centre of mass, the mass matrix is therefore

  M = diag(m, m) ⊕ S ∘ cos(θᵢ − θⱼ)    and the bias    bᵢ = Σⱼ Sᵢⱼ sin(θᵢ − θⱼ) θ̇ⱼ²,

with S constant in a rollout: no recursion over the tree, only products of small arrays. A mechanism that is anchored,
such as an arm or a pendulum, has the angles alone as coordinates, and its levers are seen from the anchor.

Forces are a `Push`: f − D v, of which D v is taken at the end of the step. Damping and friction are then stable at any
strength and any step.

Units are metres, kilograms, seconds and radians; x points to the right, y upwards, angles turn counter-clockwise.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

__all__ = [
    "GRAVITY",
    "Link",
    "Mechanism",
    "Body",
    "Motion",
    "Push",
    "mechanism",
    "lever",
    "body",
    "mass_matrix",
    "energy",
    "places",
    "jacobians",
    "advance",
    "product",
]

GRAVITY = 9.81  # m/s²


class Link(NamedTuple):
    """A thin rod.

    Attributes:
      length: length in m.
      mass: mass in kg, uniform over the length.
      parent: number of the link that it hangs on; -1 for the first link, which hangs on nothing or on the anchor.
      at: position on its parent, from 0, the parent's start, to 1, its end.
    """

    length: float
    mass: float
    parent: int = -1
    at: float = 1.0


class Mechanism(NamedTuple):
    """A tree of links, as numbers; made by `mechanism`.

    Attributes:
      is_anchored: whether the first link's start is fixed to the world.
      lengths: lengths of the links.
      masses: masses of the links.
      starts: weights, a row for each link, whose sum Σⱼ wⱼ (cos θⱼ, sin θⱼ) leads from the first link's start to
        its own.
      hinges: weights that combine angles of links to angles of hinges; a row for each link but the first, and for the
        first one too if it is anchored.
    """

    is_anchored: bool
    lengths: Float[np.ndarray, "links"]
    masses: Float[np.ndarray, "links"]
    starts: Float[np.ndarray, "links links"]
    hinges: Float[np.ndarray, "hinges links"]


class Body(NamedTuple):
    """A mechanism with given masses, and with points on it at which forces act; made by `body`.

    Attributes:
      mass: total mass of all links.
      inertia: S, in kg m².
      weight: mass times lever of the centre of mass, in kg m; zero for a free mechanism, whose origin it is.
      levers: levers of the points.
      start: lever of the first link's start.
    """

    mass: Float[Array, ""]
    inertia: Float[Array, "links links"]
    weight: Float[Array, "links"]
    levers: Float[Array, "points links"]
    start: Float[Array, "links"]


class Motion(NamedTuple):
    """The position and velocity of a mechanism.

    Attributes:
      position: (x, y, θ₁ ... θₙ) with the centre of mass at (x, y); for an anchored mechanism the angles only.
      velocity: its derivative.
    """

    position: Float[Array, "coordinates"]
    velocity: Float[Array, "coordinates"]


class Push(NamedTuple):
    """A generalised force f − D v.

    Attributes:
      force: f.
      damping: D, symmetric with no negative eigenvalue.
    """

    force: Float[Array, "coordinates"]
    damping: Float[Array, "coordinates coordinates"]


def mechanism(links: Sequence[Link], *, is_anchored: bool = False) -> Mechanism:
    """Build a tree of links.

    Args:
      links: the links, each after its parent.
      is_anchored: whether the first link's start is fixed to the world.

    Raises:
      ValueError: if a parent does not come before its child, or a number is out of its range.

    Example:
      >>> from jmeta.domains.rl.environments.robots.physics import Link, mechanism
      >>> pendulum = mechanism([Link(1.0, 1.0), Link(0.5, 1.0, parent=0)], is_anchored=True)
      >>> pendulum.starts[1].tolist(), pendulum.hinges.tolist()
      ([1.0, 0.0], [[1.0, 0.0], [-1.0, 1.0]])
    """
    count = len(links)
    starts, hinges = np.zeros((count, count)), np.eye(count)
    for i, link in enumerate(links):
        if not (link.parent == -1 if i == 0 else 0 <= link.parent < i):
            raise ValueError(f"link {i} has parent={link.parent}; the first link has -1, any other one before it")
        if not (link.length > 0 and link.mass > 0 and 0 <= link.at <= 1):
            raise ValueError(f"link {i} is {link}; expected a positive length and mass, and `at` in [0, 1]")
        if i > 0:
            starts[i] = starts[link.parent]
            starts[i, link.parent] += link.at * links[link.parent].length
            hinges[i, link.parent] = -1
    lengths, masses = (np.array([getattr(link, name) for link in links], np.float64) for name in ("length", "mass"))
    return Mechanism(is_anchored, lengths, masses, starts, hinges if is_anchored else hinges[1:])


def lever(shape: Mechanism, link: int, at: float) -> Float[np.ndarray, "links"]:
    """Return the row from the first link's start to a point on a link, `at` between 0, its start, and 1, its end.

    Example:
      >>> from jmeta.domains.rl.environments.robots.physics import Link, lever, mechanism
      >>> lever(mechanism([Link(1.0, 1.0), Link(0.5, 1.0, parent=0)]), 1, 0.5).tolist()
      [1.0, 0.25]
    """
    to_point = shape.starts[link].copy()
    to_point[link] += at * shape.lengths[link]
    return to_point


def body(shape: Mechanism, mass: Float[Array, "links"], points: Float[np.ndarray, "points links"]) -> Body:
    """Build a mechanism with given masses.

    Args:
      shape: the mechanism.
      mass: mass of each link, as a multiple of the mechanism's own.
      points: rows of `lever` for the points that forces act at.

    Example:
      >>> import jax.numpy as jnp, numpy as np
      >>> from jmeta.domains.rl.environments.robots.physics import Link, body, lever, mechanism
      >>> stick = mechanism([Link(2.0, 3.0)])
      >>> ends = body(stick, jnp.ones(1), np.stack([lever(stick, 0, 0.0), lever(stick, 0, 1.0)]))
      >>> ends.inertia.tolist(), ends.levers.tolist()  # m l² / 12, about its middle
      ([[1.0]], [[-1.0], [1.0]])
    """
    dtype, count = mass.dtype, len(shape.lengths)
    masses = jnp.asarray(shape.masses, dtype) * mass
    middles = jnp.asarray(shape.starts + np.diag(shape.lengths / 2), dtype)
    about_own_middle = masses * jnp.asarray(shape.lengths**2 / 12, dtype)
    total = masses.sum()
    weight = (masses[:, None] * middles).sum(0)
    origin = jnp.zeros(count, dtype) if shape.is_anchored else weight / total
    seen = middles - jnp.broadcast_to(origin, middles.shape)
    inertia = (masses[:, None, None] * seen[:, :, None] * seen[:, None, :]).sum(0) + jnp.diag(about_own_middle)
    levers = jnp.asarray(points, dtype)
    return Body(total, inertia, weight - total * origin, levers - jnp.broadcast_to(origin, levers.shape), -origin)


def mass_matrix(solid: Body, motion: Motion) -> Float[Array, "coordinates coordinates"]:
    """Return M, the matrix of the kinetic energy ½ vᵀ M v.

    Example:
      >>> import jax.numpy as jnp, numpy as np
      >>> from jmeta.domains.rl.environments.robots.physics import Link, Motion, body, mass_matrix, mechanism
      >>> stick = body(mechanism([Link(2.0, 3.0)]), jnp.ones(1), np.zeros((0, 1)))
      >>> mass_matrix(stick, Motion(jnp.zeros(3), jnp.zeros(3))).diagonal().tolist()
      [3.0, 3.0, 1.0]
    """
    _, cos, sin = _angles(solid, motion)
    turning = solid.inertia * (cos[:, None] * cos[None, :] + sin[:, None] * sin[None, :])
    if not _is_free(solid, motion):
        return turning
    return jnp.pad(turning, (2, 0)) + solid.mass * jnp.diag(_first_two(motion))


def energy(solid: Body, motion: Motion, gravity: float = 0.0) -> Float[Array, ""]:
    """Return the kinetic energy, plus the potential energy in a field of gravity, in J.

    Example:
      >>> import jax.numpy as jnp, numpy as np
      >>> from jmeta.domains.rl.environments.robots.physics import Link, Motion, body, energy, mechanism
      >>> stick = body(mechanism([Link(2.0, 3.0)]), jnp.ones(1), np.zeros((0, 1)))
      >>> motion = Motion(jnp.array([0.0, 1.0, 0.0]), jnp.array([2.0, 0.0, 0.0]))
      >>> float(energy(stick, motion, gravity=10.0))
      36.0
    """
    _, _, sin = _angles(solid, motion)
    height = (solid.weight * sin).sum()  # times mass
    if _is_free(solid, motion):
        height = height + solid.mass * motion.position[1]
    return 0.5 * (motion.velocity * product(mass_matrix(solid, motion), motion.velocity)).sum() + gravity * height


def places(solid: Body, motion: Motion, levers: Float[Array, "points links"]) -> Float[Array, "points 2"]:
    """Return the positions of points, in m.

    Args:
      solid, motion: the mechanism.
      levers: levers of the points, such as `solid.levers`.

    Example:
      >>> import jax.numpy as jnp
      >>> from jmeta.domains.rl.environments.robots.physics import Link, Motion, body, lever, mechanism, places
      >>> stick = mechanism([Link(2.0, 3.0)])
      >>> end = body(stick, jnp.ones(1), lever(stick, 0, 1.0)[None])
      >>> places(end, Motion(jnp.array([5.0, 1.0, 0.0]), jnp.zeros(3)), end.levers).tolist()
      [[6.0, 1.0]]
    """
    _, cos, sin = _angles(solid, motion)
    seen = jnp.stack([product(levers, cos), product(levers, sin)], 1)
    return seen + jnp.broadcast_to(motion.position[:2], seen.shape) if _is_free(solid, motion) else seen


def jacobians(
    solid: Body, motion: Motion
) -> tuple[Float[Array, "points coordinates"], Float[Array, "points coordinates"]]:
    """Return the derivatives of the points' x and of their y with respect to the coordinates.

    Example:
      >>> import jax.numpy as jnp
      >>> from jmeta.domains.rl.environments.robots.physics import Link, Motion, body, jacobians, lever, mechanism
      >>> stick = mechanism([Link(2.0, 3.0)])
      >>> end = body(stick, jnp.ones(1), lever(stick, 0, 1.0)[None])
      >>> [rows.tolist() for rows in jacobians(end, Motion(jnp.zeros(3), jnp.zeros(3)))]
      [[[1.0, 0.0, -0.0]], [[0.0, 1.0, 1.0]]]
    """
    _, cos, sin = _angles(solid, motion)
    of_x, of_y = -solid.levers * sin[None, :], solid.levers * cos[None, :]
    if not _is_free(solid, motion):
        return of_x, of_y
    one, zero = jnp.ones_like(of_x[:, :1]), jnp.zeros_like(of_x[:, :1])
    return jnp.concatenate([one, zero, of_x], 1), jnp.concatenate([zero, one, of_y], 1)


def advance(solid: Body, motion: Motion, push: Push, *, gravity: float, dt: float) -> Motion:
    """Take one step of semi-implicit Euler: (M + dt D) v' = M v + dt (f − b + weight), and then q' = q + dt v'.

    Args:
      solid: the mechanism.
      motion: motion at the step's start.
      push: all forces but weight.
      gravity: gravity in m/s², downwards.
      dt: length of the step in s.

    Example:
      >>> import jax.numpy as jnp, numpy as np
      >>> from jmeta.domains.rl.environments.robots.physics import Link, Motion, Push, advance, body, mechanism
      >>> stick = body(mechanism([Link(2.0, 3.0)]), jnp.ones(1), np.zeros((0, 1)))
      >>> motion = Motion(jnp.zeros(3), jnp.zeros(3))
      >>> advance(stick, motion, Push(jnp.zeros(3), jnp.zeros((3, 3))), gravity=10.0, dt=0.1).velocity.tolist()
      [0.0, -1.0, 0.0]
    """
    spin, cos, sin = _angles(solid, motion)
    squares = spin * spin
    bias = sin * product(solid.inertia, cos * squares) - cos * product(solid.inertia, sin * squares)
    force = -bias - gravity * solid.weight * cos
    if _is_free(solid, motion):
        force = jnp.concatenate([jnp.stack([jnp.zeros_like(solid.mass), -gravity * solid.mass]), force])
    mass = mass_matrix(solid, motion)
    velocity = _solve(mass + dt * push.damping, product(mass, motion.velocity) + dt * (force + push.force))
    return Motion(motion.position + dt * velocity, velocity)


def _solve(matrix: Float[Array, "n n"], vector: Float[Array, "n"]) -> Float[Array, "n"]:
    """Solve for a positive definite matrix by elimination without pivoting: n fused products, for a batch at once."""
    rows = jnp.concatenate([matrix, vector[:, None]], 1)
    for i, unit in enumerate(np.eye(vector.shape[0])):
        rows = rows - (rows[:, i] - jnp.asarray(unit, rows.dtype))[:, None] * (rows[i] / rows[i, i])[None, :]
    return rows[:, -1]


def product(matrix: Float[Array, "n m"], vector: Float[Array, "m"]) -> Float[Array, "n"]:
    """Multiply a small matrix by a vector, column by column.

    XLA fuses this with its surroundings, which it does not do with a product, and computes it in full precision on any
    accelerator.

    Example:
      >>> import jax.numpy as jnp
      >>> from jmeta.domains.rl.environments.robots.physics import product
      >>> product(jnp.array([[1.0, 2.0], [3.0, 4.0]]), jnp.array([1.0, 10.0])).tolist()
      [21.0, 43.0]
    """
    total = matrix[:, 0] * vector[0]
    for column in range(1, matrix.shape[1]):
        total = total + matrix[:, column] * vector[column]
    return total


def _angles(solid: Body, motion: Motion) -> tuple[Float[Array, "links"], Float[Array, "links"], Float[Array, "links"]]:
    """Return the spins of the links, and the cosines and sines of their angles."""
    count = solid.inertia.shape[0]
    angle = motion.position[-count:]
    return motion.velocity[-count:], jnp.cos(angle), jnp.sin(angle)


def _is_free(solid: Body, motion: Motion) -> bool:
    return motion.position.shape[0] > solid.inertia.shape[0]


def _first_two(motion: Motion) -> Float[Array, "coordinates"]:
    return (jnp.arange(motion.position.shape[0]) < 2).astype(motion.position.dtype)
