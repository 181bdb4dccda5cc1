"""A fixed set of tasks: all of them come, equally often, and no others."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jmeta import tasks

WAVES = tasks.sinusoid(num_shots=2, num_queries=3)


def test_the_tasks_of_the_set_come_equally_often_and_whole():
    key = jax.random.key(0)
    drawn = jax.jit(tasks.stacked(tasks.finite(WAVES, 4, key), 400))(jax.random.key(1))
    expected = jax.vmap(WAVES)(jax.random.split(key, 4))
    which = jnp.isclose(drawn.support.x[:, None], expected.support.x[None], rtol=1e-5).all((2, 3))
    counts = np.asarray(which).sum(0)
    assert counts.sum() == 400
    assert (abs(counts - 100) < 4 * np.sqrt(75)).all()
    chosen = np.asarray(which).argmax(1)
    jax.tree.map(lambda got, of_set: np.testing.assert_allclose(got, of_set[chosen], rtol=1e-5), drawn, expected)


def test_a_set_of_nothing_is_refused():
    with pytest.raises(ValueError, match="num_tasks=0"):
        tasks.finite(WAVES, 0, jax.random.key(0))
