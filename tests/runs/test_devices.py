"""Devices that share the tasks of a recipe: what is refused, and that recipes end as on one device."""

import shlex

import pytest

from jmeta.runs import devices, recipes, train

from .commands import MY_IMAGES, content, ended, write_images


def sharing_of(mesh=None, num_blocks=None):
    return devices.sharing_of(mesh, num_blocks, tasks_per_step=6)


def test_nobody_shares_who_was_not_asked_to():
    assert sharing_of() is None
    assert sharing_of(mesh="tasks=1").num_blocks is None
    assert sharing_of(num_blocks=2).mesh.shape == {"tasks": 1}
    assert sharing_of(mesh="tasks=1,model=1").mesh.shape == {"tasks": 1, "model": 1}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mesh": "8"}, "--mesh 8; expected axes and their numbers of devices, as in tasks=8"),
        ({"mesh": "tasks=two"}, "--mesh tasks=two; expected axes"),
        ({"mesh": "tasks=1,tasks=1"}, "--mesh tasks=1,tasks=1; expected axes"),
        ({"mesh": "tasks=99"}, "has 99 devices, and there are 1"),
        ({"mesh": "hosts=1"}, "expected a number of devices for 'tasks'"),
        ({"num_blocks": 3}, "num_blocks=3; expected a power of two"),
        ({"num_blocks": 4}, "training.tasks_per_step=6 on 4 blocks; expected a multiple of 4"),
    ],
)
def test_devices_that_cannot_share_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        sharing_of(**options)


@pytest.fixture
def two_threads(monkeypatch):
    monkeypatch.setenv("NPROC", "2")


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["bandit_rl2", "navigation_promp"])
def test_acting_recipes_end_in_the_bits_of_one_device(recipe, two_threads, start_process, tmp_path):
    words = shlex.split(
        f"train {recipe} --training.tasks-per-step 8 --training.num-blocks 2 --training.num-steps 4 "
        "--training.steps-per-dispatch 2 --training.evaluate-every 2 --training.num-valid-tasks 4"
    )
    launch = shlex.split("launch --processes 1 --devices 2")
    for name, before in (("one", []), ("two", launch)):
        mesh = ["--mesh", f"tasks={2 if before else 1}"]
        process = start_process("jmeta", *before, *words, *mesh, "--run-dir", tmp_path / name)
        output, _ = process.communicate(timeout=400)
        assert process.returncode == 0, output
    assert content(tmp_path / "two" / "seed_0") == content(tmp_path / "one" / "seed_0")


def test_a_mesh_of_the_command_line_is_that_of_the_recipe():
    options, _ = train.parse(recipes.load("sinusoid_maml"), ["--mesh", "tasks=1"], program="jmeta")
    assert options.training.mesh == "tasks=1"


@pytest.mark.slow
def test_tasks_from_the_hosts_are_those_of_one_host(two_threads, start_process, tmp_path):
    write_images(tmp_path / "images", size=8)
    words = ["train", MY_IMAGES, "--path", tmp_path / "images", "--training.num-blocks", "4"]
    launch = shlex.split("launch --processes 2 --devices 2")
    for name, before in (("alone", []), ("two", launch)):
        status, output = ended(start_process("jmeta", *before, *words, "--run-dir", tmp_path / name))
        assert status == 0, output
    two, alone = (content(tmp_path / name / "seed_0", str(MY_IMAGES)) for name in ("two", "alone"))
    assert two == alone
