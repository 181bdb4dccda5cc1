"""Pictures of robots: every robot can be filmed, and what is shown is a task worth seeing."""

import jax
import numpy as np
import pytest
from PIL import Image

from configs import parts
from experiments import acting_by_memory, robot_pictures, worlds
from experiments.robot_pictures import Curve
from experiments.robots import NUM_STEPS, ROBOTS
from jmeta.domains.rl import rollouts


@pytest.mark.parametrize("name", ROBOTS)
def test_an_episode_of_every_robot_becomes_a_film(name, tmp_path, monkeypatch):
    monkeypatch.setattr(robot_pictures, "NUM_STEPS", 3)
    there, design = worlds.world(parts.Robot(name, num_rollouts=2)), ROBOTS[name].design
    policy = acting_by_memory.policy_of(parts.Forgetful((4,)), parts.Rl2(), there)
    params = rollouts.init_policy(there.environment, policy)(jax.random.key(0))
    task = robot_pictures.interesting(design, there.sample_test, jax.random.key(1))
    film = robot_pictures.filmed(there.environment, design, policy, params, task, 6)
    lengths = np.linalg.norm(film.ends[:, :, 1] - film.ends[:, :, 0], axis=-1)
    np.testing.assert_allclose(lengths, np.broadcast_to(design.shape.lengths, lengths.shape), rtol=1e-4)
    robot_pictures.animate(tmp_path / "film.gif", film, design, task, num_rollouts=2)
    with Image.open(tmp_path / "film.gif") as animation:
        assert getattr(animation, "n_frames", 1) == 3


def test_an_episode_is_filmed_as_it_is_run():
    there, design = worlds.world(parts.Robot("crawler", num_rollouts=1)), ROBOTS["crawler"].design
    policy = acting_by_memory.policy_of(parts.Forgetful((4,)), parts.Rl2(), there)
    params = rollouts.init_policy(there.environment, policy)(jax.random.key(0))
    task = there.sample_test(jax.random.key(1))
    film = robot_pictures.filmed(there.environment, design, policy, params, task, NUM_STEPS)
    assert film.reward.shape == (NUM_STEPS,)
    before, after = film.centre[:-1, 0], film.centre[1:, 0]
    moved = (after - before) / design.dt * np.sign(float(task.goal))
    assert np.corrcoef(moved, film.reward[:-1])[0, 1] > 0.9  # its reward is the velocity towards the goal


@pytest.mark.parametrize("name", ["crawler", "eel"])
def test_what_is_shown_goes_left_and_is_damaged(name):
    there = worlds.world(parts.Robot(name))
    task = robot_pictures.interesting(ROBOTS[name].design, there.sample_test, jax.random.key(3))
    assert float(task.goal) == pytest.approx(-1.0 if name == "crawler" else np.pi)
    assert int((task.motor_strength == 0).sum()) == 1
    text = robot_pictures.described(ROBOTS[name].design, task)
    assert "go left" in text
    assert "is dead (red)" in text


def test_curves_that_end_at_different_rollouts_share_a_picture(tmp_path):
    curves = {"short": Curve([0, 1, 2], [0.0, 1.0, 2.0], [0.1] * 3), "long": Curve([0, 2000], [0.0, 3.0], [0.1] * 2)}
    robot_pictures.adaptation_curves(tmp_path / "curves.png", curves, title="two")
    with Image.open(tmp_path / "curves.png") as picture:
        assert picture.width > 800
        assert len(picture.convert("RGB").getcolors(2**24) or []) > 50
