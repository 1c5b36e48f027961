"""Batches of persons: what is in them, crops, holes, labels, P x K, on both backends the same."""

import itertools
import math

import keras
import numpy as np
import pytest
from jpeg_files import encoded, number_of, picture
from networks import sgd, tiny
from PIL import Image

import dhm_keras as dhm
from dhm_keras.reid import IdentityBatches, PersonImages, PersonTestBatches, PersonTrainBatches
from dhm_keras.reid.augmentation import AREAS, COLOUR, RATIOS, crop_window, erase, pad_and_crop, paste
from dhm_keras.reid.batches import PATCH_DRAWS

PERSONS = (0, 0, 0, 0, 0, 1, 1, 2, 2, 2, 2, 3, 3, 3)  # of each image


@pytest.fixture(scope="module")
def people(tmp_path_factory):
    """14 images of four persons; the red of an image tells its number."""
    folder = tmp_path_factory.mktemp("people")
    names = [f"{number:02}.jpg" for number in range(len(PERSONS))]
    for number, name in enumerate(names):
        (folder / name).write_bytes(encoded(picture(number)))
    return PersonImages.of(folder, names, PERSONS)


def plain(people, **arguments):
    return PersonTrainBatches(
        people, **{"batch_size": 4, "image_size": (16, 8), "crop": False, "flip": False, **arguments}
    )


def test_an_epoch_has_whole_batches_of_different_images_in_an_order_of_its_own(people):
    batches = plain(people)
    assert batches.steps_per_epoch == 3
    orders = [np.concatenate([number_of(batches[3 * epoch + step][0]) for step in range(3)]) for epoch in range(3)]
    assert all(len(set(order)) == 12 for order in orders) and not np.array_equal(orders[0], orders[1])
    labels = np.concatenate([batches[step][1] for step in range(3)])
    assert np.array_equal(labels, np.array(PERSONS)[orders[0]])
    later = batches.starting_at(2, 1)
    assert np.array_equal(number_of(later[0][0]), orders[2][4:8])


@pytest.mark.parametrize("arguments", [{}, {"crop": "pad", "patch": 0.5}])
def test_batches_are_functions_of_seed_epoch_and_step_and_equal_on_the_backend(people, arguments):
    others = {"erasing": 0.5, "label_smoothing": 0.1, **arguments}
    make = lambda seed: PersonTrainBatches(people, 4, (16, 8), seed=seed, **others)
    first, again, other = make(0), make(0), make(1)
    through = iter(again.for_backend())
    for step in range(4):
        images, labels = first[step]
        theirs = [np.asarray(part) for part in (next(through) if again.for_backend() is not again else again[step])]
        assert images.dtype == "uint8" and images.shape == (4, 16, 8, 3) and labels.dtype == "float32"
        assert np.array_equal(images, theirs[0]) and np.array_equal(labels, theirs[1])
        assert not np.array_equal(images, other[step][0])
    assert first.settings == again.settings != other.settings


def test_a_crop_is_one_of_the_resized_image():
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (200, 100, 3)).astype("uint8"))
    larger = image.resize((144, 288), Image.Resampling.BILINEAR)
    for place, (left, top) in {(0.0, 0.0): (0, 0), (0.999, 0.999): (16, 32), (0.5, 0.25): (4, 16)}.items():
        ours = dhm.data.jpeg.resized(image, crop_window(100, 200, (256, 128), place), (256, 128)).astype(int)
        theirs = np.asarray(larger.crop((left, top, left + 128, top + 256))).astype(int)
        assert abs(ours - theirs).max() <= 2


def test_half_of_the_images_are_cropped_half_are_mirrored(people):
    batches, draws = PersonTrainBatches(people, 4), np.random.default_rng(0).random((2000, 4))
    windows = [batches._window(50, 100, draw.tolist()) for draw in draws]
    whole = np.mean([box == (0, 0, 50, 100) for box, _, _ in windows])
    assert 0.45 < whole < 0.55 and 0.45 < np.mean([mirrored for _, mirrored, _ in windows]) < 0.55
    boxes = np.array([box for box, _, _ in windows])
    assert boxes[:, :2].min() >= 0 and boxes[:, 2].max() <= 50 and boxes[:, 3].max() <= 100


def holes(size, probability, draws):
    """What `erase` leaves of white images: the rectangles (top, left, bottom, right) that it coloured."""
    for draw in draws.tolist():
        pixels = np.full((*size, 3), 255, "uint8")
        erase(pixels, probability, draw)
        erased = (pixels == COLOUR).all(axis=-1)
        assert (pixels[~erased] == 255).all()
        if erased.any():
            (top, left), (bottom, right) = np.argwhere(erased)[[0, -1]]
            assert erased[top : bottom + 1, left : right + 1].all()
            yield top, left, bottom + 1, right + 1


def test_holes_are_of_the_sizes_and_as_frequent_as_asked():
    size, draws = (256, 128), np.random.default_rng(0).random((400, 203))
    found = np.array(list(holes(size, 0.5, draws)))
    assert 0.45 < len(found) / len(draws) < 0.55
    height, width = found[:, 2] - found[:, 0], found[:, 3] - found[:, 1]
    share, ratio = height * width / math.prod(size), height / width
    assert found.min() >= 0 and found[:, 2].max() <= 256 and found[:, 3].max() <= 128
    assert AREAS[0] * 0.9 < share.min() < 0.05 and 0.3 < share.max() < AREAS[1] * 1.05
    assert RATIOS[0] * 0.9 < ratio.min() and ratio.max() < RATIOS[1] * 1.1


def test_a_hole_has_the_mean_colour_and_the_rest_of_the_image_stays(people):
    batches = plain(people, image_size=(32, 16), erasing=1.0)
    rows, draws = batches._rows_and_draws(0, 0)
    whole, _ = plain(people, image_size=(32, 16)).reader.read(rows, lambda w, h, _: ((0, 0, w, h), False, None), draws)
    for erased, image, draw in zip(batches[0][0], whole, draws, strict=True):
        [(top, left, bottom, right)] = holes((32, 16), 1.0, np.array([draw[4:]]))
        assert (erased[top:bottom, left:right] == COLOUR).all()
        inside = np.zeros((32, 16), bool)
        inside[top:bottom, left:right] = True
        assert np.array_equal(erased[~inside], image[~inside])
    mean, std = (255 * np.array(values) for values in dhm.data.IMAGENET_MEAN_STD)
    assert abs((np.array(COLOUR) - mean) / std).max() < 0.01  # zero, once normalised


def around(image, pad):
    return np.pad(image, ((pad, pad), (pad, pad), (0, 0)))


def windows_of(image, pad):
    """All crops of an image, or of its mirror image, with black around it, by (mirrored, top, left)."""
    height, width, _ = image.shape
    for mirrored, side in enumerate((image, image[:, ::-1])):
        for top, left in itertools.product(range(2 * pad + 1), repeat=2):
            yield (mirrored, top, left), around(side, pad)[top : top + height, left : left + width]


def resized_whole(people, row, size):
    image = Image.open(f"{people.folder}/{people.names[row]}").convert("RGB")
    return np.asarray(image.resize(size[::-1], Image.Resampling.BILINEAR))


def test_padded_crops_are_windows_of_the_whole_image_with_black_around_it(people):
    batches, seen = PersonTrainBatches(people, 14, (128, 64), crop="pad"), []
    for image, row in zip(batches[0][0], batches._rows(0, 0), strict=True):
        windows = windows_of(resized_whole(people, row, (128, 64)), 5)  # half of 10, as 64 is half of 128
        [place] = [place for place, window in windows if np.array_equal(window, image)]
        seen.append(place)
    assert len(set(seen)) > 10 and {mirrored for mirrored, _, _ in seen} == {False, True}


@pytest.mark.parametrize("size, pad", [((256, 128), 10), ((128, 64), 5), ((224, 224), 18), ((16, 8), 1), ((8, 2), 1)])
def test_the_padding_is_in_proportion_to_the_width_and_the_place_uniform(size, pad):
    image = np.random.default_rng(0).integers(1, 256, (*size, 3)).astype("uint8")
    for place, (top, left) in {
        (0.0, 0.0): (0, 0),
        (0.9999, 0.5): (2 * pad, pad),
        (0.5, 0.9999): (pad, 2 * pad),
    }.items():
        pixels = image.copy()
        pad_and_crop(pixels, place)
        assert np.array_equal(pixels, around(image, pad)[top : top + size[0], left : left + size[1]])


def test_patches_are_of_the_sizes_asked_and_at_uniform_places():
    size, draws = (64, 32), np.random.default_rng(0).random((1000, PATCH_DRAWS - 2))
    draws[:, -2] = 1  # not turned
    places = np.stack(np.meshgrid(range(64), range(32), [0], indexing="ij"), -1).reshape(64, 32, 3).astype("uint8")
    boxes, came_from, mirrored = [], [], []
    for draw in draws.tolist():
        pixels = np.full((*size, 3), 255, "uint8")
        paste(pixels, places, draw)
        inside = pixels[..., 2] == 0
        (top, left), (bottom, right) = np.argwhere(inside)[[0, -1]]
        patch = pixels[top : bottom + 1, left : right + 1]
        assert inside.sum() == patch.shape[0] * patch.shape[1]
        upright = patch[:, :: 1 if patch[0, 0, 1] <= patch[0, -1, 1] else -1]
        from_top, from_left, _ = upright[0, 0]
        assert np.array_equal(upright, places[from_top:, from_left:][: patch.shape[0], : patch.shape[1]])
        boxes.append((top, left, *patch.shape[:2]))
        came_from.append((from_top, from_left))
        mirrored.append(patch[0, 0, 1] > patch[0, -1, 1])
    top, left, height, width = np.array(boxes).T
    share, ratio = height * width / math.prod(size), height / width
    assert 0.005 < share.min() < 0.02 and 0.45 < share.max() < 0.53
    areas, ratios = np.meshgrid(np.linspace(0.01, 0.5, 500), np.linspace(0.1, 10, 500))  # of which those that fit
    fit = (np.round(np.sqrt(2048 * areas * ratios)) < 64) & (np.round(np.sqrt(2048 * areas / ratios)) < 32)
    assert abs(share.mean() - areas[fit].mean()) < 0.01
    assert ratio.min() < 0.3 and 8 < ratio.max() < 12 and 0.45 < np.mean(mirrored) < 0.55
    for down, across in ((top, left), np.array(came_from).T):
        assert (
            0.47 < np.mean((down + 0.5) / (65 - height)) < 0.53 and 0.47 < np.mean((across + 0.5) / (33 - width)) < 0.53
        )


def test_every_second_patch_is_turned_by_up_to_ten_degrees():
    white, draw = np.full((64, 32, 3), 255, "uint8"), [0.5, 0.2, *[0.5] * 202]  # a patch of 29 x 18
    for turned, angle, degrees in ((0.5, 0.0, 0), (0.49, 0.0, -10), (0.49, 0.5, 0), (0.49, 0.9999, 10)):
        pixels = np.full((64, 32, 3), 100, "uint8")
        paste(pixels, white, [*draw, 0.5, turned, angle])
        (top, left), (bottom, right) = np.argwhere((pixels != 100).all(-1))[[0, -1]]
        patch = pixels[top : bottom + 1, left : right + 1]
        turn = Image.fromarray(white[: patch.shape[0], : patch.shape[1]]).rotate(degrees)
        assert np.array_equal(patch, np.asarray(turn)) and (patch == 0).any() == (degrees != 0)


def test_a_patch_comes_from_any_image_with_the_probability_asked(people):
    batches, unpatched = (plain(people, image_size=(32, 16), patch=patch, batch_size=14) for patch in (0.5, 0.0))
    seen, pasted = set(), []
    for step in range(40):
        for image, row in zip(batches[step][0], batches._rows(step, 0), strict=True):
            changed = image[..., 0].astype(int)[(image != resized_whole(people, row, (32, 16))).any(-1)]
            pasted.append(changed.size > 0)
            seen.update(np.round((changed[changed > 0] - 5) / 10).astype(int))
    assert seen >= set(range(14)) and 0.4 < np.mean(pasted) < 0.55  # a patch of an image itself may change nothing
    assert batches.settings == {**unpatched.settings, "patch": 0.5} and "patch" not in unpatched.settings
    assert len(unpatched._rows_and_draws(0, 0)[1][0]) == 4  # what a checkpoint from before patches goes on with


def test_a_corrupt_image_gives_no_patch(people, tmp_path):
    for name in people.names:
        (tmp_path / name).write_bytes(people.read(people.names.index(name)))
    (tmp_path / people.names[7]).write_bytes(b"no image")
    damaged = PersonImages.of(tmp_path, people.names, PERSONS)
    strict, lenient = (
        PersonTrainBatches(damaged, 14, (16, 8), False, False, patch=1.0, on_corrupt=on_corrupt)
        for on_corrupt in ("raise", "skip")
    )
    patched_by = [
        (epoch, at)
        for epoch in range(9)
        for at, (row, draw) in enumerate(zip(*strict._rows_and_draws(epoch, 0), strict=True))
        if row != 7 and int(14 * draw[-PATCH_DRAWS + 1]) == 7
    ]
    epoch, at = patched_by[0]
    with pytest.raises(ValueError, match=f"{people.names[7]} is not an image"):
        strict.part(epoch, at, at + 1)
    [image], _ = lenient.part(epoch, at, at + 1)
    assert np.array_equal(image, resized_whole(people, lenient._rows(epoch, 0)[at], (16, 8)))
    assert len(lenient.skipped) == 1 and people.names[7] in lenient.skipped[0]


@pytest.mark.parametrize("arguments", [{}, {"crop": "pad"}, {"patch": 0.7, "erasing": 0.5}])
@pytest.mark.parametrize("make", [PersonTrainBatches, IdentityBatches])
def test_parts_of_a_batch_are_the_batch(people, make, arguments):
    numbers = {"batch_size": 4} if make is PersonTrainBatches else {"persons": 2, "images": 2}
    batches = make(people, **numbers, image_size=(32, 16), **arguments)
    for epoch, step in ((0, 0), (1, 1)):
        whole = batches[epoch * batches.steps_per_epoch + step]
        for edges in ((0, 2, 4), (0, 1, 1, 3, 4)):
            parts = [batches.part(epoch, 4 * step + a, 4 * step + b) for a, b in itertools.pairwise(edges)]
            for part, of_whole in zip(zip(*parts, strict=True), whole, strict=True):
                assert np.array_equal(np.concatenate(part), of_whole)


def test_smoothed_labels_give_the_golden_cross_entropy(people):
    targets = plain(people, label_smoothing=0.1).targets(np.array([0]))
    assert targets == pytest.approx(np.array([[0.925, 0.025, 0.025, 0.025]]))
    logits = np.array([[2.0, 1.0, 0.0, -1.0]])
    log_probs = logits - np.log(np.exp(logits).sum())
    assert -(targets * log_probs).sum() == pytest.approx(0.590190, abs=1e-6)


def test_identity_batches_have_k_images_of_each_of_p_persons(people):
    batches = IdentityBatches(people, persons=3, images=2, image_size=(16, 8), crop=False, flip=False)
    assert batches.steps_per_epoch == (2 + 1 + 2 + 1) // 3  # groups of two, by three persons
    seen = []
    for step in range(20):
        images, labels = batches[step]
        numbers = number_of(images).reshape(3, 2)
        persons = np.array(PERSONS)[numbers]
        assert np.array_equal(labels, persons.ravel()) and (persons[:, 0] == persons[:, 1]).all()
        assert len(set(persons[:, 0])) == 3 and (numbers[:, 0] != numbers[:, 1]).all()
        seen += numbers.ravel().tolist()
        if step % 2:
            assert len(set(seen[-12:])) == 12 or len(set(seen[-12:-6])) == 6  # within a shuffle none comes twice
    assert set(seen) == set(range(14))
    later = batches.starting_at(7, 1)
    assert np.array_equal(later[0][0], batches[15][0]) and batches.settings == later.settings


def test_a_person_with_few_images_is_drawn_with_replacement_and_the_epoch_is_filled(people):
    batches = IdentityBatches(people, persons=4, images=4, image_size=(16, 8), flip=False, crop=False)
    assert batches.steps_per_epoch == 1  # one group of each: of person 1 two images, of person 3 three
    numbers = number_of(batches[0][0]).reshape(4, 4)
    of_person = {np.array(PERSONS)[row[0]]: row for row in numbers}
    assert set(of_person) == {0, 1, 2, 3} and set(of_person[1]) <= {5, 6} and len(set(of_person[2])) == 4
    uneven = PersonImages.of(people.folder, people.names, [0] * 12 + [1, 2])  # 6 groups of one person, 1 of others
    batches = IdentityBatches(uneven, persons=2, images=2, image_size=(16, 8))
    assert batches.steps_per_epoch == 4
    for step in range(4):
        assert len(set(batches[step][1])) == 2


def test_test_batches_are_whole_images_in_order(people):
    batches = PersonTestBatches(people, 5, (32, 16))
    assert batches.num_batches == 3
    images, labels = (np.concatenate(parts) for parts in zip(*(batches[i] for i in range(3)), strict=True))
    assert np.array_equal(labels, people.labels)
    resized = (
        Image.open(f"{people.folder}/{people.names[3]}").convert("RGB").resize((16, 32), Image.Resampling.BILINEAR)
    )
    assert np.array_equal(images[3], np.asarray(resized))


def test_a_network_trains_on_them(people):
    keras.utils.set_random_seed(0)
    model = dhm.DHM(tiny(num_classes=4))
    model.compile(optimizer=sgd())
    history = model.fit(PersonTrainBatches(people, 4, (8, 8), label_smoothing=0.1), epochs=2, verbose=0).history
    assert np.isfinite(history["loss"]).all() and len(history["loss"]) == 2


@pytest.mark.parametrize(
    "make, words",
    [
        (lambda people: plain(people, image_size=128), r"`image_size`. Expected \(height, width\)"),
        (lambda people: plain(people, crop="image"), "`crop`. Expected a Boolean or 'pad'"),
        (lambda people: plain(people, erasing=1.5), "`erasing`"),
        (lambda people: plain(people, patch=-0.1), "`patch`"),
        (lambda people: plain(people, label_smoothing=1.0), "`label_smoothing`"),
        (lambda people: PersonTrainBatches(people, 15), "`batch_size`. Expected at most 14"),
        (lambda people: IdentityBatches(people, persons=5), "`persons`. Expected at most 4"),
        (lambda people: IdentityBatches(people, images=0), "`images`"),
        (lambda people: PersonTestBatches("folder"), "`source`"),
    ],
)
def test_what_is_wrong_is_told(people, make, words):
    with pytest.raises(ValueError, match=words):
        make(people)
