"""Every recipe, method and network that the command line offers: they build, train and refuse what does not fit."""

import dataclasses
import typing

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from configs import parts
from experiments import checks, recipes, replay, train
from experiments.build import build
from experiments.diagnosis import examine_step
from jmeta import tasks

METHODS = {
    "maml": parts.Maml(),
    "first-order maml": parts.Maml(adjoint="first_order"),
    "anil": parts.Anil(num_steps=2),
    "boil": parts.Boil(),
    "cavia": parts.Cavia(num_context=2),
    "meta_sgd": parts.MetaSgd(),
    "maml_plus_plus": parts.MamlPlusPlus(num_steps=2),
    "proto_maml": parts.ProtoMaml(num_steps=2),
    "imaml": parts.Imaml(num_steps=2, num_cg_steps=2),
    "reptile": parts.Reptile(num_steps=2, batch_size=2),
    "protonet": parts.Protonet(),
    "matching": parts.Matching(num_process_steps=2),
    "relation": parts.Relation(hidden=(4,)),
    "ridge": parts.Ridge(),
    "baseline++": parts.FineTune(num_steps=3, batch_size=4),
    "baseline": parts.FineTune(head="linear", num_steps=3, batch_size=4),
}
SMALL = {
    parts.Mlp: parts.Mlp(hidden=(8,)),
    parts.Conv4: parts.Conv4(num_filters=4, pooling="strided"),
    parts.Resnet12: parts.Resnet12(widths=(4, 4), dropout_rate=0.1, drop_size=2),
    parts.Recurrent: parts.Recurrent(width=4),
    parts.Transformer: parts.Transformer(width=8, num_layers=1, num_heads=2),
    parts.Snail: parts.Snail(8, 1, 4, 4, 4),
    parts.Forgetful: parts.Forgetful(hidden=(4,)),
}


@pytest.fixture
def on_device(tiny_folder):
    """Images of nine classes, drawn on the device."""
    return dataclasses.replace(tiny_folder, data=dataclasses.replace(tiny_folder.data, host_fed=False))


@pytest.fixture
def colour_folder(tmp_path):
    """Forty classes of six images for the recipes that read a folder."""
    for c in range(40):
        (tmp_path / "colours" / str(c)).mkdir(parents=True)
        for i in range(6):
            pixels = np.full((8, 8, 3), 6 * c + i, np.uint8)
            Image.fromarray(pixels).save(tmp_path / "colours" / str(c) / f"{i}.png")
    return str(tmp_path / "colours")


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=pytest.mark.data if name.startswith("omniglot") else ()) for name in recipes.names()],
)
def test_every_recipe_builds_and_traces_a_meta_step(name, colour_folder):
    recipe = recipes.load(name)
    if isinstance(recipe.data, parts.Folder):
        data = dataclasses.replace(recipe.data, path=colour_folder, size=(16, 16))
        recipe = dataclasses.replace(recipe, data=data)
    experiment = build(dataclasses.replace(recipe, model=SMALL[type(recipe.model)]))
    checks.check(recipe)
    key = jax.random.key(0)
    state = jax.eval_shape(lambda key: experiment.trainer.init(experiment.init(key)), key)
    sampled = jax.eval_shape(tasks.stacked(experiment.source.meta_train, experiment.tasks_per_step), key)
    if experiment.num_total_steps is not None:
        sampled = sampled._replace(progress=jax.ShapeDtypeStruct((experiment.tasks_per_step,), jnp.float32))
    stepped, aux = jax.eval_shape(experiment.trainer.update, state, sampled, key)
    assert jax.tree.map(lambda leaf: leaf.shape, stepped) == jax.tree.map(lambda leaf: leaf.shape, state)
    assert aux["loss"].shape == ()


def test_recipes_reach_every_method_and_network():
    loaded = [recipes.load(name) for name in recipes.names()]
    assert {type(recipe.method) for recipe in loaded} == set(typing.get_args(parts.Method))
    assert {type(recipe.model) for recipe in loaded} == set(typing.get_args(parts.Network))
    acting = set(typing.get_args(parts.Acting))  # which have tests of their own, in test_acting
    assert {type(method) for method in METHODS.values()} == set(typing.get_args(parts.Method)) - acting


@pytest.mark.parametrize(
    ("words", "method"),
    [
        (["glyphs_maml", "--method.adjoint", "first_order"], parts.Maml(1, 0.4, 3, "first_order")),
        (["glyphs_baseline_plus_plus", "--method.head", "linear"], "linear"),
        (["glyphs_relation", "--method.hidden", "16", "4"], parts.Relation((16, 4))),
    ],
    ids=["first-order MAML", "Baseline", "relation"],
)
def test_overrides_reach_the_variants_of_a_method(words, method):
    _, recipe, _ = train.parse(words)
    assert method in (recipe.method, getattr(recipe.method, "head", None))


@pytest.mark.parametrize("name", METHODS)
def test_every_method_trains_and_is_validated(name, on_device, tmp_path):
    short = dataclasses.replace(on_device.training, num_steps=2, steps_per_dispatch=1, evaluate_every=2)
    if name == "reptile":
        short = dataclasses.replace(short, optimizer="sgd", lr=1.0)
    recipe = dataclasses.replace(on_device, method=METHODS[name], training=short)
    before = build(recipe).init(jax.random.split(jax.random.key(short.seed))[0])
    state = train.train_one("tiny", recipe, tmp_path / "run")
    assert int(state.meta.step) == 2
    assert int(state.meta.num_skipped) == 0
    assert 0 <= float(state.best_score) <= 1
    moved = [bool((a != b).any()) for a, b in zip(*map(jax.tree.leaves, (before, state.meta.meta_params)), strict=True)]
    assert any(moved)


def test_batches_of_all_classes_take_the_place_of_tasks(on_device, tmp_path, monkeypatch):
    """Sampled again, looked at one by one and replayed as tasks are."""
    recipe = dataclasses.replace(on_device, method=METHODS["baseline++"])
    experiment = build(recipe)
    state = train.train_one("tiny", recipe, tmp_path / "run")
    batches = replay.sample_step(experiment, state.key, 3).query
    assert batches.x.shape[:2] == (recipe.training.tasks_per_step, 4)
    num_classes = experiment.init(jax.random.key(0))["head"]["weights"].shape[0]
    assert 0 <= int(batches.y.min()) <= int(batches.y.max()) < num_classes
    reports = examine_step(experiment, state.meta.meta_params, state.key, 3)
    assert [report.is_finite for report in reports] == [True] * recipe.training.tasks_per_step
    monkeypatch.setattr(recipes, "load", lambda name: recipe)
    assert [report.is_finite for report in replay.replay(tmp_path / "run", 45)] == [True] * len(reports)


@pytest.mark.data
def test_pretraining_counts_turned_classes_as_the_protocol_does():
    turned = dataclasses.replace(recipes.load("glyphs_baseline_plus_plus"), data=parts.Images("vinyals"))
    source = build(dataclasses.replace(turned, model=SMALL[parts.Conv4])).source
    assert source.supervised is not None
    sample, num_classes = source.supervised(300)
    assert num_classes % 4 == 0
    labels = jax.jit(sample)(jax.random.key(0)).y
    assert num_classes * 3 // 4 < int(labels.max()) < num_classes


def test_pretraining_is_refused_without_classes_on_the_device(tiny_blobs, tiny_folder):
    for recipe in (tiny_blobs, tiny_folder):
        with pytest.raises(ValueError, match="FineTune trains on all classes of meta_train at once"):
            build(dataclasses.replace(recipe, method=parts.FineTune()))


@pytest.mark.parametrize("name", ["protonet", "relation", "proto_maml", "baseline++"])
def test_what_tells_classes_apart_is_refused_on_regression(name, tiny_sinusoid):
    with pytest.raises(ValueError, match="tells classes apart, but these tasks are regression"):
        build(dataclasses.replace(tiny_sinusoid, method=METHODS[name]))


@pytest.mark.parametrize(("optimizer", "lr"), [("adam", 1e-3), ("sgd", 1.5)])
def test_a_meta_optimizer_that_could_make_a_mean_of_squares_negative_is_refused(optimizer, lr, on_device):
    training = dataclasses.replace(on_device.training, optimizer=optimizer, lr=lr)
    with pytest.raises(ValueError, match=f"at most 1, not {optimizer} and {lr:g}"):
        checks.check(dataclasses.replace(on_device, method=METHODS["reptile"], training=training))
    checks.check(dataclasses.replace(on_device, method=parts.Reptile(learns_optimizer_state=False), training=training))


@pytest.mark.parametrize("name", ["anil", "boil", "cavia", "reptile", "proto_maml"])
def test_an_output_for_each_way_fixes_the_ways(name, on_device):
    more = dataclasses.replace(on_device, data=dataclasses.replace(on_device.data, train_ways=3), method=METHODS[name])
    with pytest.raises(ValueError, match="training tasks have 3 ways and test tasks 2"):
        build(more)
