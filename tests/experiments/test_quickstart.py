"""What `make run` does, on image files and two tiny recipes in place of glyphs."""

import dataclasses

import optax

from experiments import quickstart
from jmeta import learners, losses, models
from jmeta.domains import images
from jmeta.runs import recipes
from tests.runs.commands import MY_IMAGES, write_images


def tiny(name, path, learner):
    """A recipe of that name which trains this learner for two dispatches."""
    mine = recipes.load(str(MY_IMAGES))

    def build(options):
        baselines = images.baselines(models.mlp((8, 2)), num_ways=2)
        options = dataclasses.replace(options, path=path, host_fed=False)
        return dataclasses.replace(mine.build(options), learner=learner, baselines=baselines)

    return mine._replace(name=name, build=build, path=None)


def test_the_quickstart_leaves_what_it_says(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("jmeta.runs.console.use_compilation_cache", lambda: None)
    write_images(tmp_path / "images", size=6)
    both = {
        "glyphs_protonet": learners.protonet(models.mlp((8, 4)), num_ways=2),
        "glyphs_maml": learners.maml(models.mlp((8, 2)), losses.cross_entropy, optax.sgd(0.1), num_steps=1),
    }
    tinies = {name: tiny(name, str(tmp_path / "images"), learner) for name, learner in both.items()}
    monkeypatch.setattr(recipes, "load", tinies.get)
    monkeypatch.setattr(recipes, "ours", tinies.get)
    assert quickstart.main(["--num-steps", "11", "--num-tasks", "10"]) == 0
    output = capsys.readouterr().out
    for words in ("nearest mean of pixels", "glyphs_protonet: ", "glyphs_maml: ", "step 20/20"):
        assert words in output
    for name in quickstart.RECIPES:
        (folder,) = (tmp_path / "runs" / "quickstart").glob(f"{name}-*")
        assert {path.name + "/" * path.is_dir() for path in folder.iterdir()} >= set(quickstart.LEFT)
