"""The physics of robots against closed forms and against automatic differentiation of the Lagrangian."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jmeta.domains.rl.environments.robots.forces import (
    GROUND_STIFFNESS,
    LIMIT_STIFFNESS,
    SLIP,
    Hinges,
    at_hinges,
    bending,
    from_ground,
    from_water,
)
from jmeta.domains.rl.environments.robots.physics import (
    GRAVITY,
    Link,
    Motion,
    Push,
    advance,
    body,
    energy,
    lever,
    mass_matrix,
    mechanism,
)

LINKS = [Link(0.8, 3.0), Link(0.3, 0.5, 0, 0.2), Link(0.4, 0.3, 1), Link(0.3, 0.7, 0, 1.0)]


def free_and_anchored():
    """A tree of four links with uneven masses, free and anchored, in a random motion; float64 where that is on."""
    key_mass, key_place, key_speed = jax.random.split(jax.random.key(3), 3)
    for is_anchored in (False, True):
        shape = mechanism(LINKS, is_anchored=is_anchored)
        factors = jax.random.uniform(key_mass, (4,), minval=0.5, maxval=2.0)
        count = 4 if is_anchored else 6
        motion = Motion(jax.random.normal(key_place, (count,)), jax.random.normal(key_speed, (count,)))
        yield shape, factors, body(shape, factors, shape.starts), motion


def no_push(motion):
    count = motion.position.shape[0]
    return Push(jnp.zeros(count), jnp.zeros((count, count)))


def middles(shape, factors, position):
    """Of the links, by walking the tree from link to link: another route than levers."""
    masses, angles, starts = shape.masses * factors, position[-4:], [jnp.zeros(2)]
    along = lambda i: jnp.stack([jnp.cos(angles[i]), jnp.sin(angles[i])])
    for link in LINKS[1:]:
        starts.append(starts[link.parent] + link.at * LINKS[link.parent].length * along(link.parent))
    found = jnp.stack([starts[i] + 0.5 * link.length * along(i) for i, link in enumerate(LINKS)])
    if shape.is_anchored:
        return found
    centre = (masses[:, None] * found).sum(0) / masses.sum()
    return found + jnp.broadcast_to(position[:2] - centre, found.shape)


def lagrangian(shape, factors, gravity):
    masses = shape.masses * factors
    inertias = masses * shape.lengths**2 / 12

    def of(position, velocity):
        place, speed = jax.jvp(lambda position: middles(shape, factors, position), (position,), (velocity,))
        kinetic = 0.5 * (masses * (speed**2).sum(1)).sum() + 0.5 * (inertias * velocity[-4:] ** 2).sum()
        return kinetic - gravity * (masses * place[:, 1]).sum()

    return of


def run_physics(solid, motion, push_of, *, seconds, dt, gravity=GRAVITY):
    def step(motion, _):
        motion = advance(solid, motion, push_of(motion), gravity=gravity, dt=dt)
        return motion, motion

    return jax.jit(lambda motion: jax.lax.scan(step, motion, length=round(seconds / dt)))(motion)


# ---- the equations of motion


def test_mass_matrix_is_the_hessian_of_the_kinetic_energy(float64):
    for shape, factors, solid, motion in free_and_anchored():
        matrix = jax.jit(lambda motion, solid=solid: mass_matrix(solid, motion))(motion)
        hessian = jax.jit(jax.hessian(lagrangian(shape, factors, 0.0), argnums=1))(*motion)
        np.testing.assert_allclose(matrix, hessian, atol=1e-12)
        np.testing.assert_allclose(matrix, matrix.T, rtol=1e-14)
        assert np.linalg.eigvalsh(matrix).min() > 1e-3


def test_acceleration_is_that_of_lagranges_equations(float64):
    for shape, factors, solid, motion in free_and_anchored():
        of = lagrangian(shape, factors, GRAVITY)

        def acceleration(motion, of=of, solid=solid):
            momentum = lambda position: jax.grad(of, argnums=1)(position, motion.velocity)
            _, changing = jax.jvp(momentum, (motion.position,), (motion.velocity,))
            return jnp.linalg.solve(mass_matrix(solid, motion), jax.grad(of)(*motion) - changing)

        expected = jax.jit(acceleration)(motion)
        after = advance(solid, motion, no_push(motion), gravity=GRAVITY, dt=1e-3)
        np.testing.assert_allclose((after.velocity - motion.velocity) / 1e-3, expected, rtol=1e-9, atol=1e-9)


def test_energy_is_that_of_the_lagrangian(float64):
    for shape, factors, solid, motion in free_and_anchored():
        of = lagrangian(shape, factors, GRAVITY)
        kinetic = lagrangian(shape, factors, 0.0)(*motion)
        np.testing.assert_allclose(energy(solid, motion, GRAVITY), 2 * kinetic - of(*motion), rtol=1e-12)


def test_energy_is_conserved_better_with_smaller_steps(float64):
    for _, _, solid, motion in free_and_anchored():
        before = energy(solid, motion, GRAVITY)
        errors = [
            abs(energy(solid, run_physics(solid, motion, no_push, seconds=0.5, dt=dt)[0], GRAVITY) - before)
            for dt in (1e-3, 5e-4, 2.5e-4)
        ]
        assert errors[-1] < 5e-3 * abs(before)
        np.testing.assert_allclose([errors[0] / errors[1], errors[1] / errors[2]], 2.0, rtol=0.1)  # of first order


def test_free_flight_keeps_momentum(float64):
    shape, factors, solid, motion = next(free_and_anchored())

    def angular(motion):
        place, speed = jax.jvp(lambda position: middles(shape, factors, position), *[(each,) for each in motion])
        seen = place - motion.position[None, :2]
        masses = shape.masses * factors
        orbital = (masses * (seen[:, 0] * speed[:, 1] - seen[:, 1] * speed[:, 0])).sum()
        return orbital + (masses * shape.lengths**2 / 12 * motion.velocity[2:]).sum()

    ends = [run_physics(solid, motion, no_push, seconds=0.5, dt=dt, gravity=0.0)[0] for dt in (1e-3, 5e-4)]
    for end in ends:
        np.testing.assert_allclose(end.velocity[:2], motion.velocity[:2], rtol=1e-12)
    errors = [abs(angular(end) - angular(motion)) for end in ends]
    assert errors[0] < 1e-2 * abs(angular(motion))
    np.testing.assert_allclose(errors[0] / errors[1], 2.0, rtol=0.1)


def test_hinge_torques_and_dampers_keep_momentum(float64):
    shape, _, _, motion = next(free_and_anchored())
    hinges = Hinges(np.zeros(3), -np.ones(3), np.ones(3), 2.0, np.full(3, 0.5))
    push = at_hinges(shape, hinges, motion, jnp.array([1.0, -2.0, 3.0]))
    rigid_turn = jnp.array([0.0, 0.0, 1.0, 1.0, 1.0, 1.0])
    assert abs(push.force @ rigid_turn) < 1e-12  # no torque on the whole
    np.testing.assert_allclose(push.damping @ rigid_turn, 0, atol=1e-12)
    np.testing.assert_array_equal(push.force[:2], 0)


def test_free_fall():
    solid = body(mechanism(LINKS), jnp.ones(4), np.zeros((1, 4)))
    motion = Motion(jnp.zeros(6), jnp.array([3.0, 2.0, 0.0, 0.0, 0.0, 0.0]))
    end, _ = run_physics(solid, motion, no_push, seconds=1.0, dt=1e-3)
    np.testing.assert_allclose(end.position[:2], [3.0, 2.0 - GRAVITY / 2], atol=0.006)  # ½ g t dt: of first order
    np.testing.assert_allclose(end.position[2:], 0, atol=1e-5)


def test_period_of_a_pendulum(float64):
    rod = mechanism([Link(0.7, 1.3)], is_anchored=True)
    solid = body(rod, jnp.ones(1), np.zeros((1, 1)))
    motion = Motion(jnp.array([-math.pi / 2 + 0.01]), jnp.zeros(1))
    _, path = run_physics(solid, motion, no_push, seconds=4.0, dt=1e-4)
    aside = np.asarray(path.position[:, 0]) + math.pi / 2
    crossings = np.flatnonzero((aside[1:] < 0) != (aside[:-1] < 0)) * 1e-4
    np.testing.assert_allclose(np.diff(crossings).mean(), math.pi * math.sqrt(2 * 0.7 / (3 * GRAVITY)), rtol=1e-3)


def test_damping_is_stable_at_any_step():
    shape = mechanism(LINKS)
    solid = body(shape, jnp.ones(4), shape.starts)
    hinges = Hinges(np.zeros(3), -10 * np.ones(3), 10 * np.ones(3), 0.0, np.full(3, 1e5))
    motion = Motion(jnp.zeros(6), jnp.arange(6.0))
    end, path = run_physics(solid, motion, lambda m: at_hinges(shape, hinges, m, jnp.zeros(3)), seconds=5.0, dt=0.1)
    spin = np.asarray(end.velocity[2:])
    assert np.isfinite(np.asarray(path.velocity)).all()
    np.testing.assert_allclose(spin, spin.mean(), atol=0.02)  # one rigid body


# ---- what acts on them


def plank(friction, velocity, push=0.0, mass=2.0):
    """A plank on the ground, 1 m long, that touches it at both ends; its motion over a second in steps of 1 ms."""
    shape = mechanism([Link(1.0, mass)])
    solid = body(shape, jnp.ones(1), np.stack([lever(shape, 0, 0.0), lever(shape, 0, 1.0)]))
    depth = mass * GRAVITY / (2 * GROUND_STIFFNESS)
    motion = Motion(jnp.array([0.0, -depth, 0.0]), jnp.array([velocity, 0.0, 0.0]))

    def acting(motion):
        ground = from_ground(solid, motion, jnp.asarray(friction, motion.position.dtype))
        return ground._replace(force=ground.force + jnp.array([push, 0.0, 0.0]))

    return run_physics(solid, motion, acting, seconds=2.0, dt=1e-3)


def test_a_body_rests_on_the_ground(float64):
    end, path = plank(0.5, 0.0)
    np.testing.assert_allclose(end.position, [0.0, -2.0 * GRAVITY / (2 * GROUND_STIFFNESS), 0.0], atol=1e-9)
    assert abs(path.velocity).max() < 1e-9


@pytest.mark.parametrize("share", [0.3, 0.8])
def test_static_friction_holds_but_for_a_creep(share, float64):
    end, _ = plank(0.5, 0.0, push=share * 0.5 * 2.0 * GRAVITY)
    # μ N v / √(v² + s²) = push
    np.testing.assert_allclose(end.velocity[0], SLIP * share / math.sqrt(1 - share**2), rtol=0.02)


def test_more_than_static_friction_slides(float64):
    end, _ = plank(0.5, 0.0, push=1.5 * 0.5 * 2.0 * GRAVITY)
    np.testing.assert_allclose(end.velocity[0], 2.0 * 0.5 * 0.5 * GRAVITY, rtol=0.02)  # t (push / m − μ g)


@pytest.mark.parametrize("friction", [0.2, 0.8])
def test_a_sliding_body_stops_after_v_squared_over_two_mu_g(friction, float64):
    end, _ = plank(friction, 2.0)
    np.testing.assert_allclose(end.position[0], 2.0**2 / (2 * friction * GRAVITY), rtol=0.03)
    assert abs(end.velocity[0]) < 1e-3


def test_no_friction_on_ice_and_never_a_pull(float64):
    end, _ = plank(0.0, 2.0)
    np.testing.assert_allclose(end.velocity[0], 2.0, rtol=1e-9)
    shape = mechanism([Link(1.0, 2.0)])
    solid = body(shape, jnp.ones(1), lever(shape, 0, 0.5)[None])
    for height, rising in [(0.01, -1.0), (0.01, 1.0), (-0.01, 5.0)]:  # above the ground, or leaving it fast
        motion = Motion(jnp.array([0.0, height, 0.0]), jnp.array([1.0, rising, 0.0]))
        push = from_ground(solid, motion, jnp.array(0.5))
        np.testing.assert_array_equal(push.force - push.damping @ motion.velocity, 0)


def test_water_drags_along_less_than_across(float64):
    shape = mechanism([Link(0.6, 2.0)])
    gauss = np.stack([lever(shape, 0, 0.5 + side / math.sqrt(3)) for side in (-0.5, 0.5)])
    solid, angle = body(shape, jnp.ones(1), gauss), 0.7
    along = jnp.array([math.cos(angle), math.sin(angle), 0.0])
    across = jnp.array([-math.sin(angle), math.cos(angle), 0.0])
    drag = lambda m: from_water(solid, m, np.array([0, 0]), jnp.array(0.5), jnp.array(4.0))
    for direction, rate in [(along, 2 * 0.5 / 2.0), (across, 2 * 4.0 / 2.0)]:
        motion = Motion(jnp.array([0.0, 0.0, angle]), direction)
        end, _ = run_physics(solid, motion, drag, seconds=0.5, dt=1e-4, gravity=0.0)
        np.testing.assert_allclose(end.velocity, direction * math.exp(-rate * 0.5), atol=1e-3)
    # ∫ (c/l) s² ds over the link: c l² / 12, with c = 2 · 4
    np.testing.assert_allclose(drag(motion).damping[2, 2], 8.0 * 0.6**2 / 12)


def test_hinges_stop_at_their_range():
    two = mechanism([Link(1.0, 1.0), Link(0.5, 0.5, parent=0)])
    hinges, solid = (
        Hinges(np.zeros(1), -np.ones(1), np.ones(1), 0.0, np.full(1, 0.1)),
        body(two, jnp.ones(2), two.starts),
    )
    acting = lambda m: at_hinges(two, hinges, m, jnp.array([3.0]))
    end, _ = run_physics(solid, Motion(jnp.zeros(4), jnp.zeros(4)), acting, seconds=3.0, dt=5e-3, gravity=0.0)
    np.testing.assert_allclose(bending(two, hinges, end.position), 1 + 3.0 / LIMIT_STIFFNESS, atol=2e-3)


def test_impossible_mechanisms_are_refused():
    with pytest.raises(ValueError, match="link 1 has parent=1"):
        mechanism([Link(1.0, 1.0), Link(1.0, 1.0, parent=1)])
    with pytest.raises(ValueError, match="positive length and mass"):
        mechanism([Link(1.0, 0.0)])
