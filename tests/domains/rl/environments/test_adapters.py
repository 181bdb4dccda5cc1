"""Navix and XLand-MiniGrid as environments: shapes, rewards, ends, and that the task is what stays.

Their code broadcasts ranks and is compiled with their own keys, so it runs here as its users run it.
"""

import builtins
import doctest
import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jmeta import models
from jmeta.domains.rl.environments.from_navix import LayoutParams, from_navix
from jmeta.domains.rl.environments.from_xland_minigrid import from_xland_minigrid, hidden_goal_benchmark
from jmeta.domains.rl.policies import actor_critic
from jmeta.domains.rl.rollouts import init_policy, run_episode

HINT = "is not installed: pip install 'jmeta[environments,navix]'"
FORWARD, PICK_UP = 0, 3  # of XLand-MiniGrid


@pytest.fixture(autouse=True)
def ranks_may_broadcast():
    with jax.numpy_rank_promotion("allow"):
        yield


@pytest.fixture
def navix():
    return pytest.importorskip("navix", reason=f"Navix {HINT}")


@pytest.fixture
def xminigrid():
    return pytest.importorskip("xminigrid", reason=f"XLand-MiniGrid {HINT}")


def wander(env, params, num_steps, key):
    """Every step of a random policy: `(states, observations, rewards, terminated, truncated, final observations)`."""
    key_reset, key_steps = jax.random.split(key)
    observation, state = env.reset(key_reset, params)

    def one_step(state, key):
        key_action, key_step = jax.random.split(key)
        action = env.action_space(params).sample(key_action)
        observation, after, reward, terminated, truncated, info = env.step(key_step, state, action, params)
        return after, (after, observation, reward, terminated, truncated, info["final_observation"])

    _, seen = jax.lax.scan(one_step, state, jax.random.split(key_steps, num_steps))
    return observation, *seen


def assert_runs_under_our_policies(env, sample, num_steps):
    """Two tasks at once, by a policy with memory; every observation is an element of the space."""
    policy = actor_critic(models.gru(4), env)
    run = jax.jit(jax.vmap(run_episode(env, policy, num_steps=num_steps), (None, 0, 0)))
    tasks = jax.vmap(sample)(jax.random.split(jax.random.key(0), 2))
    params = init_policy(env, policy)(jax.random.key(1))
    experience = run(params, tasks, jax.random.split(jax.random.key(2), 2))
    space = env.observation_space(env.default_params)
    assert experience.inputs.observation.shape == (2, num_steps, *space.shape)
    assert experience.inputs.observation.dtype == space.dtype
    assert bool(space.contains(experience.inputs.observation))
    assert experience.reward.shape == experience.is_over.shape == (2, num_steps)
    assert experience.reward.dtype == jnp.float32
    assert set(np.unique(experience.action)) <= set(range(env.action_space(env.default_params).n))
    np.testing.assert_array_equal(experience.inputs.reward[:, 1:], experience.reward[:, :-1])
    return experience


def assert_cells_are_one_hot(observation, sizes):
    for part in np.split(np.asarray(observation), np.cumsum(sizes)[:-1], -1):
        assert set(np.unique(part)) <= {0.0, 1.0}
        assert (part.sum(-1) <= 1).all()
    assert (np.asarray(observation)[..., : sizes[0]].sum(-1) == 1).all()  # something is in every cell


def test_layouts_of_navix_stay_within_a_task_and_rollouts_end(navix, key):
    env, _ = from_navix("Navix-Empty-Random-5x5-v0", num_steps=8, is_first_person=False)
    episode = jax.jit(lambda params, key: wander(env, params, 100, key))
    starts = []
    for layout in (3, 3, 4):
        start, _, observations, rewards, terminated, truncated, _ = episode(LayoutParams(jnp.int32(layout)), key)
        is_over = terminated | truncated
        assert_cells_are_one_hot(observations, (11, 6, 4))
        np.testing.assert_array_equal(observations[is_over], np.broadcast_to(start, observations[is_over].shape))
        np.testing.assert_array_equal(rewards > 0, terminated)  # paid where the goal is reached
        starts.append(np.asarray(start))
        key = jax.random.split(key)[0]
    assert np.array_equal(starts[0], starts[1])
    assert not np.array_equal(starts[0], starts[2])


def test_time_limit_of_navix(navix, key):
    env, _ = from_navix("Navix-DoorKey-Random-5x5-v0", num_steps=6)
    _, _, _, rewards, terminated, truncated, _ = jax.jit(lambda key: wander(env, env.default_params, 12, key))(key)
    assert not terminated.any()  # not in six random steps
    np.testing.assert_array_equal(truncated, [False, False, False, False, False, True] * 2)
    np.testing.assert_array_equal(rewards, 0)


def test_what_navix_shows_at_the_end_is_the_goal_and_not_the_next_start(navix):
    """An agent in a corner of 3x3 free cells, looking along the wall; the goal is in the opposite corner."""
    env, sample = from_navix("Navix-Empty-5x5-v0", is_first_person=False)
    params = sample(jax.random.key(0))
    _, state = env.reset(jax.random.key(0), params)
    one_step = jax.jit(env.step)
    turn_right, forward = 1, 2
    for action in (forward, forward, turn_right, forward, forward):
        observation, state, reward, terminated, truncated, info = one_step(
            jax.random.key(1), state, jnp.int32(action), params
        )
    assert terminated
    assert not truncated
    assert reward == 1
    player = lambda observation: np.argwhere(np.asarray(observation)[..., 10]).tolist()
    assert player(info["final_observation"]) in ([[3, 3]], [])  # on the goal, drawn above or below it
    assert player(observation) == [[1, 1]]
    assert state.t == 0


def test_what_moves_by_itself_in_navix_moves_by_the_key_of_the_step(navix):
    env, _ = from_navix("Navix-Dynamic-Obstacles-6x6-v0", is_first_person=False)
    _, state = env.reset(jax.random.key(0), env.default_params)
    after = jax.jit(jax.vmap(lambda key: env.step(key, state, jnp.int32(0), env.default_params)[0]))
    observations = after(jax.random.split(jax.random.key(1), 8))
    assert len(np.unique(np.asarray(observations).reshape(8, -1), axis=0)) > 2


@pytest.mark.parametrize("name", ["Navix-DoorKey-Random-5x5-v0", "Navix-GoToDoor-5x5-v0", "Navix-FourRooms-v0"])
def test_navix_runs_under_our_policies(navix, name):
    env, sample = from_navix(name, num_steps=5)
    experience = assert_runs_under_our_policies(env, sample, num_steps=12)
    assert experience.inputs.observation.shape[2:] == (7, 7, 21)
    assert experience.is_over.any(1).all()


def test_layouts_of_navix_are_drawn_from_their_range(navix):
    _, sample = from_navix("Navix-Empty-Random-5x5-v0", layouts=(7, 10))
    drawn = jax.vmap(sample)(jax.random.split(jax.random.key(0), 300)).layout
    np.testing.assert_array_equal(np.unique(drawn), [7, 8, 9])


def test_mistakes_with_navix_are_refused(navix):
    with pytest.raises(ValueError, match="'Navix-Full' is none of Navix's environments: Navix-DistShift1-v0"):
        from_navix("Navix-Full")
    with pytest.raises(ValueError, match=r"layouts=\(3, 3\) is an empty range"):
        from_navix("Navix-Empty-5x5-v0", layouts=(3, 3))
    with pytest.raises(ValueError, match="num_steps=0"):
        from_navix("Navix-Empty-5x5-v0", num_steps=0)


def world(xminigrid, num_steps=30, num_rulesets=50, num_objects=3):
    benchmark = hidden_goal_benchmark(num_rulesets, num_objects, jax.random.key(0))
    return benchmark, *from_xland_minigrid("XLand-MiniGrid-R1-9x9", benchmark, num_steps=num_steps)


def test_rulesets_name_one_of_their_objects(xminigrid):
    benchmark, *_ = world(xminigrid, num_rulesets=400)
    assert benchmark.num_rulesets() == 400
    assert benchmark.goals.dtype == benchmark.rules.dtype == benchmark.init_tiles.dtype == jnp.uint8
    objects = np.asarray(benchmark.init_tiles, int)
    np.testing.assert_array_equal(benchmark.goals[:, 1:3], objects[:, 0])
    codes = 12 * objects[..., 0] + objects[..., 1]
    assert all(len(set(row)) == 3 for row in codes.tolist())
    assert objects[..., 1].min() > 0  # a colour
    to_hold = np.asarray(benchmark.goals[:, 0]) == 1
    assert set(np.unique(benchmark.goals[:, 0])) == {1, 3}  # hold, stand beside
    assert 0.4 < to_hold.mean() < 0.6


def test_rulesets_of_xland_stay_within_a_task_and_places_do_not(xminigrid):
    _, env, sample = world(xminigrid)
    params = sample(jax.random.key(1))
    reset = jax.jit(jax.vmap(lambda key: env.reset(key, params)[1].state))
    states = reset(jax.random.split(jax.random.key(2), 5))
    assert len(np.unique(states.grid.reshape(5, -1), axis=0)) == 5
    for grid in np.asarray(states.grid):
        assert all((grid == tile).all(-1).sum() == 1 for tile in np.asarray(params.ruleset.init_tiles))
    np.testing.assert_array_equal(states.goal_encoding, np.broadcast_to(params.ruleset.goal, (5, 5)))


def test_rollouts_of_xland_end_at_the_goal_or_by_time(xminigrid, key):
    _, env, sample = world(xminigrid, num_steps=30)
    episode = jax.jit(jax.vmap(lambda task, key: wander(env, sample(task), 300, key)))
    keys = jax.random.split(key, 8)
    _, timesteps, observations, rewards, terminated, truncated, _ = episode(keys, keys)
    assert_cells_are_one_hot(observations, (13, 12))
    assert terminated.any()
    assert truncated.any()
    time = np.asarray(timesteps.state.step_num)
    before = np.concatenate([np.zeros((8, 1), int), time[:, :-1]], 1)
    is_over = np.asarray(terminated | truncated)
    np.testing.assert_array_equal(time, np.where(is_over, 0, before + 1))
    np.testing.assert_array_equal(truncated, before + 1 == 30)
    np.testing.assert_allclose(rewards, np.where(terminated, 1 - 0.9 * (before + 1) / 30, 0), rtol=1e-5)


def test_a_goal_of_xland_is_reached_by_doing_what_it_says(xminigrid):
    """An object in front of the agent: picked up, it pays in the tasks that want it held, and in no other."""
    benchmark, env, _ = world(xminigrid, num_rulesets=20, num_objects=2)
    reset, one_step, paid = jax.jit(env.reset), jax.jit(env.step), {}
    for number in range(20):
        params = env.default_params._replace(ruleset=benchmark.get_ruleset(number))
        timestep = reset(jax.random.key(number), params)[1]
        for which in (0, 1):
            grid = timestep.state.grid.at[1:8, 1:8].set(jnp.array([1, 7], jnp.uint8))  # bare floor
            grid = grid.at[3, 4].set(params.ruleset.init_tiles[which])
            agent = timestep.state.agent.replace(position=jnp.array([4, 4]), direction=jnp.array(0))  # looking up
            there = timestep.replace(state=timestep.state.replace(grid=grid, agent=agent))
            after = one_step(jax.random.key(0), there, jnp.int32(PICK_UP), params)
            paid.setdefault((int(params.ruleset.goal[0]), which), set()).add(bool(after[3]))
    assert paid == {(1, 0): {True}, (1, 1): {False}, (3, 0): {False}, (3, 1): {False}}


def test_xland_runs_under_our_policies(xminigrid):
    benchmark = hidden_goal_benchmark(20, 3, jax.random.key(0))
    env, sample = from_xland_minigrid("XLand-MiniGrid-R4-9x9", benchmark, num_steps=5)
    experience = assert_runs_under_our_policies(env, sample, num_steps=12)
    assert experience.inputs.observation.shape[2:] == (5, 5, 25)
    assert experience.is_over.any(1).all()


def test_benchmarks_are_read_from_files(xminigrid, tmp_path):
    """As the published ones are stored; the sampler carries the rulesets through compiled functions as arguments."""
    from xminigrid import benchmarks

    made = hidden_goal_benchmark(20, 3, jax.random.key(0))
    path = str(tmp_path / "rulesets")
    benchmarks.save_bz2_pickle({name: np.asarray(getattr(made, name)) for name in made.__dataclass_fields__}, path)
    env, sample = from_xland_minigrid("XLand-MiniGrid-R1-9x9", benchmarks.load_benchmark_from_path(path))
    draw = jax.jit(lambda sample, keys: jax.vmap(sample)(keys))
    drawn = draw(sample, jax.random.split(jax.random.key(0), 200)).ruleset
    known = {tuple(row) for row in np.asarray(made.init_tiles).reshape(20, -1).tolist()}
    assert {tuple(row) for row in np.asarray(drawn.init_tiles).reshape(200, -1).tolist()} == known
    shapes = lambda tree: jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), tree)
    assert shapes(sample(jax.random.key(1))) == shapes(env.default_params)


def test_mistakes_with_xland_are_refused(xminigrid):
    benchmark = hidden_goal_benchmark(2, 3, jax.random.key(0))
    with pytest.raises(ValueError, match="'MiniGrid-Empty-5x5' is none of the environments with rulesets: XLand-"):
        from_xland_minigrid("MiniGrid-Empty-5x5", benchmark)
    with pytest.raises(ValueError, match="num_steps=0"):
        from_xland_minigrid("XLand-MiniGrid-R1-9x9", benchmark, num_steps=0)
    with pytest.raises(ValueError, match="num_rulesets=0"):
        hidden_goal_benchmark(0, 3, jax.random.key(0))
    with pytest.raises(ValueError, match="num_objects=1000, but there are 66 different ones"):
        hidden_goal_benchmark(1, 1000, jax.random.key(0))


@pytest.mark.parametrize(("adapter", "package"), [("from_navix", "navix"), ("from_xland_minigrid", "xminigrid")])
def test_examples_of_the_docstrings_run_where_the_package_is(adapter, package):
    """They are skipped elsewhere, where it may be missing."""
    pytest.importorskip(package, reason=f"{package} {HINT}")
    module = importlib.import_module(f"jmeta.domains.rl.environments.{adapter}")
    tests = [test for test in doctest.DocTestFinder().find(module) if test.examples]
    assert tests
    for test in tests:
        for example in test.examples:
            example.options.clear()
        assert doctest.DocTestRunner(verbose=False).run(test).failed == 0


def test_without_the_packages_the_extra_is_named(monkeypatch):
    real_import = builtins.__import__

    def without(name, *args, **kwargs):
        if name.split(".")[0] in ("navix", "xminigrid"):
            raise ModuleNotFoundError(name)
        return real_import(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    for extra, call in (
        ("navix", lambda: from_navix("Navix-Empty-5x5-v0")),
        ("environments", lambda: from_xland_minigrid("XLand-MiniGrid-R1-9x9", None)),
        ("environments", lambda: hidden_goal_benchmark(1, 1, jax.random.key(0))),
    ):
        with pytest.raises(ImportError, match=rf'pip install "jmeta\[{extra}\]"'):
            call()
