"""Tasks over devices: the same parameters on one device and on many, in one process and in several."""

import json
import os
import pathlib
import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jmeta
from experiments.benchmarks.collectives import collectives, total_sent
from jmeta import learners, losses, sharding, tasks
from jmeta.sharding import Sharing, isolated
from jmeta.types import MetaTrainer

ROOT = pathlib.Path(__file__).parents[1]
METHODS = ("maml", "protonet", "evolution", "rl2")
ONE = Sharing(sharding.make_mesh({"tasks": 1}))


def results_of(arguments, num_devices, num_processes=1, is_optimized=True):
    """What `tests.sharded_runs` prints, on so many devices of so many processes."""
    environment = {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "NPROC": "8",  # XLA's threads, by which it divides products: as many for one device as for eight
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "0" if is_optimized else "1",
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={num_devices // num_processes}",
    }
    command = [sys.executable, "-m"]
    command += ["jmeta", "launch", "--processes", str(num_processes), "-m"] if num_processes > 1 else []
    command += ["tests.sharded_runs", *arguments]
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=550)
    assert result.returncode == 0, result.stdout + result.stderr
    return json.loads(next(line for line in result.stdout.splitlines() if line.startswith("{")))


def bits(results):
    """By method: those of the parameters, the last loss, and the scores of tasks that they were judged on."""
    return {method: (r["digest"], r["loss"], tuple(r["scores"])) for method, r in results.items()}


def bits_of(methods, results):
    return {method: bits(results)[method] for method in methods}


@pytest.fixture(scope="module")
def on_one_device():
    return results_of(["8", *METHODS], num_devices=1)


@pytest.mark.slow
@pytest.mark.parametrize("num_devices", [2, 4, 8])
def test_fifty_meta_steps_have_the_same_bits_on_any_number_of_devices(on_one_device, num_devices):
    results = results_of(["8", *METHODS], num_devices)
    assert {result["step"] for result in results.values()} == {50}
    assert bits(results) == bits(on_one_device)
    assert len(set(bits(results).values())) == len(METHODS)


@pytest.mark.slow
def test_divided_parameters_have_the_same_bits(on_one_device):
    results = results_of(["8", "--divided", "maml", "rl2"], num_devices=4)
    assert all(result["is_divided"] for result in results.values())
    assert bits(results) == bits_of(("maml", "rl2"), on_one_device)


def test_divided_gradients_are_summed_part_by_part():
    """Without a fixed order: the sum of all, of which no more is sent than a device keeps."""
    code = """
import jax, jax.numpy as jnp, json, jmeta, optax
from jmeta import sharding, training
from jmeta.sharding import placing
placing.LEAST_TO_DIVIDE = 24
shared = sharding.Sharing(sharding.make_mesh({"tasks": 2, "model": 2}))
mean_fn = jmeta.over_tasks(lambda theta, task, key: jax.tree.map(lambda leaf: leaf * task, theta))
theta = {"kernel": jnp.arange(24.0).reshape(4, 6), "odd": jnp.ones((5, 5)), "bias": jnp.arange(3.0)}
shared_mean = jax.jit(shared.mean(mean_fn))
arguments = (shared.place(theta), jnp.arange(8.0), jax.random.key(0))
mean = shared_mean(*arguments)

def bytes_of_a_device(axes):
    shared = sharding.Sharing(sharding.make_mesh(axes))
    grad_fn = jax.value_and_grad(lambda theta, task, key: (jnp.sum(theta * task), {}), has_aux=True)
    trainer = shared.trainer(jmeta.meta_trainer(jmeta.over_tasks(grad_fn), optax.adam(0.1)))
    state = shared.place(trainer.init(jnp.ones((512, 512))))
    step = jax.jit(trainer.update).lower(state, *arguments[1:]).compile()
    training.fed_steps(trainer)(state, arguments[1][None], arguments[2])
    are_donated.append(all(leaf.is_deleted() for leaf in jax.tree.leaves(state)))
    return step.memory_analysis().argument_size_in_bytes

are_donated = []
print(json.dumps({
    "bytes": [bytes_of_a_device({"tasks": 4}), bytes_of_a_device({"tasks": 2, "model": 2})],
    "are_donated": are_donated,
    "is_mean": jax.tree.all(jax.tree.map(lambda a, b: bool((a == 3.5 * b).all()), mean, theta)),
    "specs": {name: str(leaf.sharding.spec) for name, leaf in mean.items()},
    "text": shared_mean.lower(*arguments).compile().as_text(),
}))
"""
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": "--xla_force_host_platform_device_count=4"}
    output = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert output.returncode == 0, output.stderr
    found = json.loads(output.stdout.splitlines()[-1])
    assert found["is_mean"]
    assert found["are_donated"] == [True, True]
    whole_state, divided_state = found["bytes"]
    assert divided_state < 0.51 * whole_state  # parameters and two moments of each
    assert found["specs"] == {"kernel": "P(None, 'model')", "odd": "P()", "bias": "P()"}
    exchanged = [(each.kind, each.num_bytes, each.group) for each in collectives(found["text"])]
    whole, part = 4 * (25 + 3), 4 * 24 // 2
    expected = [("all-gather", 2 * part, 2), ("reduce-scatter", part, 2), ("all-reduce", part, 2)]
    assert sorted(exchanged) == sorted([*expected, ("all-reduce", whole, 4)])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "num_devices", "num_processes"),
    [(("none", "by_sgd"), 8, 1), (("none", "by_sgd", "--divided"), 8, 1), (("none", "by_sgd"), 4, 4)],
    ids=["devices", "divided", "processes"],
)
def test_an_all_reduce_is_the_same_up_to_rounding(arguments, num_devices, num_processes):
    """Without a fixed order, parameters differ as those of two fixed orders do: by the rounding of sums.

    By gradient descent, since Adam does not see the size of a gradient. How rounding grows over fifty steps is measured
    on three orders on one device; ten times the most that any two of them differ by is the tolerance.
    """
    orders = [parameters(results_of([blocks, "by_sgd"], 1)) for blocks in ("2", "8", "16")]
    rounding = max(np.abs(one - other).max() for one in orders for other in orders)
    assert 0 < rounding < 1e-5
    found = results_of(arguments, num_devices, num_processes)
    assert 0 < np.abs(parameters(found) - orders[0]).max() < 10 * rounding
    assert found["by_sgd"]["is_divided"] == ("--divided" in arguments)
    assert np.abs(parameters(found) - np.array(found["by_sgd"]["start"])).max() > 1e4 * rounding, "it has not moved"


def parameters(results):
    return np.array(results["by_sgd"]["parameters"])


def test_devices_and_processes_have_the_bits_of_one():
    """The quickest method, compiled quickly; the others follow."""
    alone, devices, processes = (
        results_of(["8", "maml"], *numbers, is_optimized=False) for numbers in ((1,), (4,), (2, 2))
    )
    assert bits(devices) == bits(processes) == bits(alone)


@pytest.mark.slow
def test_a_meta_step_of_evolution_strategies_has_the_bits_of_one_device():
    """Fully optimized: products of two batches of tasks and perturbations, beside calls of nested `jax.jit`."""
    code = """
import jax
from jmeta import sharding
from tests import sharded_runs

def after_a_step(num_devices):
    shared = sharding.Sharing(jax.sharding.Mesh(jax.devices()[:num_devices], ("tasks",)), 8)
    trainer, meta_params, sample = sharded_runs.METHODS["evolution"]()
    trainer, stacked = shared.trainer(trainer), shared.stacked(sample, 16)
    state, stacked, keys = shared.replicate((trainer.init(meta_params), stacked, jax.random.split(jax.random.key(1))))
    step = jax.jit(lambda state, stacked, keys: trainer.update(state, stacked(keys[0]), keys[1]))
    return jax.tree.leaves(sharding.to_local_device(step(state, stacked, keys)[0].meta_params))

alone, shared = after_a_step(1), after_a_step(2)
assert len(alone) == 4
print(all((one == other).all() for one, other in zip(alone, shared, strict=True)))
"""
    flags = {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": "--xla_force_host_platform_device_count=2", "NPROC": "8"}
    output = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env={**os.environ, **flags}, capture_output=True, text=True
    )
    assert output.stdout.strip() == "True", output.stdout + output.stderr


@pytest.mark.skipif(not hasattr(jax, "Inline"), reason="jax before 0.11 cannot be told to")
def test_blocks_are_compiled_without_calls():
    def block(x):
        return jax.lax.cond(
            x[0] > 0, jax.nn.relu, lambda x: jax.lax.fori_loop(0, 3, lambda _, y: jnp.where(y, y, 1), x), x
        )

    lowered = {
        is_apart: jax.jit(lambda rows, fn=fn: fn(block, rows)).lower(jnp.ones((2, 3))).as_text()
        for is_apart, fn in ((True, isolated.isolated_map), (False, jax.lax.map))
    }
    assert "call @" in lowered[False]
    assert "call @" not in lowered[True]


@pytest.mark.slow
def test_processes_have_the_same_bits():
    """Compiled quickly, as every process compiles all of it."""
    alone = results_of(["8", *METHODS], num_devices=1, is_optimized=False)
    for num_processes in (2, 4):
        results = results_of(["8", *METHODS], 4, num_processes, is_optimized=False)
        assert bits(results) == bits(alone)


@pytest.mark.slow
def test_processes_have_the_same_bits_when_fully_optimized(on_one_device):
    methods = ("evolution", "rl2")
    assert bits(results_of(["8", *methods], num_devices=4, num_processes=2)) == bits_of(methods, on_one_device)


@pytest.mark.slow
def test_nothing_but_the_mean_is_exchanged():
    """No data, no tasks, no perturbations: of evolution strategies, too, the collectives carry one gradient."""
    code = """
import jax, json, sys
from jmeta import sharding
from tests import sharded_runs
shared = sharding.Sharing(sharding.make_mesh({"tasks": 4}), int(sys.argv[1]) or None)
found = {}
for method in ("maml", "evolution"):
    trainer, meta_params, sample = sharded_runs.METHODS[method]()
    trainer, stacked, key = shared.trainer(trainer), shared.stacked(sample, 16), jax.random.key(0)
    step = jax.jit(lambda state, sample, key: trainer.update(state, sample(key), key))
    compiled = step.lower(trainer.init(meta_params), stacked, key).compile()
    found[method] = [compiled.as_text(), sum(leaf.size for leaf in jax.tree.leaves(meta_params))]
print(json.dumps(found))
"""
    flags = {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": "--xla_force_host_platform_device_count=4"}
    flags |= {"JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
    for num_blocks, expected in ((0, {"all-reduce"}), (8, {"all-to-all", "all-gather"})):
        command = [sys.executable, "-c", code, str(num_blocks)]
        output = subprocess.run(command, cwd=ROOT, env={**os.environ, **flags}, capture_output=True, text=True)
        assert output.returncode == 0, output.stderr
        for text, num_parameters in json.loads(output.stdout.splitlines()[-1]).values():
            found = collectives(text)
            assert {each.kind for each in found} == expected
            least = 2 * (4 - 1) / 4 * 4 * num_parameters
            assert least <= total_sent(found) <= least + 2 * 4 * 64  # and a few scalars, and padding


@pytest.mark.parametrize(("num_tasks", "tasks_at_once"), [(12, 5), (40, 2), (3, 8)])
def test_evaluating_on_a_mesh_is_evaluating(key, num_tasks, tasks_at_once):
    sample = tasks.gaussian_blobs(num_ways=3, num_shots=1, num_queries=4)
    arguments = (learners.nearest_mean(num_ways=3), losses.cross_entropy, {}, sample, key)
    numbers = {"protocol": "blobs", "num_tasks": num_tasks, "tasks_at_once": tasks_at_once}
    plain = jmeta.evaluate(*arguments, **numbers).inductive
    shared = jmeta.evaluate(*arguments, **numbers, chunk_map=ONE.chunk_map).inductive
    for name in ("loss", "accuracy"):
        assert len(shared[name].values) == num_tasks
        np.testing.assert_allclose(shared[name].values, plain[name].values, rtol=1e-5)


def mean_of_products():
    return jmeta.over_tasks(lambda meta_params, task, key: (meta_params * task, jax.random.normal(key)))


@pytest.mark.parametrize("num_blocks", [None, 1, 2, 4])
def test_on_one_device_it_is_the_mean_over_tasks(key, num_blocks):
    shared = jax.jit(Sharing(ONE.mesh, num_blocks).mean(mean_of_products()))
    for got, expected in zip(
        shared(2.0, jnp.arange(8.0), key), mean_of_products()(2.0, jnp.arange(8.0), key), strict=True
    ):
        np.testing.assert_allclose(got, expected, rtol=1e-6)


@pytest.mark.parametrize("num_blocks", [None, 1, 2])
def test_tasks_that_devices_draw_are_those_of_one_device(key, num_blocks):
    """Also leaves that are keys, as environments may have."""
    sample = jax.tree_util.Partial(lambda low, key: {"x": jax.random.uniform(key, (3,), minval=low), "key": key}, 0.5)
    shared = jax.jit(Sharing(ONE.mesh, num_blocks).stacked(sample, 6))(key)
    for got, expected in zip(jax.tree.leaves(shared), jax.tree.leaves(tasks.stacked(sample, 6)(key)), strict=True):
        assert bool((got == expected).all())
    with pytest.raises(ValueError, match="num_tasks=0"):
        ONE.stacked(sample, 0)


def test_equal_samplers_share_one_program(key):
    """As equal leaves of a jitted function's arguments: what a run compiles, its continuation has."""
    sample = tasks.sinusoid(num_shots=3, num_queries=2)
    assert jax.tree.structure(ONE.stacked(sample, 6)) == jax.tree.structure(ONE.stacked(sample, 6))
    assert jax.tree.structure(ONE.stacked(sample, 6)) != jax.tree.structure(ONE.stacked(sample, 7))


@pytest.mark.parametrize("num_blocks", [None, 1, 2])
def test_no_key_is_used_twice_by_devices_that_share(key, num_blocks):
    shared = Sharing(ONE.mesh, num_blocks)
    mean = shared.mean(mean_of_products())
    sample = shared.stacked(jax.tree_util.Partial(jax.random.normal), 4)

    def step(key):
        key_sample, key_mean = jax.random.split(key)
        return mean(2.0, sample(key_sample), key_mean)

    with jax.debug_key_reuse(True):
        assert np.isfinite(jax.jit(step)(key)).all()


def test_a_key_for_each_task_is_taken_as_it_is(key):
    keys = jax.random.split(key, 5)
    mean = mean_of_products()
    assert float(mean(1.0, jnp.arange(5.0), keys)[1]) == float(mean(1.0, jnp.arange(5.0), key)[1])
    with pytest.raises(ValueError, match=r"5 tasks and keys of shape \(4,\)"):
        mean(1.0, jnp.arange(5.0), keys[:4])


def test_meshes_and_blocks_that_do_not_fit_are_refused(key):
    for axes, message in (
        ({"tasks": 99}, "has 99 devices, and there are 1"),
        ({"task": 1}, "expected a number of devices for 'tasks'"),
        ({"model": 1}, "expected a number of devices for 'tasks'"),
        ({"tasks": 0}, "expected a number of devices"),
    ):
        with pytest.raises(ValueError, match=message):
            sharding.make_mesh(axes)
    for num_blocks, message in (
        (3, "a power of two"),
        (6, "a power of two"),
        (0, "a multiple of 1"),
        (-1, "a multiple"),
    ):
        with pytest.raises(ValueError, match=f"expected {message}"):
            Sharing(ONE.mesh, num_blocks)
    with pytest.raises(ValueError, match="6 tasks in 4 blocks"):
        Sharing(ONE.mesh, 4).mean(mean_of_products())(1.0, jnp.arange(6.0), key)


def test_a_trainer_that_devices_cannot_share_is_refused():
    trainer = MetaTrainer(lambda meta_params: meta_params, lambda state, tasks, key: (state, {}))
    with pytest.raises(ValueError, match="this trainer has no `share`"):
        ONE.trainer(trainer)


def test_only_what_a_function_changes_comes_back_from_all(key):
    centred = ONE.gathered(lambda t: {"x": t["x"] - t["x"].mean(), "y": t["y"]})
    result = jax.jit(centred)({"x": jnp.arange(4.0), "y": jnp.arange(4)})
    assert result["x"].tolist() == [-1.5, -0.5, 0.5, 1.5]
    assert result["y"].tolist() == [0, 1, 2, 3]


def test_what_reads_and_changes_nothing_leaves_tasks_as_they_are():
    tasks_ = {"x": jnp.arange(4.0), "y": jnp.arange(4)}
    result = jax.jit(ONE.gathered(lambda t: t))(tasks_)
    assert {name: leaf.tolist() for name, leaf in result.items()} == {"x": [0.0, 1.0, 2.0, 3.0], "y": [0, 1, 2, 3]}


def test_only_what_a_function_reads_is_gathered():
    scaled = ONE.gathered(lambda t: {**t, "x": t["x"] * t["scale"].max()})
    tasks_ = {"x": jnp.arange(4.0), "scale": jnp.arange(4.0), "unread": jnp.arange(4.0), "large": jnp.zeros((4, 100))}
    assert str(jax.make_jaxpr(scaled)(tasks_)).count("all_gather[") == 2
    assert jax.jit(scaled)(tasks_)["x"].tolist() == [0.0, 3.0, 6.0, 9.0]


def test_numbers_of_each_type_are_exchanged_in_the_order_of_the_leaves():
    """And not in that of a set, which is another one in every process."""
    types = ("bfloat16", "float16", "float32", "float8_e4m3fn", "float8_e5m2")
    for order in (types, types[::-1]):
        mean_fn = jmeta.over_tasks(lambda meta_params, task, key, order=order: [task.astype(each) for each in order])
        shared = Sharing(ONE.mesh, 2).mean(mean_fn)
        program = str(jax.make_jaxpr(shared)(0.0, jnp.ones(4), jax.random.key(0)))
        exchanged = re.findall(r":(\w+)\[[\d,]*\] = all_to_all", program)
        short = {"bfloat16": "bf16", "float16": "f16", "float32": "f32", "float8_e4m3fn": "f8_e4m3fn"}
        assert exchanged == [short.get(each, "f8_e5m2") for each in order]
