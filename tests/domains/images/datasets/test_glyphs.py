"""The embedded data set: its letters, its split, how hard it is, and its cache."""

import unicodedata

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jmeta.domains.images.datasets import glyphs, split_hash
from jmeta.domains.images.protocols import glyphs as protocol
from jmeta.tasks import few_shot, stacked


@pytest.fixture(scope="module")
def splits():
    return glyphs.load()


def test_the_same_letter_in_several_scripts_or_cases_is_one_class_of_meta_train(splits):
    def class_of(letter):
        return [name for part in splits for name in part.class_names if letter in name]

    for letters in ("AΑА", "OoΟοОоՕօ", "CcСс", "SsЅѕ", "HНΗ"):
        assert len({tuple(class_of(letter)) for letter in letters}) == 1
        assert class_of(letters[0])[0] in splits.meta_train.class_names
    for one, other in ("EF", "CG", "hn", "აბ", "ԱԲ"):
        assert class_of(one) != class_of(other)


def test_splits_are_by_script_and_disjoint(splits):
    scripts = {name: {part.group_names[group] for group in part.groups} for name, part in splits._asdict().items()}
    assert scripts == {
        "meta_train": {"LATIN", "GREEK", "CYRILLIC"},
        "meta_valid": {"ARMENIAN", "LAO"},
        "meta_test": {"GEORGIAN"},
    }
    letters = ["".join(part.class_names) for part in splits]
    assert len(set("".join(letters))) == len("".join(letters))  # every letter in one class, every class in one split
    assert [len(part.class_names) for part in splits] == [431, 83, 116]
    assert {unicodedata.category(letter) for letter in "".join(letters)} == {"Lu", "Ll", "Lo"}
    assert not any(unicodedata.decomposition(letter) for letter in "".join(letters))
    for part in splits:
        for name, group in zip(part.class_names, part.groups, strict=True):
            assert part.group_names[group] in {unicodedata.name(letter).split()[0] for letter in name}


def test_no_two_splits_have_letters_of_nearly_the_same_look(splits):
    """By another route than the loader's: the images themselves, face by face, not the outlines."""
    flat = [np.asarray(part.images[:, :8, ..., 0], np.float32).reshape(len(part.images), 8, -1) for part in splits]
    unit = [x / np.linalg.norm(x, axis=-1, keepdims=True) for x in flat]
    for one, other in ((0, 1), (0, 2), (1, 2)):
        cosine = np.einsum("afp,bfp->abf", unit[one], unit[other])
        assert np.median(cosine, axis=2).max() < 0.97  # the same letter in two scripts has 1.000


def test_images_are_ink_on_a_dark_ground_in_their_box(splits):
    for part in splits:
        assert part.images.dtype == np.uint8
        assert part.class_sizes.min() >= glyphs.MIN_FACES
        for images, size in zip(part.images, part.class_sizes, strict=True):
            assert (images[:size].max(axis=(1, 2, 3)) > 150).all()
            assert not images[size:].any()
        assert not part.images[:, :, [0, 1, 2, 25, 26, 27]].any()
        assert not part.images[:, :, :, [0, 1, 2, 25, 26, 27]].any()


def test_the_split_is_the_one_that_the_protocol_names(splits):
    assert split_hash(splits) == protocol.split_hash


def test_no_pair_of_letters_is_near_the_threshold_of_sameness():
    """A change of a font or of rounding by less than this does not change the split. Renders only some letters."""
    letters, has_face = glyphs._letters()
    chosen = [letters.index(letter) for letter in "CcOoSsΑАEFոռ"]
    _, shapes = glyphs._render([letters[i] for i in chosen], has_face[chosen])
    distances = glyphs._letter_distances(shapes, has_face[chosen])
    assert distances[0, 1] < glyphs.SAME_LETTER < distances[10, 11] < distances[8, 9]  # Cc, ոռ, EF
    assert abs(distances - glyphs.SAME_LETTER).min() > 1e-4
    assert distances[6, 7] < 1e-6  # Alpha and Cyrillic A


def test_a_filled_outline_has_the_area_of_the_polygon():
    square_with_hole = [
        [(0, 0), (10, 0), (10, 10), (0, 10)],
        [(3, 3), (3, 7), (7, 7), (7, 3)],  # the other way round
    ]
    edges = np.concatenate([np.stack([np.array(p, float), np.roll(p, -1, 0)], 1) for p in square_with_hole])
    image = glyphs._fill(edges, np.array([20.0, 20.0]), 28)
    np.testing.assert_allclose(image.sum(), 400 * (1 - 0.16), rtol=1e-3)
    assert image[14, 14] == 0
    assert image[5, 5] == 1
    assert not image[:4].any()


def test_nearest_mean_on_pixels_stays_under_60_percent(splits):
    def accuracy(task):
        support, query = (x.reshape(x.shape[0], -1) for x in (task.support.x, task.query.x))
        distances = jnp.square(query[:, None] - support[None]).sum(-1)
        return (task.support.y[distances.argmin(1)] == task.query.y).mean()

    def measure(augment):
        part = splits.meta_test
        sizes = {"num_ways": 5, "num_shots": 1, "num_queries": 3}
        sample = few_shot(part.images, class_sizes=part.class_sizes, augment=augment, **sizes)
        mean = jax.jit(lambda sample, key: jax.vmap(accuracy)(sample(key)).mean())
        return float(mean(stacked(sample, 400), jax.random.key(0)))

    assert 0.38 < measure(glyphs.DISTORTION) < 0.46  # 0.42, 95 % interval of 400 tasks: 0.015
    assert measure(None) > 0.8


def test_other_arrays_in_the_cache_are_not_taken_for_glyphs(splits):
    part = splits.meta_test
    whole = {
        "images": np.zeros((2, len(glyphs.FACES), 28, 28, 1), np.uint8),
        "class_names": np.array(part.class_names[:2]),
        "groups": part.groups[:2],
        "class_sizes": np.array([8, 16], np.int32),
    }
    glyphs._check(whole)
    for name, other in [
        ("images", whole["images"][:1]),
        ("images", whole["images"].astype(np.float32)),
        ("images", np.zeros(())),
        ("groups", np.array([0, 6], np.int32)),
        ("class_sizes", np.array([8, 17], np.int32)),
        ("more", np.zeros(2)),
    ]:
        with pytest.raises(ValueError, match="it holds other"):
            glyphs._check(whole | {name: other})


@pytest.mark.slow
def test_a_damaged_cache_is_rendered_again_to_the_same_bits(tmp_path, splits):
    (tmp_path / glyphs._cache_name()).write_bytes(b"damaged")
    with pytest.warns(UserWarning, match="is made again: its checksum"):
        rendered = glyphs.load(tmp_path)
    for made, cached in zip(rendered, splits, strict=True):
        np.testing.assert_array_equal(made.images, cached.images)
        assert made.class_names == cached.class_names
