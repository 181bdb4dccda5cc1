"""Numbers within bounds, and factories that ask for them: what a comparison alone would let through."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jmeta import adjoints, evaluation, learners, losses, models, tasks
from jmeta.bounds import is_real, is_whole
from jmeta.domains.rl import baselines, environments, policy_gradients

network = models.mlp([4, 3])


def test_whole_numbers():
    assert all(map(is_whole, (1, 2**70, np.int64(3), np.uint8(1))))
    assert is_whole(0, least=0)
    assert not any(map(is_whole, (0, -1, 1.0, math.nan, math.inf, True, np.True_, None, "3", (1,), np.array([1]))))


def test_finite_numbers():
    assert all(is_real(number) for number in (0, -1.5, np.float32(2), np.array(1.0), jnp.array(1.0)))
    assert not any(is_real(number) for number in (math.nan, math.inf, -math.inf, 10**400, None, "1", [], np.ones(1)))
    assert [is_real(0.0, least=0), is_real(0.0, above=0), is_real(1.0, most=1), is_real(1.1, most=1)] == [1, 0, 1, 0]
    assert jax.jit(lambda x: x if is_real(x, above=5) else x / 0)(1.0) == 1.0  # a traced one is not looked at


@pytest.mark.parametrize(
    ("make", "message"),
    [  # of the annotated types, which tests check before; `experiments.attack` tries others
        (lambda: learners.meta_sgd(network, losses.cross_entropy, num_steps=1, initial_lr=-1.0), "initial_lr=-1.0"),
        (lambda: learners.maml_plus_plus(network, losses.cross_entropy, num_steps=-1, initial_lr=0.1), "num_steps=-1"),
        (lambda: learners.maml(network, losses.cross_entropy, optax.sgd(0.1), num_steps=True), "num_steps=True"),
        (lambda: learners.ridge(network, num_ways=3, initial_alpha=math.nan), "initial_alpha=nan"),
        (lambda: learners.protonet(network, num_ways=True), "num_ways=True"),
        (lambda: learners.protonet(network, num_ways=3, initial_scale=math.inf), "initial_scale=inf"),
        (lambda: learners.ensembled(learners.nearest_mean(num_ways=3), num_samples=True), "num_samples=True"),
        (lambda: learners.svgd(temperature=-1.0), "temperature=-1.0"),
        (lambda: learners.multi_step_weights(jnp.zeros(()), num_steps=0, annealed_until=0.1), "num_steps=0"),
        (lambda: adjoints.conjugate_gradient(damping=math.nan), "damping=nan"),
        (lambda: adjoints.truncated(True), "num_steps=True"),
        (lambda: models.mlp([True]), r"features=\[True\]"),
        (lambda: models.conv4(3, num_filters=True), "num_filters=True"),
        (lambda: tasks.gaussian_blobs(num_ways=2, num_shots=1, num_queries=1, spread=math.nan), "spread=nan"),
        (lambda: tasks.sinusoid(num_shots=1, num_queries=1, amplitude=(1.0, math.nan)), r"amplitude=\(1.0, nan\)"),
        (lambda: environments.gaussian_bandit(2, noise=math.inf), "noise=inf"),
        (lambda: environments.point_navigation(half_width=math.nan), "half_width=nan"),
        (lambda: policy_gradients.ppo_loss(value_weight=math.nan), "value_weight=nan"),
        (lambda: policy_gradients.a2c_loss(entropy_weight=-1.0), "entropy_weight=-1.0"),
        (lambda: baselines.ucb1(2, scale=math.inf), "scale=inf"),
    ],
)
def test_a_number_out_of_bounds_is_refused_by_name(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_the_smallest_level_has_an_interval():
    low, high = evaluation.proportion_interval(np.array([0.5, 1.0]), level=1e-300)
    assert low <= 0.75 <= high
