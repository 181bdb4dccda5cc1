"""Robots that the recipes train and test on: the words and the bodies of both."""

import jax
import numpy as np
import pytest

from jmeta.domains.rl.environments.robots import splits


def test_a_crawler_is_tested_on_bodies_that_training_does_not_have():
    _, source = splits.environment_and_source("crawler", num_rollouts=3)
    sample = jax.jit(jax.vmap(source.meta_train()))
    drawn = sample(jax.random.split(jax.random.key(0), 200))
    tested = jax.jit(jax.vmap(source.meta_test))(jax.random.split(jax.random.key(1), 200))
    assert float(drawn.mass.max()) <= float(tested.mass.min())
    assert float(tested.friction.max()) <= float(drawn.friction.min())
    dead = lambda params: set(np.unique(np.argwhere(np.asarray(params.motor_strength) == 0)[:, 1]).tolist())
    assert dead(drawn).isdisjoint(dead(tested))
    assert source.meta_valid == source.meta_train()


@pytest.mark.parametrize("name", splits.ROBOTS)
def test_words_say_which_bodies_are_tested_on(name):
    _, source = splits.environment_and_source(name, num_rollouts=3)
    kind = f"{name}, 3 rollouts of 50 steps"
    outside = splits.ROBOTS[name].outside
    assert source.name == kind
    assert source.describe(10) == f"{kind}, bodies outside of training's ranges ({outside}), 10 tasks"
    assert source.describe_valid is not None
    assert source.describe_valid(10) == f"{kind}, 10 tasks"
    _, alike = splits.environment_and_source(name, num_rollouts=3, tested_on="trained")
    assert alike.meta_test == alike.meta_train()
    assert alike.describe(10) == f"{kind}, 10 tasks"
