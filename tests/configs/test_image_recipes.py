"""Our recipes on examples, most of them images: they build, train and refuse what does not fit.

Data sets are replaced by noise of the same form and small networks take the place of the recipes' own, by options that
a command line has too. Recipes that act have tests of their own, in `test_rl_recipes`.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from jmeta import Learner, models, tasks
from jmeta.domains.images import protocols
from jmeta.domains.images.datasets import ImageClasses, ImageSplits
from jmeta.runs import Experiment, evaluate, loop, recipes, replay, train
from jmeta.runs.diagnosis import examine_step, sample_step
from jmeta.runs.experiment import check
from jmeta.tasks import HostTasks

from ..slow import slow

KINDS = ("blobs", "folder", "glyphs", "gp", "omniglot", "sine_or_line", "sinusoid", "tabular_prior")
NAMES = [name for name in recipes.names() if name.startswith(KINDS)]
GLYPHS = [name for name in NAMES if name.startswith("glyphs")]
NUM_CLASSES = 24  # of each split

# Options with these names are the same in all recipes that have them.
SMALL = {
    "num_filters": 4,
    "widths": (4, 4),
    "hidden": (4,),
    "size": (16, 16),
    "num_ways": 2,
    "train_ways": 2,
    "train_shots": 2,
    "num_queries": 2,
    "num_steps": 2,
    "num_test_steps": 2,
    "num_cg_steps": 2,
    "num_context": 2,
    "num_process_steps": 1,
    "batch_size": 4,
    "train_queries": 2,
    "num_samples": 2,
    "num_inner_samples": 2,
    "num_train_samples": 2,
    "num_assignments": 2,
    "num_particles": 2,
    "num_members": 2,
    "width": 8,
    "num_layers": 1,
    "num_heads": 2,
    "num_latents": 2,
    "num_bins": 4,
    "num_nodes": 4,
    "num_kept": 4,
    "points_per_unit": 4,
    "train_support": (4, 8),
    "num_support": 8,
    "num_orders": 2,
}


@functools.cache
def noise(name):
    images = np.random.default_rng(0).integers(0, 256, (NUM_CLASSES, 20, 16, 16, 1), np.uint8)
    names = tuple(f"{name}{i}" for i in range(NUM_CLASSES))
    return ImageClasses.padded(images, names)


@pytest.fixture(autouse=True)
def splits(monkeypatch):
    """Noise that stands for the data of every protocol."""
    drawn = ImageSplits(*(noise(name) for name in ("train", "valid", "test")))
    for name in ("glyphs", "vinyals", "finn2017", "reptile2018"):
        replaced = dataclasses.replace(
            getattr(protocols, name), load=lambda _: drawn, split_hash=None, augment=None, num_test_tasks=20
        )
        monkeypatch.setattr(protocols, name, replaced)
    return drawn


@pytest.fixture
def tiny_network(monkeypatch):
    """One hidden layer in place of four blocks of convolution, which take a while to compile."""

    def instead(num_outputs, **options):
        return models.mlp([4] if num_outputs is None else [4, num_outputs])

    monkeypatch.setattr(models, "conv4", instead)


@pytest.fixture
def own_images(tmp_path):
    """Ten classes of five images in colour."""
    for c in range(10):
        (tmp_path / "images" / str(c)).mkdir(parents=True)
        for i in range(5):
            pixels = np.full((8, 8, 3), 5 * c + i, np.uint8)
            Image.fromarray(pixels).save(tmp_path / "images" / str(c) / f"{i}.png")
    return str(tmp_path / "images")


def small(name, **changes):
    """`(recipe, options)` of a run of two meta-steps, mostly compilation."""
    recipe = recipes.load(name)
    options = recipe.options()
    fields = {field.name for field in dataclasses.fields(options)}
    training = dataclasses.replace(
        options.training, num_steps=2, tasks_per_step=2, steps_per_dispatch=1, evaluate_every=2, num_valid_tasks=4
    )
    testing = dataclasses.replace(options.testing, num_tasks=4)
    shared = {key: value for key, value in SMALL.items() if key in fields}
    return recipe, dataclasses.replace(options, **{"training": training, "testing": testing, **shared, **changes})


def built(name, **changes) -> Experiment:
    recipe, options = small(name, **changes)
    return recipe.build(options)


def test_all_recipes_have_tests():
    acting = ("bandit", "navigation", "robot", "tabular_mdp")
    assert set(NAMES) == {name for name in recipes.names() if not name.startswith(acting)}


@pytest.mark.parametrize("name", NAMES)
def test_defaults_are_in_their_ranges(name):
    options = recipes.load(name).options()
    check(options.training, options.testing)


VARIANTS = [
    ("folder_protonet", {}),
    ("folder_protonet", {"host_fed": True, "size": (20, 20), "num_channels": 3}),
    ("folder_resnet12", {"drop_size": 2}),
    ("glyphs_anil", {"first_order": True}),
    ("glyphs_baseline_plus_plus", {"head": "linear"}),
    ("glyphs_boil", {"first_order": True}),
    ("glyphs_cavia", {"first_order": True}),
    ("glyphs_leo", {"num_fine_tuning_steps": 1}),
    ("glyphs_maml", {"first_order": True}),
    ("glyphs_maml_plus_plus", {"first_order": True}),
    ("glyphs_matching", {"full_context": False}),
    ("glyphs_meta_curvature", {"first_order": True}),
    ("glyphs_meta_opt_net", {"num_iterations": 3}),
    ("glyphs_meta_sgd", {"first_order": True}),
    ("glyphs_proto_maml", {"first_order": True}),
    ("glyphs_protonet", {}),
    ("glyphs_relation", {}),
    ("glyphs_reptile", {"learns_optimizer_state": False}),
    ("glyphs_ridge", {}),
    ("glyphs_t_net", {"first_order": True}),
    ("glyphs_t_net", {"learns_masks": True}),
    ("omniglot_finn2017_maml", {}),
    ("omniglot_finn2017_maml", {"first_order": True, "schedule": "linear", "clip_norm": 10.0}),
    ("omniglot_finn2017_meta_curvature", {}),
    ("omniglot_reptile2018", {}),
    ("omniglot_vinyals_matching", {}),
    ("omniglot_vinyals_meta_opt_net", {}),
    ("omniglot_vinyals_protonet", {"train_ways": 60}),
    ("omniglot_vinyals_r2d2", {}),
    ("tabular_prior_fitted", {"num_features": (2, 4), "num_ways": (2, 3)}),
    *((name, {}) for name in NAMES if name.startswith(("gp", "sinusoid_finite"))),
    ("gp_convolutional", {"trained_on": "np_eq", "region": "beyond"}),
    ("sinusoid_finite_bayesian_maml", {"num_leader_steps": 1}),
    *((name, {"train_shots": (1, 2)}) for name in NAMES if name.startswith("sine_or_line") or "completion" in name),
    *((f"glyphs_{name}", {}) for name in ("abml", "bayesian_maml", "deep_kernel", "in_context", "llama", "platipus")),
    ("omniglot_vinyals_in_context", {}),
]


@pytest.mark.parametrize(("name", "changes"), VARIANTS)
def test_a_recipe_builds_and_traces_a_meta_step(name, changes, own_images):
    """With the recipe's kind of network; methods whose variants are here are trained below as they are by default."""
    experiment = built(name, **changes, **({"path": own_images} if name.startswith("folder") else {}))
    num_tasks, key = experiment.training.tasks_per_step, jax.random.key(0)
    state = jax.eval_shape(lambda key: experiment.trainer.init(experiment.init_fn(key)), key)
    if isinstance(experiment.meta_train, HostTasks):
        sampled = next(iter(experiment.meta_train.open(range(num_tasks))))
    else:
        sampled = jax.eval_shape(tasks.stacked(experiment.meta_train, num_tasks), key)
    if experiment.has_progress:
        sampled = sampled._replace(progress=jax.ShapeDtypeStruct((num_tasks,), jnp.float32))
    stepped, aux = jax.eval_shape(experiment.trainer.update, state, sampled, key)
    assert jax.tree.map(lambda leaf: leaf.shape, stepped) == jax.tree.map(lambda leaf: leaf.shape, state)
    assert aux["loss"].shape == ()


TRAINED = ["blobs_protonet", "sinusoid_maml", "glyphs_imaml", "glyphs_maml", "glyphs_protonet", "glyphs_reptile"]


@pytest.mark.parametrize("name", [*TRAINED, *slow(*(name for name in GLYPHS if name not in TRAINED))])
def test_a_method_trains_and_is_validated(name, tmp_path, tiny_network):
    experiment = built(name)
    before = experiment.init_fn(jax.random.split(jax.random.key(0))[0])
    state = loop.run(experiment, tmp_path)
    assert int(state.meta.step) == 2
    assert int(state.meta.num_skipped) == 0
    assert np.isfinite(state.best_score)
    assert experiment.metric == "loss" or 0 <= float(state.best_score) <= 1
    moved = [bool((a != b).any()) for a, b in zip(*map(jax.tree.leaves, (before, state.meta.meta_params)), strict=True)]
    assert any(moved)


@pytest.mark.parametrize(
    ("name", "words", "chosen"),
    [
        ("glyphs_maml", "--first-order", {"first_order": True}),
        ("glyphs_baseline_plus_plus", "--head linear", {"head": "linear"}),
        ("glyphs_relation", "--hidden 16 4", {"hidden": (16, 4)}),
        ("glyphs_reptile", "--no-learns-optimizer-state --meta-lr 1.5", {"meta_lr": 1.5}),
        ("omniglot_finn2017_maml", "--clip-norm 10 --schedule linear", {"clip_norm": 10.0, "schedule": "linear"}),
        ("folder_protonet", "--path images --size None --host-fed", {"path": "images", "size": None, "host_fed": True}),
    ],
)
def test_overrides_reach_the_variants_of_a_method(name, words, chosen):
    options, _ = train.parse(recipes.load(name), words.split(), program="jmeta train")
    assert {key: getattr(options, key) for key in chosen} == chosen


@pytest.mark.parametrize(
    ("name", "changes"),
    [("glyphs_baseline_plus_plus", {"head": "linear"}), ("glyphs_relation", {"hidden": (16, 4)})],
)
def test_variants_have_their_own_parameters(name, changes, tiny_network):
    one, other = (jax.eval_shape(built(name, **each).init_fn, jax.random.key(0)) for each in ({}, changes))
    assert jax.tree.map(jnp.shape, one) != jax.tree.map(jnp.shape, other)


def test_first_order_leaves_second_derivatives_out(tiny_network):
    def num_equations(is_first_order):
        experiment = built("glyphs_maml", first_order=is_first_order)
        key = jax.random.key(0)
        task, meta_params = jax.eval_shape(experiment.meta_train, key), jax.eval_shape(experiment.init_fn, key)
        return len(str(jax.make_jaxpr(experiment.grad_fn)(meta_params, task, key)))

    assert num_equations(True) < num_equations(False)


def test_relations_are_trained_by_their_own_loss_and_judged_by_cross_entropy(tiny_network):
    experiment = built("glyphs_relation")
    key = jax.random.key(0)
    task, meta_params = experiment.meta_train(key), experiment.init_fn(key)
    (objective, _), _ = jax.jit(experiment.grad_fn)(meta_params, task, key)
    adapted = experiment.learner.adapt(meta_params, task.support, key)
    logits = experiment.learner.predict(meta_params, adapted, task.query.x, None)
    squared = (jax.nn.sigmoid(logits) - jax.nn.one_hot(task.query.y, 2)) ** 2
    np.testing.assert_allclose(objective, squared.mean(), rtol=1e-4)
    assert experiment.training_names == {"loss": "objective"}


@pytest.mark.parametrize("name", ["glyphs_imaml", "glyphs_anil", "sinusoid_maml"])
def test_inner_steps_at_test_are_those_asked_for(name, tiny_network):
    experiment = built(name, num_test_steps=0)
    assert experiment.num_test_steps == 0
    key = jax.random.key(0)
    task, meta_params = experiment.source.meta_test(key), experiment.init_fn(key)
    adapted = experiment.tested.adapt(meta_params, task.support, key)
    start = jax.tree.map(np.asarray, meta_params)
    jax.tree.map(np.testing.assert_array_equal, start, jax.tree.map(np.asarray, adapted))


@pytest.mark.parametrize("name", ["abml", "llama", "platipus"])
def test_several_networks_predict_together_after_the_inner_steps_of_a_test(name, tiny_network):
    """However many of them training draws; the meta-parameters serve both."""
    experiment = built(f"glyphs_{name}", num_test_steps=3)
    key = jax.random.key(0)
    task, meta_params = experiment.source.meta_test(key), experiment.init_fn(key)
    adapted = experiment.tested.adapt(meta_params, task.support, key)
    assert {leaf.shape[0] for leaf in jax.tree.leaves(getattr(adapted, "particles", adapted))} == {2}
    assert experiment.num_test_steps == 3
    assert experiment.tested.predict(meta_params, adapted, task.query.x, None).shape == (*task.query.y.shape, 2)


def test_in_context_learning_serves_fewer_ways_than_it_was_trained_on(tiny_network):
    recipe, trained = small("glyphs_in_context", num_ways=4, max_ways=4)
    experiment = evaluate.tested_otherwise(recipe, trained, dataclasses.replace(trained, num_ways=3))
    key = jax.random.key(0)
    task, meta_params = experiment.source.meta_test(key), experiment.init_fn(key)
    adapted = experiment.tested.adapt(meta_params, task.support, key)
    assert adapted.assignments.shape == (2, 4)
    assert experiment.learner.adapt(meta_params, task.support, key).assignments.shape == (1, 4)
    probs = jax.nn.softmax(experiment.tested.predict(meta_params, adapted, task.query.x, None))
    assert (probs[:, 3] == 0).all()
    assert (probs[:, :3] > 0).all()


@pytest.mark.parametrize(
    "name", [name for name in GLYPHS if "num_test_steps" in recipes.load(name).options.__annotations__]
)
def test_as_many_inner_steps_at_test_as_in_training_unless_said_otherwise(name):
    default = recipes.load(name).options().num_test_steps
    assert built(name, num_test_steps=default).num_test_steps == (2 if default is None else default)


def test_inner_steps_at_test_are_the_protocols():
    steps = functools.partial(built, "omniglot_finn2017_maml", num_test_steps=None, num_steps=7)
    assert [steps(num_ways=ways).num_test_steps for ways in (5, 20, 3)] == [3, 5, 7]
    assert built("omniglot_finn2017_maml", num_ways=5, num_test_steps=4).num_test_steps == 4
    assert recipes.load("omniglot_reptile2018").options().num_test_steps == 50


COMPARING = [
    "glyphs_matching",
    "glyphs_protonet",
    "glyphs_relation",
    "glyphs_ridge",
    "glyphs_proto_maml",
    "glyphs_leo",
    "glyphs_meta_opt_net",
]


@pytest.mark.parametrize("name", [*COMPARING, "glyphs_baseline_plus_plus", "omniglot_vinyals_matching"])
def test_more_ways_at_test(name, tiny_network):
    recipe, trained = small(name)
    experiment = evaluate.tested_otherwise(recipe, trained, dataclasses.replace(trained, num_ways=7, num_shots=2))
    key = jax.random.key(0)
    task, meta_params = jax.eval_shape(experiment.source.meta_test, key), jax.eval_shape(experiment.init_fn, key)

    def logits(meta_params, task, key):
        adapted = experiment.tested.adapt(meta_params, task.support, key)
        return experiment.tested.predict(meta_params, adapted, task.query.x, None)

    assert task.support.y.shape == (14,)
    assert jax.eval_shape(logits, meta_params, task, key).shape == (*task.query.y.shape, 7)
    assert "7-way 2-shot" in experiment.test_protocol


@pytest.mark.parametrize("name", ["glyphs_anil", "glyphs_boil", "glyphs_cavia", "glyphs_maml", "glyphs_reptile"])
def test_an_output_for_each_way_fixes_the_ways(name, tiny_network):
    recipe, trained = small(name)
    with pytest.raises(ValueError, match="the parameters have other shapes.*an output for each way"):
        evaluate.tested_otherwise(recipe, trained, dataclasses.replace(trained, num_ways=7))
    evaluate.tested_otherwise(recipe, trained, dataclasses.replace(trained, num_shots=2))


def test_sinusoids_and_lines_are_judged_beside_the_exact_posterior():
    names = [name for name in NAMES if name.startswith("sine_or_line")]
    assert len(names) == 10
    for name in names:
        experiment = built(name, train_shots=(1, 3), num_shots=4)
        assert list(experiment.baselines) == ["exact posterior"]
        train, test = (
            jax.eval_shape(make, jax.random.key(0)) for make in (experiment.meta_train, experiment.source.meta_test)
        )
        assert (train.support.x.shape, test.support.x.shape) == ((3, 1), (4, 1))
        assert experiment.test_protocol == "sine or line, 4-shot, 2 queries, 4 tasks"
        assert loop.valid_protocol(experiment).startswith("sine or line, 1 to 3 shots, 4 tasks")


@pytest.mark.parametrize("name", [name for name in NAMES if name.startswith("gp")])
def test_processes_are_judged_beside_the_posteriors_of_test_and_of_training(name):
    is_joint = name == "gp_transformer_joint"
    for tested_on, baselines in (
        (None, ["exact posterior"]),
        ("tnp_matern52", ["exact posterior", "exact posterior of the training prior"]),
    ):
        recipe, trained = small(name)
        experiment = evaluate.tested_otherwise(recipe, trained, dataclasses.replace(trained, tested_on=tested_on))
        assert list(experiment.baselines) == baselines
        assert ("joint density" in experiment.test_protocol) == is_joint
        assert isinstance(experiment.tested, Learner) != is_joint


@pytest.mark.parametrize("name", [name for name in NAMES if name.startswith("sinusoid_finite")])
def test_finite_sets_of_sinusoids_are_judged_beside_the_exact_posterior(name):
    experiment = built(name, num_train_tasks=3)
    assert list(experiment.baselines) == ["exact posterior"]
    assert len({float(experiment.meta_train(jax.random.key(i)).support.x[0, 0]) for i in range(30)}) == 3


@pytest.mark.parametrize("name", ["glyphs_maml", "glyphs_protonet", "folder_protonet"])
def test_baselines_are_of_the_tasks_and_the_network(name, own_images, tiny_network):
    experiment = built(name, **({"path": own_images} if name.startswith("folder") else {}))
    assert list(experiment.baselines) == ["nearest mean of the inputs", "from scratch, 100 steps"]


def test_batches_of_all_classes_take_the_place_of_tasks(tmp_path, tiny_network, monkeypatch):
    """Sampled again, looked at one by one and replayed as tasks are."""
    recipe, options = small("glyphs_baseline_plus_plus")
    monkeypatch.setattr(train, "_draw_learning_curves", lambda folders: None)
    state = train.train_one(recipe, options, tmp_path / "run")
    experiment = recipe.build(options)
    batches = sample_step(experiment, state.key, 1).query
    assert batches.x.shape[:2] == (options.training.tasks_per_step, options.batch_size)
    assert experiment.init_fn(jax.random.key(0))["head"]["weights"].shape[0] == NUM_CLASSES
    assert 0 <= int(batches.y.min()) <= int(batches.y.max()) < NUM_CLASSES
    reports = examine_step(experiment, state.meta.meta_params, state.key, 1)
    assert [report.is_finite for report in reports] == [True] * options.training.tasks_per_step
    assert [report.is_finite for report in replay.replay(tmp_path / "run", 1)] == [True] * len(reports)


@pytest.mark.parametrize("name", ["glyphs_reptile", "omniglot_reptile2018"])
def test_a_rate_that_could_make_a_mean_of_squares_negative_is_refused(name):
    with pytest.raises(ValueError, match=r"meta_lr=1.5; expected at most 1"):
        built(name, meta_lr=1.5)
    built(name, meta_lr=1.5, learns_optimizer_state=False)


@pytest.mark.parametrize("name", NAMES)
def test_a_rate_that_is_no_rate_is_refused(name):
    for lr in (0.0, -1.0, float("nan")):
        with pytest.raises(ValueError, match="meta_lr=.*expected a positive number"):
            built(name, meta_lr=lr)


@pytest.mark.parametrize("name", ["folder_protonet", "folder_resnet12"])
def test_a_folder_has_to_be_named(name):
    with pytest.raises(ValueError, match="pass the folder of your images: --path DIR"):
        built(name)


@pytest.mark.parametrize("is_host_fed", [False, True])
def test_training_tasks_that_cannot_be_drawn_are_refused_before_anything_is_written(is_host_fed, own_images, tmp_path):
    recipe, options = small("folder_protonet", path=own_images, train_ways=9, host_fed=is_host_fed)
    with pytest.raises(ValueError, match="num_ways=9, but"):
        train.train_one(recipe, options, tmp_path / "run")
    assert not (tmp_path / "run" / "config.json").exists()
