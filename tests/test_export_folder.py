"""The folder that is exported into: versions, what is refused, what a killed export leaves."""

import logging
import pathlib
import subprocess
import sys
import time

import keras
import numpy as np
import pytest
from networks import resnet8, tiny

import dhm_keras as dhm
from dhm_keras.export import export_main, read_card
from dhm_keras.export.bundle import versions

pytestmark = pytest.mark.tensorflow


def test_versions_count_up_and_none_is_touched(tmp_path):
    (tmp_path / "7").mkdir()
    (tmp_path / "7" / "mark").touch()
    (tmp_path / ".partial-8").mkdir()  # of a process that was killed
    (tmp_path / ".partial-8" / "saved_model.pb").touch()
    model = dhm.DHM(tiny())
    assert [pathlib.Path(export_main(model, tmp_path)).name for _ in range(2)] == ["8", "9"]
    assert (tmp_path / "7" / "mark").exists()
    assert not [path for path in tmp_path.iterdir() if "partial" in path.name]
    assert read_card(tmp_path / "8")


def test_nothing_is_told_of_a_folder_that_is_renamed(tmp_path):
    import tensorflow as tf

    logger, told = tf.get_logger(), []
    level, keep = logger.level, lambda record: told.append(record.getMessage())
    logger.setLevel("INFO")  # as in a notebook
    logger.addFilter(keep)
    try:
        export_main(tiny(), tmp_path)
        assert logger.level == logging.INFO
    finally:
        logger.removeFilter(keep)
        logger.setLevel(level)
    assert not told


def test_what_would_harm_a_server_is_refused(tmp_path):
    """Weights that are not finite, and versions for other images than those that clients send."""
    network = tiny()
    export_main(network, tmp_path)
    with pytest.raises(ValueError, match=r"has versions of tiny.*take images float32 \(batch, 8, 8, 3\)\. resnet8?"):
        export_main(resnet8(name="resnet8"), tmp_path)
    weights = network.get_weights()
    weights[0][:] = np.nan
    network.set_weights(weights)
    with pytest.raises(ValueError, match=r"is not exported: the weight \w+/\w+ has values that are not finite"):
        export_main(network, tmp_path)
    assert versions(tmp_path) == [1]


@pytest.mark.slow
def test_a_killed_export_leaves_whole_versions_alone(tmp_path):
    code = f"""
import dhm_keras as dhm
from networks import tiny
model = dhm.DHM(tiny())
while True:
    dhm.export.export_main(model, {str(tmp_path)!r})
"""
    path = str(pathlib.Path(__file__).parent)
    process = subprocess.Popen([sys.executable, "-c", f"import sys; sys.path.insert(0, {path!r})\n{code}"])
    try:
        end = time.monotonic() + 120
        while len(versions(tmp_path)) < 3 and time.monotonic() < end:
            time.sleep(0.01)
        while not list(tmp_path.glob(".partial-*")) and time.monotonic() < end:
            time.sleep(0.001)
    finally:
        process.kill()
        process.wait()
    whole = versions(tmp_path)
    assert len(whole) >= 3 and list(tmp_path.glob(".partial-*"))  # it was killed within an export
    for version in whole:
        assert read_card(tmp_path / str(version))
    assert export_main(dhm.DHM(tiny()), tmp_path) == str(tmp_path / str(max(whole) + 1))
    assert not list(tmp_path.glob(".partial-*"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"heads": "aux3"}, r"one or several of \['aux1', 'aux2', 'main'\].*Received: 'aux3'"),
        ({"heads": ()}, "one or several"),
        ({"heads": None}, "one or several"),
        ({"heads": [["main"]]}, "one or several"),
        ({"heads": ("main", "main")}, "each once"),
        ({"crop": 1.5}, r"a number in \(0, 1\], or None. Received: 1.5"),
        ({"crop": "squash"}, r"a number in \(0, 1\]"),
        ({"class_names": ["a", "b"]}, "Expected 3 strings of one line, .* Received: 2 names"),
        ({"class_names": ["a", "b", "c\nd"]}, r"among them 'c\\nd'"),
        ({"heads": ("main", "aux1"), "embedding": True}, "with one head alone"),
        ({"class_names": 5}, "Expected 3 strings"),
        ({"card": {"sha256": {}}}, r"without the entries \['sha256'\]"),
        ({"card": {"x": np.float32(1)}}, "a dict of JSON values"),
        ({"card": [1]}, "a dict of JSON values"),
        ({"directory": "gs://bucket"}, "Expected a local path"),
    ],
)
def test_arguments_are_looked_at_before_anything_is_written(arguments, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        export_main(dhm.DHM(tiny()), **{"directory": tmp_path / "serving", **arguments})
    assert not (tmp_path / "serving").exists()


def test_models_that_cannot_be_exported(tmp_path):
    a, b = keras.Input((4,), name="a"), keras.Input((4,), name="b")
    features = keras.layers.Concatenate()([a, b])
    network = keras.Model([a, b], {name: keras.layers.Dense(3, name=name)(features) for name in ("main", "aux1")})
    with pytest.raises(ValueError, match=r"Expected one input. Received: the inputs \['a', 'b'\]"):
        export_main(dhm.DHM(network), tmp_path)
    image = keras.Input((8, 8, 3))
    for model in (keras.Model(image, keras.layers.Conv2D(3, 1)(image)), "model.keras", None):
        with pytest.raises(ValueError, match="Expected a `DHM`, or a functional model"):
            export_main(model, tmp_path)
    pooled = keras.layers.GlobalAveragePooling2D()(image)
    nested = keras.Sequential([keras.Input((6,)), keras.layers.ReLU(), keras.layers.Dense(3)], name="nested")
    for logits, last in ((pooled, "GlobalAveragePooling2D"), (nested(keras.layers.Dense(6)(pooled)), "'nested'")):
        with pytest.raises(ValueError, match=f"ends in a Dense layer.*{last}"):
            export_main(keras.Model(image, logits), tmp_path, embedding=True)
    dense = keras.layers.Dense(3, activation="softmax")(pooled)
    last = (keras.layers.Softmax(), keras.layers.Activation("softmax"), keras.ops.softmax)
    for probabilities in (dense, *(layer(pooled) for layer in last)):
        with pytest.raises(ValueError, match="'main' that ends in a softmax"):
            export_main(keras.Model(image, probabilities), tmp_path)
    unlike = {"main": keras.layers.Dense(3)(pooled), "aux1": keras.layers.Dense(4)(pooled)}
    with pytest.raises(ValueError, match="Invalid value for argument `model`"):
        export_main(keras.Model(image, unlike), tmp_path)
    doubled = keras.layers.Lambda(lambda x: 2 * x)(image)
    with pytest.raises(ValueError, match=r"cannot be copied: .*no lambda\."):
        export_main(keras.Model(image, keras.layers.Dense(3)(keras.layers.Flatten()(doubled))), tmp_path)
    with pytest.raises(ValueError, match="Expected a `DHM`, or a functional model"):
        export_main(keras.Sequential([keras.layers.Dense(3)]), tmp_path)
    assert not list(tmp_path.iterdir())
