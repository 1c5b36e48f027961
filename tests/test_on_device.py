"""Batches cut on the device, many steps a call: the same training as from ordinary batches."""

import keras
import numpy as np
import pytest
from networks import Kill, Killed, sgd, tiny, values

import dhm_keras as dhm
from dhm_keras.data import TrainBatches, on_device

EXAMPLES, BATCH_SIZE, EPOCHS = 30, 4, 2  # eight steps an epoch, the last one of two images


def batches(soft=False, cut_there=True, seed=5, pad=2, **kwargs):
    rng = np.random.default_rng(3)
    labels = rng.integers(0, 10, EXAMPLES)
    images = rng.random((EXAMPLES, 8, 8, 3), "float32")
    labels = np.eye(10, dtype="float32")[labels] if soft else labels
    return TrainBatches(images, labels, BATCH_SIZE, pad, flip=True, seed=seed, on_device=cut_there, **kwargs)


def compiled(steps=1, metrics=None, **kwargs):
    keras.utils.set_random_seed(0)
    model = dhm.DHM(tiny(num_classes=10, **kwargs))
    model.compile(optimizer=sgd(0.05), steps_per_execution=steps, metrics=metrics)
    return model


def state_of(model):
    return [*values(model.variables).items(), *values(model.optimizer.variables).items()]


def assert_same(one, other, tolerance):
    for (path, value), (_, again) in zip(state_of(one), state_of(other), strict=True):
        np.testing.assert_allclose(again, value, rtol=tolerance, atol=tolerance, err_msg=path)


@pytest.mark.parametrize("crop", ["image", "batch"])
@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_the_batches_are_the_same(crop, soft, dtype):
    there, here = batches(soft, crop=crop), batches(soft, cut_there=False, crop=crop)
    there.images = here.images = (here.images * 255).astype(dtype)
    assert there.settings == here.settings and here.source is None
    for step in range(there.steps_per_epoch):
        draws = there._draws_of_step(1, step).astype("int32" if keras.backend.backend() == "jax" else "int64")
        images, labels = there.source.batch(keras.ops.convert_to_tensor(draws), there.source.arrays)
        np.testing.assert_array_equal(images, here[there.steps_per_epoch + step][0])
        np.testing.assert_array_equal(labels, here[there.steps_per_epoch + step][1])
        assert keras.backend.standardize_dtype(images.dtype) == dtype


def test_the_calls_of_an_epoch_hold_its_steps_in_order():
    train = batches()
    calls = on_device.DrawnCalls(train._draws_of_step, 8, BATCH_SIZE, steps=4, first_step=8 + 4)
    for index, first in enumerate((12, 16, 20)):
        draws, count, rest = calls[index]
        assert draws.shape == (4, BATCH_SIZE, 4) and draws.dtype == rest.dtype == "int32"
        for number, step in enumerate(range(first, first + 4)):
            expected = train._draws_of_step(*divmod(step, 8))
            np.testing.assert_array_equal(draws[number] if number < count else rest[number - count], expected)
    one_by_one = on_device.DrawnCalls(train._draws_of_step, 8, BATCH_SIZE, steps=1, first_step=0)
    assert [(len(draws), int(count), len(rest)) for draws, count, rest in map(one_by_one.__getitem__, (6, 7))] == [
        (1, 1, 0),
        (0, 0, 1),
    ]


@pytest.fixture(params=[False, True], ids=["plain", "sampled"])
def sampled(request, monkeypatch):
    """Whether branches are sampled; then JAX takes the steps in a compiled loop, as it does on an accelerator."""
    if request.param:
        in_a_loop(monkeypatch)
    return request.param


def in_a_loop(monkeypatch):
    """From now on JAX says that its CPU is an accelerator: Keras, too, then hands data over as it does there."""
    if keras.backend.backend() == "jax":
        import jax

        monkeypatch.setattr(jax, "default_backend", lambda: "gpu")


def test_the_training_is_the_same(sampled, float64):
    """Branches that are left out stay as they are, dropout draws the same, metrics of `compile` apply."""
    one, other = (compiled(steps, ["accuracy"], dropout=0.3, head_dtype="float64") for steps in (1, 4))
    logs = []
    for model, cut_there in ((one, False), (other, True)):
        sample = [dhm.callbacks.SampleBranches("bernoulli", scope="branch", seed=2)] if sampled else []
        train = batches(soft=sampled, cut_there=cut_there)
        logs.append(model.fit(train, epochs=EPOCHS, callbacks=sample, verbose=0).history)
    tolerance = 1e-9 if keras.backend.backend() == "tensorflow" else 2e-5  # JAX stays in float32
    assert logs[0].keys() == logs[1].keys() and "accuracy" in logs[0]
    for name in logs[0]:
        np.testing.assert_allclose(logs[1][name], logs[0][name], rtol=10 * tolerance, err_msg=name)
    assert_same(one, other, tolerance)
    assert int(other.optimizer.iterations) == EPOCHS * 8


@pytest.mark.slow
@pytest.mark.parametrize("mixed", ["mixed_float16"], indirect=True)
def test_mixed_precision(mixed, monkeypatch):
    in_a_loop(monkeypatch)
    one, other = compiled(1), compiled(8)
    for model, cut_there in ((one, False), (other, True)):
        model.fit(batches(cut_there=cut_there), epochs=2, verbose=0)
    assert_same(one, other, 0.02)


def test_killed_within_an_epoch_and_gone_on(tmp_path, monkeypatch):
    in_a_loop(monkeypatch)
    whole = compiled(2)
    expected = whole.fit(batches(), epochs=EPOCHS, verbose=0).history
    train = lambda model, *others: model.fit(
        batches(), epochs=EPOCHS, verbose=0, callbacks=[*others, dhm.callbacks.Resume(tmp_path, every=2)]
    )
    with pytest.raises(Killed):
        train(compiled(2), Kill(6))  # in the second epoch, after a checkpoint at its fourth step
    again = compiled(2)
    assert train(again).history == expected
    assert_same(whole, again, 0)


@pytest.mark.slow
def test_other_data_and_ordinary_batches_after_it():
    model, expected = compiled(4), compiled(4)
    for seed, cut_there in ((5, True), (6, True), (7, False), (6, True)):
        model.fit(batches(cut_there=cut_there, seed=seed), epochs=1, verbose=0)
        expected.fit(batches(cut_there=False, seed=seed), epochs=1, verbose=0)
        sources = {key[-1] for key in model._routing.functions}
        assert len(sources - {None}) == cut_there  # one set of images is held, not each that there was
    assert_same(expected, model, 2e-5)
    images, labels = batches()[0]
    before = values(model.trainable_variables)
    model.train_on_batch(images, labels)
    assert any(not np.array_equal(value, before[path]) for path, value in values(model.trainable_variables).items())


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"class_weight": dict.fromkeys(range(10), 1.0)}, "no class_weight"),
        ({"steps_per_epoch": 4}, "the steps_per_epoch of the batches, 8"),
    ],
)
def test_what_cannot_be_done_is_refused(given, words):
    with pytest.raises(ValueError, match=words):
        compiled().fit(batches(), epochs=1, verbose=0, **given)


@pytest.mark.tensorflow
def test_several_devices_are_refused(mirrored):
    with mirrored.scope():
        model = compiled()
    with pytest.raises(ValueError, match=r"Expected one device.*2 devices.*on_device=False"):
        model.fit(batches(), epochs=1, verbose=0)


def test_too_many_pixels_are_refused():
    images = np.broadcast_to(np.zeros((1, 1, 1, 1), "uint8"), (2**31, 1, 1, 1))
    with pytest.raises(ValueError, match=r"at most 2,147,483,647 pixels.*2,147,483,648 images of 1x1"):
        on_device.ImagesOnDevice(images, np.zeros(1), pad=0)
