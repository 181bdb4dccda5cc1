"""The maze: where one can walk, what is seen, what is paid, and where one finds oneself after the reward."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jmeta.domains.rl.environments.meta_maze import MazeParams, MazeState, meta_maze

UP, DOWN, LEFT, RIGHT = range(4)
MAP = """
#######
#.....#
#.#.#.#
#.....#
#.#.#.#
#.....#
#######
"""  # size 5: its centre, the third dot of the third row of dots, is free of itself
FREE = np.array([[cell == "." for cell in row] for row in MAP.split()])


def at(row, column, time=0):
    return MazeState(jnp.array([row, column], jnp.int32), jnp.int32(time))


def step(env, state, action, goal=(4, 4), key=0):
    params = MazeParams(jnp.array(goal, jnp.int32))
    return env.step(jax.random.key(key), state, jnp.int32(action), params)


def test_every_move_from_every_cell_is_that_of_the_map():
    env, _ = meta_maze(size=5)
    one_step = jax.jit(lambda state, action: env.step(jax.random.key(0), state, action, MazeParams(jnp.array([9, 9]))))
    for row, column in np.argwhere(FREE) - 1:
        for action, (down, right) in enumerate([(-1, 0), (1, 0), (0, -1), (0, 1)]):
            target = (row + down, column + right)
            expected = target if FREE[target[0] + 1, target[1] + 1] else (row, column)
            observation, state, reward, *_ = one_step(at(row, column), jnp.int32(action))
            assert tuple(state.position.tolist()) == expected
            seen = ~FREE[expected[0] : expected[0] + 3, expected[1] : expected[1] + 3]
            np.testing.assert_array_equal(observation, seen)
            assert reward == 0


def test_rollouts_start_in_the_centre_and_do_not_show_the_goal():
    env, sample = meta_maze(size=5)
    for seed in range(3):
        observation, state = env.reset(jax.random.key(seed), sample(jax.random.key(seed)))
        assert state.position.tolist() == [2, 2]
        np.testing.assert_array_equal(observation, [[1, 0, 1], [0, 0, 0], [1, 0, 1]])


@pytest.mark.parametrize("size", [3, 5, 7, 9, 11])
def test_pillars_stand_where_both_coordinates_are_odd_but_in_the_centre(size):
    """Walking up from every free cell below the first row, one is stopped by pillars alone."""
    env, _ = meta_maze(size=size)
    is_pillar = (np.arange(size)[:, None] % 2 == 1) & (np.arange(size)[None] % 2 == 1)
    is_pillar[size // 2, size // 2] = False
    cells = np.argwhere(~is_pillar)
    cells = cells[cells[:, 0] > 0].astype(np.int32)
    nowhere = MazeParams(jnp.array([99, 99]))
    walk_up = lambda cell: (
        env.step(jax.random.key(0), MazeState(cell, jnp.int32(0)), jnp.int32(UP), nowhere)[1].position
    )
    is_stopped = is_pillar[cells[:, 0] - 1, cells[:, 1]]
    expected = cells - np.array([[1, 0]]) * ~is_stopped[:, None]
    np.testing.assert_array_equal(jax.jit(jax.vmap(walk_up))(cells), expected)


def test_the_goal_pays_and_moves_the_agent_elsewhere():
    env, _ = meta_maze(size=5, reward=10.0, wall_penalty=0.5)
    observation, state, reward, terminated, truncated, _ = step(env, at(4, 3), RIGHT)
    assert reward == 10
    assert not terminated | truncated
    assert state.position.tolist() != [4, 4]
    row, column = state.position.tolist()
    np.testing.assert_array_equal(observation, ~FREE[row : row + 3, column : column + 3])
    assert int(state.time) == 1
    assert step(env, at(4, 3), LEFT)[2] == 0
    assert step(env, at(4, 3), DOWN)[2] == -0.5
    assert step(env, at(4, 3), UP)[2] == -0.5  # a pillar
    assert step(meta_maze(size=5)[0], at(4, 3), DOWN)[2] == 0


@pytest.mark.parametrize("goal", [(0, 0), (2, 3), (4, 4)])
def test_after_the_goal_one_is_in_any_other_free_cell_all_alike(goal):
    env, _ = meta_maze(size=5)
    row, column = goal
    state, action = (at(row, column - 1), RIGHT) if column else (at(row, column + 1), LEFT)
    move = lambda key: env.step(key, state, jnp.int32(action), MazeParams(jnp.array(goal)))[1].position
    positions = np.asarray(jax.jit(jax.vmap(move))(jax.random.split(jax.random.key(0), 8000)))
    cells, counts = np.unique(positions, axis=0, return_counts=True)
    expected = [cell for cell in (np.argwhere(FREE) - 1).tolist() if tuple(cell) != goal]
    assert cells.tolist() == expected
    np.testing.assert_allclose(counts / 8000, 1 / len(expected), atol=0.009)  # four standard errors of 1/20


def test_goals_are_any_free_cell_but_the_centre_all_alike():
    _, sample = meta_maze(size=5)
    goals = np.asarray(jax.jit(jax.vmap(sample))(jax.random.split(jax.random.key(0), 8000)).goal)
    cells, counts = np.unique(goals, axis=0, return_counts=True)
    expected = [cell for cell in (np.argwhere(FREE) - 1).tolist() if cell != [2, 2]]
    assert cells.tolist() == expected
    np.testing.assert_allclose(counts / 8000, 1 / len(expected), atol=0.009)


def test_a_rollout_ends_by_time_alone_and_the_next_one_starts_in_the_centre():
    env, _ = meta_maze(size=5, num_steps=3)
    state, truncations = env.reset(jax.random.key(0), MazeParams(jnp.array([0, 0])))[1], []
    for action in (UP, LEFT, RIGHT, UP):
        observation, state, _, terminated, truncated, info = step(env, state, action)
        assert not terminated
        truncations.append(bool(truncated))
        if truncated:
            assert state.position.tolist() == [2, 2]
            np.testing.assert_array_equal(info["final_observation"], [[0, 0, 0], [1, 0, 1], [0, 0, 0]])
            np.testing.assert_array_equal(observation, [[1, 0, 1], [0, 0, 0], [1, 0, 1]])
    assert truncations == [False, False, True, False]
    assert (state.position.tolist(), int(state.time)) == ([1, 2], 1)


def test_who_knows_the_way_is_paid_more_than_who_wanders():
    """A policy that sees the map walks to the goal by the shortest way; the reward per step tells the distances."""
    env, sample = meta_maze(size=5, num_steps=50)
    params = sample(jax.random.key(3))
    distances = _distances(FREE[1:-1, 1:-1], tuple(params.goal.tolist()))

    def towards_goal(state):
        targets = state.position[None] + jnp.array([[-1, 0], [1, 0], [0, -1], [0, 1]])
        inside = ((targets >= 0) & (targets < 5)).all(1)
        clipped = jnp.clip(targets, 0, 4)
        return jnp.where(inside, jnp.asarray(distances)[clipped[:, 0], clipped[:, 1]], 99).argmin()

    def run(policy, key):
        def one_step(state, key):
            key_policy, key_step = jax.random.split(key)
            _, state, reward, *_ = env.step(key_step, state, policy(state, key_policy), params)
            return state, reward

        return jax.lax.scan(one_step, env.reset(key, params)[1], jax.random.split(key, 500))[1].mean()

    knows = jax.jit(lambda key: run(lambda state, _: towards_goal(state), key))(jax.random.key(0))
    wanders = jax.jit(lambda key: run(lambda _, key: jax.random.randint(key, (), 0, 4), key))(jax.random.key(0))
    others = distances[(distances > 0) & (distances < 99)]
    np.testing.assert_allclose(knows, 10 / others.mean(), rtol=0.15)  # from a random cell to the goal, again and again
    assert wanders < knows / 4


def _distances(free, goal):
    """Steps to the goal from each cell, breadth first; 99 for pillars."""
    distances = np.where(free, 98, 99).astype(np.int32)
    distances[goal] = 0
    frontier = [goal]
    for row, column in frontier:
        for target in ((row - 1, column), (row + 1, column), (row, column - 1), (row, column + 1)):
            if min(target) >= 0 and max(target) < len(free) and distances[target] == 98:
                distances[target] = distances[row, column] + 1
                frontier.append(target)
    return distances


def test_strict_types_and_batches():
    env, sample = meta_maze(size=5)
    with jax.numpy_dtype_promotion("strict"):
        params = jax.vmap(sample)(jax.random.split(jax.random.key(0), 3))
        _, states = jax.vmap(env.reset, (None, 0))(jax.random.key(0), params)
        actions, keys = jnp.array([UP, LEFT, RIGHT]), jax.random.split(jax.random.key(1), 3)
        observations, after, rewards, *_ = jax.vmap(env.step)(keys, states, actions, params)
    assert observations.dtype == rewards.dtype == jnp.float32
    assert [leaf.dtype for leaf in states] == [leaf.dtype for leaf in after]
    np.testing.assert_array_equal(after.position, [[1, 2], [2, 1], [2, 3]])


def test_mistakes_are_refused():
    for size in (4, 1):
        with pytest.raises(ValueError, match=f"size={size}; expected an odd number of at least 3"):
            meta_maze(size=size)
    with pytest.raises(ValueError, match="num_steps=0"):
        meta_maze(num_steps=0)
