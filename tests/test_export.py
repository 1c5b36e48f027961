"""The exported heads: what a version holds, what its signatures answer, where it is written."""

import json
import pathlib
import subprocess
import sys

import keras
import numpy as np
import pytest
from jpeg_files import encoded, picture
from networks import batch, resnet8, tiny, with_other_weights
from PIL import Image
from programs import start

import dhm_keras as dhm
from dhm_keras.data import jpeg
from dhm_keras.export import export_main, float32_logits, read_card

pytestmark = pytest.mark.tensorflow
NORMALIZATION = ((0.4, 0.5, 0.6), (0.2, 0.25, 0.3))
NAMES = [f"class {i}" for i in range(10)]
RAW = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3)).astype("uint8")

# A process that knows TensorFlow and NumPy, and neither this library nor Keras, which TensorFlow imports if it can.
SERVE = """
import json, sys
sys.modules["keras"] = None
import numpy, tensorflow as tf
path, images, logits = sys.argv[1:]
loaded = tf.saved_model.load(path)
serve = loaded.signatures["serving_default"]
numpy.save(logits, serve(images=tf.constant(numpy.load(images)))["logits"])
told = lambda specs: {name: [spec.dtype.name, spec.shape.as_list()] for name, spec in specs.items()}
print(json.dumps({
    "inputs": {name: told(serve.structured_input_signature[1]) for name, serve in loaded.signatures.items()},
    "outputs": told(serve.structured_outputs),
    "imported": [name for name, module in sys.modules.items() if module and name.startswith(("dhm", "keras"))],
}))
"""


def signature(path, name="serving_default"):
    """A signature of a version as a function of an array to a dict of arrays."""
    import tensorflow as tf

    loaded = tf.saved_model.load(str(path))
    function = loaded.signatures[name]
    (given,) = function.structured_input_signature[1]

    def call(array):
        assert loaded  # it holds the variables
        return {key: value.numpy() for key, value in function(**{given: tf.constant(array)}).items()}

    return call


def logits_of(path, images):
    return signature(path)(images)["logits"]


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A model of raw images with names of its classes, and the path of its version."""
    keras.utils.set_random_seed(0)
    model = dhm.DHM(resnet8(normalization=NORMALIZATION), class_names=NAMES)
    folder = tmp_path_factory.mktemp("serving")
    return model, export_main(model, folder, embedding=True, card={"data": "noise", "metrics": {"error": 0.5}})


def test_a_fresh_process_with_tensorflow_alone_answers_the_same(exported, tmp_path):
    model, path = exported
    np.save(tmp_path / "images.npy", RAW)
    command = [sys.executable, "-c", SERVE, path, str(tmp_path / "images.npy"), str(tmp_path / "logits.npy")]
    process = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert process.returncode == 0, process.stderr[-2000:]
    expected = model.main.predict(RAW, verbose=0)
    np.testing.assert_allclose(np.load(tmp_path / "logits.npy"), expected, rtol=1e-6)
    told = json.loads(process.stdout.splitlines()[-1])
    assert told["inputs"] == {
        "serving_default": {"images": ["uint8", [None, 32, 32, 3]]},
        "logits": {"images": ["float32", [None, 32, 32, 3]]},
        "image_bytes": {"image_bytes": ["string", [None]]},
    }
    assert told["outputs"] == {
        "logits": ["float32", [None, 10]],
        "probabilities": ["float32", [None, 10]],
        "classes": ["int32", [None, 5]],
        "scores": ["float32", [None, 5]],
        "class_names": ["string", [None, 5]],
        "embedding": ["float32", [None, 64]],
    }
    assert told["imported"] == []


@pytest.mark.parametrize("n", [0, 1, 3])
def test_all_signatures_give_the_same_answers(exported, n):
    model, path = exported
    pngs = np.array([encoded(Image.fromarray(image), "PNG") for image in RAW[:n]], object)
    mean, std = (255 * np.array(values) for values in NORMALIZATION)
    given = {
        "serving_default": RAW[:n],
        "image_bytes": pngs if n else np.array([], "S1"),
        "logits": ((RAW[:n] - mean) / std).astype("float32"),
    }
    logits = model.main.predict(RAW, verbose=0)[:n]
    features = keras.Model(model.main.input, model.main.layers[-1].input).predict(RAW, verbose=0)[:n]
    probabilities = np.exp(logits - logits.max(-1, keepdims=True))
    probabilities /= probabilities.sum(-1, keepdims=True)
    classes = np.argsort(-logits, axis=-1, kind="stable")[:, :5]
    for name, array in given.items():
        answer = signature(path, name)(array)
        np.testing.assert_allclose(answer["logits"], logits, rtol=1e-5)
        np.testing.assert_allclose(answer["probabilities"], probabilities, rtol=1e-4, atol=1e-7)
        np.testing.assert_array_equal(answer["classes"], classes)
        np.testing.assert_allclose(answer["scores"], np.take_along_axis(probabilities, classes, -1), rtol=1e-4)
        assert [[name.decode() for name in row] for row in answer["class_names"]] == [
            [NAMES[label] for label in row] for row in classes
        ]
        np.testing.assert_allclose(answer["embedding"], features, rtol=1e-5)


@pytest.mark.parametrize("shape", [(2, 33, 32, 3), (2, 32, 32, 1), (32, 32, 3)])
def test_a_wrong_shape_is_an_error_of_the_graph(exported, shape):
    """In a session as a server has one: TensorFlow's Python would look at the shape before it."""
    import tensorflow as tf
    from tensorflow.python.client import pywrap_tf_session

    with tf.Graph().as_default() as graph, tf.compat.v1.Session() as session:
        loaded = tf.compat.v1.saved_model.load(session, ["serve"], exported[1])
        serve = loaded.signature_def["serving_default"]
        given, answer = (
            graph.get_tensor_by_name(name)._as_tf_output()
            for name in (serve.inputs["images"].name, serve.outputs["logits"].name)
        )
        run = lambda shape: pywrap_tf_session.TF_SessionRun_wrapper(
            session._session, None, {given: np.zeros(shape, "uint8")}, [answer], [], None
        )
        assert run((2, 32, 32, 3))[0].shape == (2, 10)
        with pytest.raises(tf.errors.InvalidArgumentError, match="not compatible with expected shape"):
            run(shape)


@pytest.mark.parametrize("content", [b"", b"no image", encoded(picture(0))[:-300]])
def test_a_corrupt_image_is_an_error(exported, content):
    import tensorflow as tf

    with pytest.raises(tf.errors.InvalidArgumentError):
        signature(exported[1], "image_bytes")(np.array([encoded(picture(0)), content], object))


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("crop", [1.0, 224 / 256])
def test_images_are_decoded_and_resized_as_by_pillow(mode, crop):
    from dhm_keras.export.signatures import decoded

    contents = [encoded(picture(number, mode)) for number in range(4)]
    if mode == "RGB":
        contents.append(encoded(picture(0), "PNG"))
    for content in contents:
        image = jpeg.decode(content)
        if crop == 1.0:
            side = min(image.size)
            left, top = ((edge * 32 // side - 32 + 1) // 2 * side / 32 for edge in image.size)
            box = left, top, left + side, top + side
        else:
            box = jpeg.resized_window(*image.size, 32)
        ours = decoded(np.array([content]), (32, 32, 3), crop).numpy()[0].astype(int)
        theirs = jpeg.resized(image, box, (32, 32)).astype(int)
        assert np.abs(ours - theirs).max() <= 2  # Pillow rounds between the two directions, TensorFlow does not
        assert np.abs(ours - theirs).mean() < 0.5


def test_without_a_crop_the_whole_image_is_resized():
    from dhm_keras.export.signatures import decoded

    image = picture(3)
    ours = decoded(np.array([encoded(image, "PNG")]), (64, 32, 3), None).numpy()[0].astype(int)
    theirs = np.asarray(image.resize((32, 64), Image.Resampling.BILINEAR)).astype(int)
    assert np.abs(ours - theirs).max() <= 1


def test_the_card_tells_what_it_is_and_a_changed_file_is_told(exported, tmp_path):
    model, path = exported
    card = read_card(path)
    assert (card["data"], card["metrics"]) == ("noise", {"error": 0.5})
    assert card["parameters"] == sum(variable.numpy().size for variable in model.main.variables)
    assert card["multiply_adds"] == dhm.analysis.multiply_adds(model.main)
    assert card["signatures"]["image_bytes"]["inputs"] == {"image_bytes": "string (batch)"}
    assert (pathlib.Path(path) / "assets" / "class_names.txt").read_text().splitlines() == NAMES
    written = {file.relative_to(path).as_posix() for file in pathlib.Path(path).rglob("*") if file.is_file()}
    assert card["sha256"].keys() == written - {"assets.extra/model_card.json"}
    copy = pathlib.Path(export_main(dhm.DHM(tiny()), tmp_path))
    data = copy / "variables" / "variables.data-00000-of-00001"
    data.write_bytes(data.read_bytes()[:-1] + b"?")
    with pytest.raises(ValueError, match="data-00000-of-00001 is not what was exported"):
        read_card(copy)
    with pytest.raises(ValueError, match="no version that"):
        read_card(tmp_path)


def test_nothing_of_a_branch_is_in_it(tmp_path):
    import tensorflow as tf

    branched, plain = resnet8(), resnet8({})
    main = dhm.DHM(branched).main
    plain.set_weights(main.get_weights())
    paths = [
        pathlib.Path(export_main(model, tmp_path / name))
        for name, model in (("branched", dhm.DHM(branched)), ("plain", dhm.DHM(plain, method="baseline")))
    ]
    listed = [tf.train.list_variables(str(path / "variables" / "variables")) for path in paths]
    assert listed[0] == listed[1]
    assert len([name for name, _ in listed[0] if name.startswith("weights/")]) == len(main.variables)
    data = [(path / "variables" / "variables.data-00000-of-00001").read_bytes() for path in paths]
    assert data[0] == data[1]
    weights = sum(4 * int(np.prod(v.shape)) for v in main.variables)
    assert weights <= len(data[0]) < weights + 4096  # each variable once
    assert b"aux" not in (paths[0] / "saved_model.pb").read_bytes()


def test_another_head_and_the_mean_of_several(tmp_path):
    model, (x, _) = dhm.DHM(with_other_weights(tiny())), batch()
    heads = model.predict(x, verbose=0)
    np.testing.assert_allclose(logits_of(export_main(model, tmp_path, "aux1"), x), heads["aux1"], rtol=1e-5)
    answer = signature(export_main(model, tmp_path, ("main", "aux2")))(x)
    mean = np.mean([keras.ops.softmax(heads[head]) for head in ("main", "aux2")], axis=0)
    np.testing.assert_allclose(answer["probabilities"], mean, rtol=1e-5)
    np.testing.assert_allclose(answer["logits"], np.log(mean), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(float32_logits(model, x, ("main", "aux2")), np.log(mean), rtol=1e-5, atol=1e-6)
    assert b"aux1" not in (tmp_path / "2" / "saved_model.pb").read_bytes()


@pytest.mark.parametrize("mixed", ["mixed_float16", "mixed_bfloat16"], indirect=True)
def test_mixed_precision_is_exported_in_float32(mixed, tmp_path):
    half = resnet8(normalization=NORMALIZATION)
    path = export_main(dhm.DHM(half), tmp_path)
    keras.config.set_dtype_policy("float32")
    full = resnet8(normalization=NORMALIZATION)
    full.set_weights(half.get_weights())
    logits = logits_of(path, RAW)
    np.testing.assert_allclose(logits, float32_logits(dhm.DHM(half), RAW), atol=1e-6)
    np.testing.assert_allclose(logits, full.predict(RAW, verbose=0)["main"], atol=1e-6)
    assert np.abs(half.predict(RAW, verbose=0)["main"] - logits).max() > 1e-5


@pytest.mark.parametrize("mixed", ["mixed_bfloat16"], indirect=True)
def test_a_nested_network_in_mixed_precision_is_exported_in_float32(mixed, tmp_path):
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
    np.testing.assert_allclose(logits_of(path, x), full.predict(x, verbose=0)["main"], atol=1e-6)


def test_a_model_on_several_devices_and_its_saved_file(mirrored, tmp_path):
    with mirrored.scope():
        model = dhm.DHM(with_other_weights(tiny()))
    x, _ = batch()
    expected = model.main.predict(x, verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    for each in (model, loaded, loaded.network, loaded.main):
        np.testing.assert_allclose(logits_of(export_main(each, tmp_path / "serving"), x), expected, rtol=1e-5)


@pytest.mark.slow
def test_weights_trained_on_jax_are_exported_by_tensorflow(tmp_path):
    code = f"""
import numpy as np, keras, dhm_keras as dhm
from networks import batch, sgd, tiny
model = dhm.DHM(tiny(), class_names=list("abc"))
model.compile(optimizer=sgd())
x, y = batch()
model.fit(x, y, epochs=2, verbose=0)
model.save({str(tmp_path / "jax.keras")!r})
np.save({str(tmp_path / "logits.npy")!r}, model.main.predict(x, verbose=0))
"""
    process = start("-c", code, KERAS_BACKEND="jax", PYTHONPATH=str(pathlib.Path(__file__).parent))
    assert process.returncode == 0, process.stderr[-2000:]
    path = export_main(keras.models.load_model(tmp_path / "jax.keras"), tmp_path)
    answer = signature(path)(batch()[0])
    np.testing.assert_allclose(answer["logits"], np.load(tmp_path / "logits.npy"), rtol=1e-4, atol=1e-5)
    assert set(answer["class_names"].ravel()) == {b"a", b"b", b"c"}


def network_of(kind):
    """A network that someone else could have built, and images as it takes them."""
    layers = keras.layers
    shape = (None, None, 3) if kind == "any size" else (8, 8, 3)
    x = image = keras.Input(shape, dtype="uint8" if "uint8" in kind else "float32")
    if kind == "uint8, normalised":
        x = layers.Normalization(mean=[99.0] * 3, variance=[100.0] * 3)(x)
    elif kind == "uint8":
        x = keras.ops.cast(x, "float32") / 255
    elif kind in ("rescaling", "any size"):
        x = layers.Rescaling(1 / 127.5, offset=-1.0)(x)
    elif kind == "normalised 0-1":
        x = layers.Normalization(mean=[0.4] * 3, variance=[0.06] * 3)(x)
    elif kind == "floats":
        x = layers.Rescaling(2.0)(x)
    logits = layers.Dense(3)(layers.GlobalAveragePooling2D()(layers.Conv2D(4, 3, activation="relu")(x)))
    if kind == "sequential":
        return keras.Sequential([keras.Input((8, 8, 3)), layers.Flatten(), layers.Dense(3)]), batch(3)[0]
    raw = kind in ("uint8, normalised", "uint8", "rescaling", "any size")
    return keras.Model(image, {"main": logits}), RAW[:, :8, :8] if raw else batch(3)[0]


@pytest.mark.parametrize(
    ("kind", "signatures"),
    [
        ("uint8, normalised", "serving_default logits image_bytes"),
        ("uint8", "serving_default image_bytes"),
        ("rescaling", "serving_default logits image_bytes"),
        ("any size", "serving_default logits"),
        ("normalised 0-1", "serving_default logits"),  # takes floats, whoever divides them by 255
        ("floats", "serving_default logits"),
        ("sequential", "serving_default logits"),
    ],
)
def test_networks_of_others(kind, signatures, tmp_path):
    network, images = network_of(kind)
    path = export_main(network, tmp_path)
    expected = network.predict(images, verbose=0)
    expected = expected["main"] if isinstance(expected, dict) else expected
    np.testing.assert_allclose(logits_of(path, images), expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(float32_logits(network, images), expected, rtol=1e-5, atol=1e-6)
    told = read_card(path)["signatures"]
    assert told.keys() == set(signatures.split())
    if kind == "any size":
        assert told["serving_default"]["inputs"] == {"images": "uint8 (batch, height, width, 3)"}


def test_a_layer_that_nobody_registered_is_exported(tmp_path):
    class Twice(keras.layers.Layer):
        def call(self, x):
            return 2 * x

    image = keras.Input((4,))
    both = keras.layers.Add()([Twice()(image), image]) + 1.0  # a layer and an operation, both called Add
    network = keras.Model(image, {"main": keras.layers.Dense(3)(both)})
    x = batch(3, shape=(4,))[0]
    logits = logits_of(export_main(dhm.DHM(network, method="baseline"), tmp_path), x)
    np.testing.assert_allclose(logits, network.predict(x, verbose=0)["main"], rtol=1e-5)
