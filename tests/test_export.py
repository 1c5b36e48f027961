"""The exported main head: what it holds, what it answers, where it is written."""

import json
import pathlib
import subprocess
import sys

import keras
import numpy as np
import pytest
from networks import batch, resnet8, tiny

import dhm_keras as dhm
from dhm_keras.export import export_main

NORMALIZATION = ((0.4, 0.5, 0.6), (0.2, 0.25, 0.3))

# A process that knows TensorFlow and NumPy, and not this library.
SERVE = """
import json, sys, numpy, tensorflow as tf
path, images, logits = sys.argv[1:]
assert not any(name.startswith("dhm") for name in sys.modules)
loaded = tf.saved_model.load(path)
serve = loaded.signatures["serving_default"]
images = tf.constant(numpy.load(images))
numpy.save(logits, serve(images=images)["logits"])
sizes = [len(serve(images=images[:n])["logits"]) for n in (1, 3)]
print(json.dumps({
    "sizes": sizes,
    "input": {name: [s.dtype.name, s.shape.as_list()] for name, s in serve.structured_input_signature[1].items()},
    "output": {name: [s.dtype.name, s.shape.as_list()] for name, s in serve.structured_outputs.items()},
    "variables": [list(v.shape) for v in loaded.variables_of_main],
}))
"""


def served(path, images, tmp_path):
    """Answers of the SavedModel in a fresh process, and what it tells of itself."""
    np.save(tmp_path / "images.npy", images)
    command = [sys.executable, "-c", SERVE, path, str(tmp_path / "images.npy"), str(tmp_path / "logits.npy")]
    process = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert process.returncode == 0, process.stderr[-2000:]
    return np.load(tmp_path / "logits.npy"), json.loads(process.stdout.splitlines()[-1])


pytestmark = pytest.mark.tensorflow


def test_raw_images_in_float32_logits_out_in_a_fresh_process(tmp_path):
    model = dhm.DHM(resnet8(normalization=NORMALIZATION))
    raw = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3)).astype("uint8")
    logits, told = served(export_main(model, tmp_path / "serving"), raw, tmp_path)
    np.testing.assert_allclose(logits, model.main.predict(raw, verbose=0), atol=1e-6)
    assert told["input"] == {"images": ["uint8", [None, 32, 32, 3]]}
    assert told["output"] == {"logits": ["float32", [None, 10]]}
    assert told["sizes"] == [1, 3]


def test_nothing_of_a_branch_is_in_it(tmp_path):
    branched, plain = resnet8(), resnet8({})
    main = dhm.DHM(branched).main
    plain.set_weights(main.get_weights())
    paths = [
        pathlib.Path(export_main(model, tmp_path / name))
        for name, model in (("branched", dhm.DHM(branched)), ("plain", dhm.DHM(plain, method="baseline")))
    ]
    import tensorflow as tf

    listed = [tf.train.list_variables(str(path / "variables" / "variables")) for path in paths]
    assert listed[0] == listed[1]
    assert len([name for name, _ in listed[0] if "variables_of_main" in name]) == len(main.variables)
    data = [(path / "variables" / "variables.data-00000-of-00001").read_bytes() for path in paths]
    assert data[0] == data[1]
    weights = sum(4 * int(np.prod(v.shape)) for v in main.variables)
    assert weights <= len(data[0]) < weights + 4096  # each variable once
    assert b"aux" not in (paths[0] / "saved_model.pb").read_bytes()


@pytest.mark.parametrize("mixed", ["mixed_float16", "mixed_bfloat16"], indirect=True)
def test_mixed_precision_is_exported_in_float32(mixed, tmp_path):
    import tensorflow as tf

    half = resnet8(normalization=NORMALIZATION)
    path = export_main(dhm.DHM(half), tmp_path)
    keras.config.set_dtype_policy("float32")
    full = resnet8(normalization=NORMALIZATION)
    full.set_weights(half.get_weights())
    raw = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3)).astype("uint8")
    logits = tf.saved_model.load(path).signatures["serving_default"](images=tf.constant(raw))["logits"]
    np.testing.assert_allclose(logits, full.predict(raw, verbose=0)["main"], atol=1e-6)
    assert np.abs(half.predict(raw, verbose=0)["main"] - logits.numpy()).max() > 1e-5


def test_versions_count_up_and_none_is_touched(tmp_path):
    (tmp_path / "7").mkdir()
    (tmp_path / "7" / "mark").touch()
    (tmp_path / "notes").mkdir()
    model = dhm.DHM(tiny())
    assert [pathlib.Path(export_main(model, tmp_path)).name for _ in range(2)] == ["8", "9"]
    assert (tmp_path / "7" / "mark").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["7", "8", "9", "notes"]


def test_a_failed_export_leaves_no_version(tmp_path, monkeypatch):
    import tensorflow as tf

    def full_disk(module, path, **kwargs):
        pathlib.Path(path).mkdir(parents=True)
        raise OSError("No space left on device")

    model = dhm.DHM(tiny())
    export_main(model, tmp_path)
    monkeypatch.setattr(tf.saved_model, "save", full_disk)
    with pytest.raises(OSError):
        export_main(model, tmp_path)
    assert [path.name for path in tmp_path.iterdir() if path.name.isdigit()] == ["1"]
    monkeypatch.undo()
    assert pathlib.Path(export_main(model, tmp_path)).name == "2"


def test_a_network_without_normalization_takes_floats(tmp_path):
    import tensorflow as tf

    model, (x, _) = dhm.DHM(tiny()), batch()
    serve = tf.saved_model.load(export_main(model, tmp_path)).signatures["serving_default"]
    np.testing.assert_allclose(serve(images=tf.constant(x))["logits"], model.main.predict(x, verbose=0), atol=1e-6)


@pytest.mark.parametrize("mixed", ["mixed_bfloat16"], indirect=True)
def test_a_nested_network_in_mixed_precision_is_exported_in_float32(mixed, tmp_path):
    import tensorflow as tf

    def network():
        stem = keras.Sequential([keras.layers.Dense(16, activation="relu"), keras.layers.Dense(16)], name="stem")
        x = keras.Input((4,))
        head = lambda name: keras.layers.Dense(3, dtype="float32", name=name)
        return keras.Model(x, {name: head(name)(stem(x)) for name in ("main", "aux1")})

    half = network()
    path = export_main(dhm.DHM(half), tmp_path)
    keras.config.set_dtype_policy("float32")
    full = network()
    full.set_weights(half.get_weights())
    x = np.random.default_rng(0).standard_normal((5, 4)).astype("float32")
    logits = tf.saved_model.load(path).signatures["serving_default"](images=tf.constant(x))["logits"]
    np.testing.assert_allclose(logits, full.predict(x, verbose=0)["main"], atol=1e-6)


def test_two_inputs_are_refused(tmp_path):
    a, b = keras.Input((4,), name="a"), keras.Input((4,), name="b")
    features = keras.layers.Concatenate()([a, b])
    network = keras.Model([a, b], {name: keras.layers.Dense(3, name=name)(features) for name in ("main", "aux1")})
    with pytest.raises(ValueError, match=r"Expected one input. Received: the inputs \['a', 'b'\]"):
        export_main(dhm.DHM(network), tmp_path)


def test_another_model_is_refused(tmp_path):
    with pytest.raises(ValueError, match="Expected a `DHM`"):
        export_main(tiny(), tmp_path)
