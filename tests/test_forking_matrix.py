"""Public architectures with random weights: forked, trained, saved, exported, and main as it was."""

import re

import keras
import numpy as np
import pytest
from networks import inferred, sgd

import dhm_keras as dhm

ON_TENSORFLOW = keras.backend.backend() == "tensorflow"

# The smallest images that each takes, in pixels.
ARCHITECTURES = {
    "ResNet50": 32,
    "ResNet50V2": 32,
    "MobileNet": 32,
    "MobileNetV2": 32,
    "MobileNetV3Small": 32,
    "EfficientNetV2B0": 32,
    "ConvNeXtTiny": 32,
    "DenseNet121": 32,
    "Xception": 71,
    "VGG16": 32,
}
ON_BOTH = ("MobileNetV2", "ConvNeXtTiny")


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[] if n in ON_BOTH else pytest.mark.tensorflow) for n in ARCHITECTURES]
)
def test_fork_train_save_export(name, tmp_path):
    size = ARCHITECTURES[name]
    keras.utils.set_random_seed(0)
    model = getattr(keras.applications, name)(weights=None, input_shape=(size, size, 3), classes=5)
    before = model.get_weights()
    images = np.random.default_rng(0).integers(0, 256, (4, size, size, 3)).astype("float32")
    labels = np.array([0, 1, 2, 3])

    network = dhm.fork(model)
    assert list(network.output) == ["main", "aux1", "aux2"]
    probabilities = keras.ops.softmax(inferred(network, images)["main"])
    np.testing.assert_array_equal(keras.ops.convert_to_numpy(probabilities), inferred(model, images))

    dhm_model = dhm.DHM(network)
    for weight, of_model in zip(dhm_model.main.get_weights(), before, strict=True):  # some give 1/5 with any weights
        np.testing.assert_array_equal(weight, of_model)
    dhm_model.compile(sgd(1e-3), run_eagerly=ON_TENSORFLOW)
    weights = network.get_weights()
    history = dhm_model.fit(images, labels, batch_size=4, verbose=0).history  # one step
    assert np.isfinite(list(history.values())).all()
    moved = [(now != then).any() for now, then in zip(network.get_weights(), weights)]
    assert np.mean(moved) > 0.8  # all but what is too small for float32
    for now, then in zip(model.get_weights(), before):
        np.testing.assert_array_equal(now, then)

    logits = inferred(network, images)
    assert np.isfinite(list(logits.values())).all()
    network.save(tmp_path / "network.keras")
    loaded = keras.models.load_model(tmp_path / "network.keras")
    for head, z in inferred(loaded, images).items():
        np.testing.assert_array_equal(z, logits[head])

    main = dhm_model.main
    assert main.count_params() == model.count_params()
    assert not any(re.match("aux", variable.path) for variable in main.variables)
    if ON_TENSORFLOW:
        import tensorflow as tf

        serving = tf.saved_model.load(dhm.export.export_main(dhm_model, tmp_path / "serving"))
        serve = serving.signatures["serving_default"]
        sent = tf.constant(images.astype(serve.structured_input_signature[1]["images"].dtype.as_numpy_dtype))
        np.testing.assert_allclose(serve(images=sent)["logits"], logits["main"], rtol=1e-4, atol=1e-4)
        weights = [v for v in serving.weights if v.dtype.is_floating]  # without the seeds of dropout
        assert sum(int(np.prod(v.shape)) for v in weights) == model.count_params()
