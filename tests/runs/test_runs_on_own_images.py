"""A run on images of one's own: what it writes about them, and that it outlives them."""

import json
import pathlib
import shutil

import pytest
from PIL import Image

from jmeta import checkpoints, models
from jmeta.runs import evaluate, train

from .commands import bits, jmeta, write_images
from .conftest import tiny


@pytest.fixture
def recipe(tmp_path, monkeypatch):
    """With one layer in place of four blocks of convolution, which take a while to compile."""
    monkeypatch.setattr(models, "conv4", lambda num_outputs, **options: models.mlp([4]))
    write_images(tmp_path / "images", size=16)
    return tiny("folder_protonet", path=str(tmp_path / "images"), size=(16, 16), num_ways=2, num_queries=1)


@pytest.mark.parametrize("host_fed", [False, True])
def test_a_run_says_what_it_was_trained_on_and_is_loaded_without_it(recipe, tmp_path, capsys, host_fed):
    run, recipe = tmp_path / "run", recipe.but(host_fed=host_fed)
    state = train.train_one(recipe.recipe, recipe.options, run)
    record = json.loads((run / "data.json").read_text())
    names = [name for part in record["classes"].values() for name in part]
    assert sorted(names) == list("abcdefghi")
    assert record["preparation"] == {"size": [16, 16], "num_channels": 1, "fit": "squash", "background": 255}
    with Image.open(run / "training_task.png") as picture:
        assert min(picture.size) > 100
    whole = evaluate.load_run(run)
    shutil.rmtree(tmp_path / "images")
    loaded = evaluate.load_run(run)
    assert bits(loaded.meta_params) == bits(whole.meta_params) == bits(state.best_meta_params)
    experiment = loaded.recipe.build(loaded.options)
    assert experiment.tested.predict is not None
    assert jmeta("evaluate", run) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {tmp_path / 'images'} is not a folder")
    assert jmeta("train", "folder_protonet", "--path", tmp_path / "images", "--run-dir", tmp_path / "new") == 1
    assert not list((tmp_path / "new").glob("*/config.json"))


def test_a_run_is_loaded_when_the_folder_of_its_training_classes_is_gone(recipe, tmp_path):
    images = pathlib.Path(recipe.options.path)
    for i, name in enumerate("abcdefghi"):
        split = ("meta_train", "meta_valid", "meta_test")[min(i // 3, 2)]
        (images / split).mkdir(exist_ok=True)
        (images / name).rename(images / split / name)
    train.train_one(recipe.recipe, recipe.options, tmp_path / "run")
    whole = evaluate.load_run(tmp_path / "run")
    shutil.rmtree(images / "meta_train")
    assert bits(evaluate.load_run(tmp_path / "run").meta_params) == bits(whole.meta_params)
    assert checkpoints.steps(tmp_path / "run" / "checkpoints")
