"""Pictures of robots: every robot can be filmed, and what is shown is a task worth seeing."""

import jax
import numpy as np
import pytest
from PIL import Image

from experiments import robot_pictures
from experiments.robot_pictures import Curve
from jmeta import models
from jmeta.domains.rl import environments, policies, rollouts
from jmeta.domains.rl.environments.robots.splits import NUM_STEPS, ROBOTS, environment_and_source


def robot_and_params(name):
    """`(environment, sampler of bodies to be tested on, policy, params)`; the policy sees the present alone."""
    environment, source = environment_and_source(name, num_rollouts=2)
    num_features = environments.num_features(environment.observation_space(environment.default_params))
    policy = policies.actor_critic(models.forgetful(models.mlp((4,)), num_features=num_features), environment)
    return environment, source.meta_test, policy, rollouts.init_policy(environment, policy)(jax.random.key(0))


@pytest.mark.parametrize("name", ROBOTS)
def test_an_episode_of_every_robot_becomes_a_film(name, tmp_path, monkeypatch):
    monkeypatch.setattr(robot_pictures, "NUM_STEPS", 3)
    (environment, sample, policy, params), design = robot_and_params(name), ROBOTS[name].design
    task = robot_pictures.interesting(design, sample, jax.random.key(1))
    film = robot_pictures.filmed(environment, design, policy, params, task, 6)
    lengths = np.linalg.norm(film.ends[:, :, 1] - film.ends[:, :, 0], axis=-1)
    np.testing.assert_allclose(lengths, np.broadcast_to(design.shape.lengths, lengths.shape), rtol=1e-4)
    robot_pictures.animate(tmp_path / "film.gif", film, design, task, num_rollouts=2)
    with Image.open(tmp_path / "film.gif") as animation:
        assert getattr(animation, "n_frames", 1) == 3


def test_an_episode_is_filmed_as_it_is_run():
    (environment, sample, policy, params), design = robot_and_params("crawler"), ROBOTS["crawler"].design
    task = sample(jax.random.key(1))
    film = robot_pictures.filmed(environment, design, policy, params, task, NUM_STEPS)
    assert film.reward.shape == (NUM_STEPS,)
    before, after = film.centre[:-1, 0], film.centre[1:, 0]
    moved = (after - before) / design.dt * np.sign(float(task.goal))
    assert np.corrcoef(moved, film.reward[:-1])[0, 1] > 0.9  # its reward is the velocity towards the goal


@pytest.mark.parametrize("name", ["crawler", "eel"])
def test_what_is_shown_goes_left_and_is_damaged(name):
    _, source = environment_and_source(name, num_rollouts=1)
    task = robot_pictures.interesting(ROBOTS[name].design, source.meta_test, jax.random.key(3))
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
