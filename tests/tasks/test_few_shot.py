"""N-way K-shot sampling: what a task contains, how it is distributed, what is refused."""

import itertools
from collections import Counter

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jmeta.tasks import ClassArrays, few_shot, stacked
from jmeta.tasks.class_arrays import check_positive, rotate
from jmeta.tasks.few_shot import draw_distinct

NUM_CLASSES, NUM_EXAMPLES = 12, 8


def numbered(num_classes=NUM_CLASSES, num_examples=NUM_EXAMPLES):
    """Examples of one feature that says which class and which example it is: 100 * class + example."""
    return (100 * np.arange(num_classes)[:, None] + np.arange(num_examples))[:, :, None].astype(np.float32)


def decode(batch):
    values = np.asarray(batch.x[:, 0]).astype(int)
    return values // 100, values % 100, np.asarray(batch.y)


@jax.jit
def draw(sample, key):
    """Compiled once for all samplers of equal settings."""
    return sample(key)


def many_tasks(sample, num_tasks, seed=0):
    return draw(stacked(sample, num_tasks), jax.random.key(seed))


def chi_square(counts):
    counts = np.asarray(counts, float)
    return ((counts - counts.mean()) ** 2 / counts.mean()).sum()


@settings(max_examples=20, deadline=None)
@given(st.data(), st.sampled_from([1, 2, 6]), st.sampled_from([1, 3]), st.just(2), st.integers(0, 2**31 - 1))
def test_a_task_is_balanced_distinct_and_disjoint(data, num_ways, num_shots, num_queries, seed):
    smallest = num_shots + num_queries
    class_sizes = np.array(data.draw(st.lists(st.integers(smallest, 8), min_size=12, max_size=12)))
    sample = few_shot(
        numbered(), num_ways=num_ways, num_shots=num_shots, num_queries=num_queries, class_sizes=class_sizes
    )
    task = draw(sample, jax.random.key(seed))
    seen = set()
    class_of_label = {}
    for batch, num_each in ((task.support, num_shots), (task.query, num_queries)):
        classes, examples, labels = decode(batch)
        assert batch.mask is None
        assert Counter(labels.tolist()) == dict.fromkeys(range(num_ways), num_each)
        for class_, example, label in zip(classes, examples, labels, strict=True):
            assert class_of_label.setdefault(int(label), class_) == class_
            assert example < class_sizes[class_]
            assert (class_, example) not in seen
            seen.add((class_, example))
    assert len(set(class_of_label.values())) == num_ways


def test_ways_shots_and_order_are_uniform():
    num_tasks = 6000
    tasks = many_tasks(few_shot(numbered(6, 4), num_ways=2, num_shots=1, num_queries=2), num_tasks)
    values, labels = np.asarray(tasks.support.x[..., 0]).astype(int), np.asarray(tasks.support.y)
    first_of_label_0 = values[np.arange(num_tasks), labels.argmin(1)]
    pairs = Counter(zip(first_of_label_0 // 100, values[np.arange(num_tasks), labels.argmax(1)] // 100, strict=True))
    assert len(pairs) == 30  # ordered pairs of distinct classes
    assert chi_square(list(pairs.values())) < 60  # 29 degrees of freedom: 1 in 1000 exceeds 58
    assert chi_square(list(Counter(first_of_label_0 % 100).values())) < 17  # 3 degrees of freedom
    orders = Counter(map(tuple, np.asarray(tasks.query.y).tolist()))
    assert len(orders) == 6  # 4 queries, two of each label
    assert chi_square(list(orders.values())) < 21  # 5 degrees of freedom


def test_draw_distinct_makes_every_ordered_selection_equally_likely():
    bits = jax.random.bits(jax.random.key(0), (24_000, 3))
    drawn = np.asarray(jax.vmap(lambda bits: draw_distinct(bits, 4))(bits))
    counts = Counter(map(tuple, drawn.tolist()))
    assert set(counts) == set(itertools.permutations(range(4), 3))
    assert chi_square(list(counts.values())) < 50  # 23 degrees of freedom: 1 in 1000 exceeds 49.7


def test_draw_distinct_of_all_is_a_permutation_for_a_traced_population():
    drawn = jax.jit(draw_distinct)(jax.random.bits(jax.random.key(1), (50,)), jnp.array(50))
    assert sorted(drawn.tolist()) == list(range(50))


def test_the_same_key_draws_the_same_task_and_another_key_another():
    sample = few_shot(numbered(), num_ways=5, num_shots=2, num_queries=3)
    one, same, other = (draw(sample, jax.random.key(seed)) for seed in (3, 3, 4))
    chex.assert_trees_all_equal(one, same)
    chex.assert_trees_all_equal(one, sample(jax.random.key(3)))  # not compiled
    assert not np.array_equal(one.support.x, other.support.x)


def test_stacked_tasks_are_the_tasks_of_the_split_keys():
    sample = few_shot(numbered(), num_ways=5, num_shots=2, num_queries=3)
    tasks = many_tasks(sample, 3, seed=5)
    for i, key in enumerate(jax.random.split(jax.random.key(5), 3)):
        chex.assert_trees_all_equal(jax.tree.map(lambda leaf, i=i: leaf[i], tasks), draw(sample, key))


def test_other_data_of_the_same_shape_do_not_retrace():
    @jax.jit
    @chex.assert_max_traces(n=1)
    def draw(sample, key):
        return stacked(sample, 2)(key)

    for offset in (0, 1):
        sample = few_shot(numbered() + offset, num_ways=5, num_shots=2, num_queries=3)
        for seed in range(2):
            draw(sample, jax.random.key(seed))
    assert not any(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(sample))  # on the device


def test_uint8_is_scaled_to_the_unit_interval_and_floats_are_kept():
    images = np.full((5, 2, 3, 3, 1), 255, np.uint8)
    images[..., 0, 0, 0] = 51
    sizes = {"num_ways": 5, "num_shots": 1, "num_queries": 1}
    x = draw(few_shot(images, **sizes), jax.random.key(0)).support.x
    assert x.dtype == jnp.float32
    np.testing.assert_allclose(np.unique(x), [0.2, 1.0], rtol=1e-6)
    x = draw(few_shot(images.astype(np.float16), **sizes), jax.random.key(0)).support.x
    assert x.dtype == jnp.float32
    assert set(np.unique(x)) == {51.0, 255.0}


def quarter_turns_of(images, x):
    """For each sampled image the (class, example, turns) of the original that it is, found by comparison."""
    found = {}
    for c, e, turns in np.ndindex(*images.shape[:2], 4):
        found[np.rot90(images[c, e], turns).tobytes()] = (c, e, turns)
    return [found[np.round(255 * image).astype(np.uint8).tobytes()] for image in np.asarray(x)]


@pytest.fixture(scope="module")
def pictures():
    return np.random.default_rng(0).integers(0, 256, (3, 4, 4, 4, 2), np.uint8)


@pytest.mark.parametrize("rotations", ["none", "per_class", "as_classes"])
def test_rotations_are_those_of_numpy_and_shared_by_a_class(pictures, rotations):
    sample = few_shot(pictures, num_ways=3, num_shots=2, num_queries=2, rotations=rotations)
    tasks = many_tasks(sample, 60)
    drawn = set()
    for i in range(60):
        class_of_label = {}
        for batch in (tasks.support, tasks.query):
            for (c, _, turns), label in zip(quarter_turns_of(pictures, batch.x[i]), batch.y[i].tolist(), strict=True):
                assert class_of_label.setdefault(label, (c, turns)) == (c, turns)
        assert len(set(class_of_label.values())) == 3
        if rotations != "as_classes":
            assert len({c for c, _ in class_of_label.values()}) == 3
        drawn |= set(class_of_label.values())
    assert len(drawn) == (3 if rotations == "none" else 12)


def test_rotations_as_classes_count_as_classes(pictures):
    sample = few_shot(pictures, num_ways=12, num_shots=1, num_queries=1, rotations="as_classes")
    task = draw(sample, jax.random.key(0))
    assert len({(c, turns) for c, _, turns in quarter_turns_of(pictures, task.support.x)}) == 12


@pytest.mark.parametrize("turns", range(4))
def test_rotate_equals_rot90(pictures, turns):
    np.testing.assert_array_equal(
        rotate(jnp.asarray(pictures[0]), jnp.full(4, turns)), np.rot90(pictures[0], turns, axes=(1, 2))
    )


def test_tasks_within_groups_leave_out_groups_that_are_too_small():
    groups = np.array([7, 7, 7, 7, 2, 2, 2, 2, 2, 5, 5, 5])  # 4, 5 and 3 classes
    tasks = many_tasks(few_shot(numbered(), num_ways=4, num_shots=1, num_queries=1, groups=groups), 300)
    classes = np.asarray(tasks.support.x[..., 0]).astype(int) // 100
    group = groups[classes]
    assert (group == group[:, :1]).all()
    counts = Counter(group[:, 0].tolist())
    assert set(counts) == {7, 2}  # uniform over groups, not over classes
    assert 110 < counts[7] < 190


def test_augment_gets_a_key_of_its_own_for_every_image():
    def noise(image, key):
        return image + jax.random.uniform(key)

    images = np.zeros((5, 4, 1), np.float32)
    task = draw(few_shot(images, num_ways=5, num_shots=2, num_queries=2, augment=noise), jax.random.key(0))
    values = np.concatenate([task.support.x[:, 0], task.query.x[:, 0]])
    assert len(np.unique(values)) == 20


def test_augment_that_changes_the_shape_is_refused():
    sample = few_shot(numbered(), num_ways=2, num_shots=1, num_queries=1, augment=lambda image, key: image[None])
    with pytest.raises(ValueError, match=r"augment turned an image of shape \(1,\)"):
        draw(sample, jax.random.key(0))


GOOD = {"num_ways": 5, "num_shots": 1, "num_queries": 2}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (GOOD | {"num_shots": 0}, "num_shots=0; expected at least 1"),
        (GOOD | {"num_ways": 13}, "num_ways=13, but there are only 12 classes"),
        (GOOD | {"num_queries": 8}, "needs 9 examples of each class .* class 0 only 8"),
        (GOOD | {"rotations": "all"}, "rotations='all'; expected one of 'none'"),
        (GOOD | {"rotations": "per_class"}, "needs square images"),
        (GOOD | {"groups": np.zeros(3, int)}, "groups has 3 entries for 12 classes"),
        (GOOD | {"groups": np.arange(12)}, "the largest group has only 1 classes"),
        (GOOD | {"class_sizes": np.full(12, 9)}, "at most 9, but images have shape"),
        (GOOD | {"class_sizes": np.full(12, 2)}, "12 classes have fewer, class 0 only 2"),
    ],
)
def test_mistakes_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        few_shot(numbered(), **arguments)


@pytest.mark.parametrize(
    ("dtype", "shape", "scale", "message"),
    [
        (np.int32, (4, 4, 1), None, "images have dtype int32; pass uint8"),
        (
            np.uint8,
            (16,),
            None,
            r"uint8 of shape \(16,\), which may be pixels in 0..255, or bits or numbers; pass scale=",
        ),
        (np.uint8, (4, 4), None, "pass scale=True"),
        (np.float32, (4, 4, 1), True, "scale=True, but examples have dtype float32"),
        (np.complex64, (3,), None, "dtype complex64; pass numbers"),
        (object, (3,), None, "dtype object; pass numbers"),
        ("U3", (3,), None, "dtype <U3; pass numbers"),
    ],
)
def test_dtypes_that_may_mean_something_else_are_refused(dtype, shape, scale, message):
    with pytest.raises(ValueError, match=message):
        few_shot(np.zeros((12, 3, *shape), dtype), **GOOD, scale=scale)


@pytest.mark.parametrize(
    ("dtype", "scale", "sampled"),
    [
        (np.int32, None, jnp.int32),
        (np.uint16, None, jnp.uint16),
        (np.int8, None, jnp.int8),
        (bool, None, jnp.bool_),
        (np.uint8, False, jnp.uint8),
        (np.float16, None, jnp.float32),
        (jnp.bfloat16, None, jnp.float32),
        (np.float64, None, jnp.float32),
    ],
)
def test_numbers_arrive_as_they_are(dtype, scale, sampled):
    values = np.random.default_rng(0).integers(0, 2 if dtype is bool else 100, (12, 3, 5)).astype(dtype)
    x = draw(few_shot(values, **GOOD, scale=scale), jax.random.key(0)).query.x
    assert x.dtype == sampled
    rows = {tuple(row) for row in values.reshape(-1, 5).astype(np.float64)}
    assert {tuple(row) for row in np.asarray(x).astype(np.float64)} <= rows


@pytest.mark.parametrize(("dtype", "shape", "scale"), [(np.uint16, (2, 2, 1), None), (np.uint8, (4,), True)])
def test_pixels_are_divided_by_the_largest_of_their_dtype(dtype, shape, scale):
    values = np.random.default_rng(0).integers(0, np.iinfo(dtype).max, (12, 3, 4)).astype(dtype)
    x = draw(few_shot(values.reshape(12, 3, *shape), **GOOD, scale=scale), jax.random.key(0)).query.x
    assert x.dtype == jnp.float32
    rows = values.reshape(-1, 1, 4) / np.float64(np.iinfo(dtype).max)
    assert abs(rows - np.asarray(x).reshape(1, -1, 4)).max(-1).min(0).max() < 1e-7


def test_double_precision_stays_so(float64):
    values = np.random.default_rng(0).random((12, 3, 2))
    task = few_shot(values, **GOOD)(jax.random.key(0))
    assert task.query.x.dtype == jnp.float64
    assert set(np.unique(task.query.x)) <= set(np.unique(values))
    with jax.enable_x64(False):
        single = few_shot(values.astype(np.float32), **GOOD)(jax.random.key(0))
    np.testing.assert_array_equal(single.query.x, np.asarray(task.query.x, np.float32))  # the same task
    np.testing.assert_array_equal(single.query.y, task.query.y)


def test_integers_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="dtype int64 go from 0 to 4294967296, which int32 cannot hold; renumber"):
        few_shot(np.array([[[0], [2**32]]] * 12), num_ways=2, num_shots=1, num_queries=1)


def test_examples_may_be_pytrees():
    values = numbered()
    data = {"tokens": values.astype(np.int32), "image": np.zeros((12, 8, 2, 2, 3), np.uint8), "double": 2 * values}
    task = draw(few_shot(data, **GOOD), jax.random.key(1))
    plain = draw(few_shot(values, **GOOD), jax.random.key(1))
    for batch, same in ((task.support, plain.support), (task.query, plain.query)):
        np.testing.assert_array_equal(batch.x["tokens"], same.x)
        np.testing.assert_array_equal(batch.x["double"], 2 * same.x)
        np.testing.assert_array_equal(batch.y, same.y)
        assert (batch.x["image"].dtype, batch.x["image"].shape[1:]) == (jnp.float32, (2, 2, 3))
    with pytest.raises(ValueError, match=r"shape \(12, 7, 1\); expected .classes, examples, ....*\(12, 8\)"):
        few_shot({**data, "tokens": values[:, :7]}, **GOOD)
    with pytest.raises(ValueError, match="images have shape of no array at all"):
        few_shot({}, **GOOD)


@pytest.mark.parametrize("rotations", ["none", "as_classes"])
def test_flat_examples_are_drawn_as_padded_ones(rotations):
    rng = np.random.default_rng(0)
    sizes = rng.integers(3, 7, 12)
    padded = rng.integers(0, 256, (12, 6, 4, 4, 1), np.uint8)
    flat = ClassArrays(padded[np.arange(6) < sizes[:, None]], sizes)
    one = few_shot(flat, **GOOD, rotations=rotations)
    other = few_shot(padded, **GOOD, rotations=rotations, class_sizes=sizes)
    chex.assert_trees_all_equal(draw(one, jax.random.key(0)), draw(other, jax.random.key(0)))
    with pytest.raises(ValueError, match="class_sizes are given twice"):
        few_shot(flat, **GOOD, class_sizes=sizes)
    with pytest.raises(ValueError, match="an array has shape .*as class_sizes"):
        few_shot(flat._replace(x=flat.x[:-1]), **GOOD)


def test_a_small_class_is_left_out_with_a_warning():
    sizes = np.array([8, 2, 8, 8, 1, 8, 8, 8, 8, 8, 8, 8])
    with pytest.warns(UserWarning, match="needs 3 examples .* 2 classes have fewer and are left out, class 1 with 2"):
        sample = few_shot(numbered(), **GOOD, class_sizes=sizes)
    tasks = many_tasks(sample, 100)
    drawn = np.unique(np.asarray(tasks.support.x).astype(int) // 100)
    assert drawn.tolist() == [0, 2, 3, 5, 6, 7, 8, 9, 10, 11]
    sizes[3:] = 0
    with (
        pytest.warns(UserWarning, match="10 classes have fewer"),
        pytest.raises(ValueError, match="num_ways=5, but there are only 2 classes"),
    ):
        few_shot(numbered(), **GOOD, class_sizes=sizes)


@pytest.mark.parametrize("number", [1.5, True, np.float32(2), "2", None])
def test_numbers_that_are_no_integers_are_refused_at_once(number):
    check_positive({"num_ways": np.int64(3)})
    with pytest.raises(ValueError, match="num_ways=.*expected an integer of at least 1"):
        check_positive({"num_ways": number})


@pytest.mark.parametrize("sizes", [np.full(12, -1), np.full(12, 2.5), np.zeros((12, 1), int), np.zeros(0, int)])
def test_sizes_that_are_no_numbers_of_examples_are_refused(sizes):
    with pytest.raises(ValueError, match="expected for each class its number of examples"):
        few_shot(numbered(), **GOOD, class_sizes=sizes)


@pytest.mark.parametrize("dtype", [">f4", ">i4", ">u2"])
def test_numbers_of_another_order_of_bytes_are_the_same_numbers(key, dtype):
    """As a file of another machine holds them."""
    data = np.arange(6 * 4 * 4).reshape(6, 4, 2, 2, 1)
    scale = None if dtype == ">u2" else False
    sample, swapped = (few_shot(data.astype(each), **GOOD, scale=scale) for each in (dtype[1:], dtype))
    chex.assert_trees_all_equal(sample(key), swapped(key))
