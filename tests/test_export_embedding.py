"""The export of a network that persons are compared with: the embedding, and nothing of what it was trained with."""

import json
import pathlib
import runpy
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from absl import flags
from absl.testing import flagsaver
from model_server import serving
from networks import RAW, inferred
from programs import recipe_module
from tensorflow_serving.apis import prediction_log_pb2

import dhm_keras as dhm
from dhm_keras.export import check, export_main, float32_logits, read_card, to_litert, to_onnx
from dhm_keras.models import Branch, cdnet
from dhm_keras.reid import Extractor

pytestmark = pytest.mark.tensorflow

PERSONS = [f"person {number}" for number in range(5)]
IMAGES = np.random.default_rng(0).integers(0, 256, (3, 64, 32, 3)).astype("uint8")
FEATURES = 128 + 256  # of the global head, a quarter as wide, and of the local one
SIGNATURES = {"serving_default", "image_bytes", "normalized"}


@pytest.fixture(scope="module")
def model():
    """A network with both necks and a branch, its batch statistics and classifiers moved from where they start."""
    branches = {"aux1": Branch(2, (1,), (64,))}
    network = cdnet(((3, 5),) * 6, 5, branches, (64, 32, 3), width=0.25, normalization=RAW)
    rng = np.random.default_rng(0)
    for variable in network.variables:
        variable.assign_add(0.01 * rng.standard_normal(variable.shape))
    return dhm.DHM(network, class_names=PERSONS, triplet_weight=1.0)


@pytest.fixture(scope="module")
def folder(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("serving")
    export_main(model, folder, crop=None)
    return folder


@pytest.fixture(scope="module")
def expected(model):
    return np.asarray(inferred(model.main, IMAGES))


@pytest.fixture(scope="module")
def serve(folder):
    """A function of a signature's name and its input to what the version answers, a dict of arrays."""
    return signatures(folder / "1")


def signatures(path):
    loaded = tf.saved_model.load(str(path))

    def answer(name, **given):
        given = {key: tf.constant(array) for key, array in given.items()}
        return {key: tensor.numpy() for key, tensor in loaded.signatures[name](**given).items()}

    return answer


def test_all_signatures_give_the_embedding_alone(serve, expected):
    mean, std = (255 * np.array(each) for each in RAW)
    pngs = np.array([tf.io.encode_png(image).numpy() for image in IMAGES], object)
    for name, given in (
        ("serving_default", {"images": IMAGES}),
        ("image_bytes", {"image_bytes": pngs}),
        ("normalized", {"images": ((IMAGES - mean) / std).astype("float32")}),
    ):
        answers = serve(name, **given)
        assert answers.keys() == {"embedding"} and answers["embedding"].shape == (3, FEATURES)
        np.testing.assert_allclose(answers["embedding"], expected, atol=1e-6 * abs(expected).max())
    assert serve("serving_default", images=IMAGES[:0])["embedding"].shape == (0, FEATURES)


def stored(path):
    """Names and shapes of the variables in a version, and the bytes of their file."""
    listed = tf.train.list_variables(str(pathlib.Path(path) / "variables" / "variables"))
    size = (pathlib.Path(path) / "variables" / "variables.data-00000-of-00001").stat().st_size
    return [shape for name, shape in listed if name.startswith("weights/")], size


def test_what_is_dropped_at_inference_is_not_in_it(model, folder):
    shapes, size = stored(folder / "1")
    assert sorted(map(tuple, shapes)) == sorted(tuple(variable.shape) for variable in model.main.variables)
    weights = 4 * sum(int(np.prod(shape)) for shape in shapes)
    assert weights <= size < weights + 200 * len(shapes)  # each once, with its names
    graph = (folder / "1" / "saved_model.pb").read_bytes()
    assert b"main_local_conv" in graph and b"aux1" not in graph and b"_dense" not in graph
    assert not (folder / "1" / "assets" / "class_names.txt").exists()
    assert not [file for file in (folder / "1").rglob("*") if file.is_file() and b"person 3" in file.read_bytes()]


def test_the_card_and_the_warm_up_know_it(model, folder, serve):
    card = read_card(folder / "1")
    assert card["signatures"].keys() == SIGNATURES
    assert card["signatures"]["serving_default"]["outputs"] == {"embedding": f"float32 (batch, {FEATURES})"}
    assert card["heads"] == [] and card["classes"] is None
    assert card["multiply_adds"] == dhm.analysis.multiply_adds(model.main)
    assert card["parameters"] == sum(weight.size for weight in model.main.get_weights())
    records = tf.data.TFRecordDataset(str(folder / "1" / "assets.extra" / "tf_serving_warmup_requests"))
    logs = [prediction_log_pb2.PredictionLog.FromString(record.numpy()).predict_log.request for record in records]
    assert {request.model_spec.signature_name for request in logs} == SIGNATURES
    for request in logs:
        given = {name: tf.make_ndarray(tensor) for name, tensor in request.inputs.items()}
        assert serve(request.model_spec.signature_name, **given)["embedding"].shape == (1, FEATURES)


def test_features_are_extracted_with_it(folder, expected):
    extract = Extractor(folder / "1")
    assert (extract.size, extract.dim) == ((64, 32), FEATURES)
    np.testing.assert_allclose(extract(IMAGES), expected, atol=1e-6 * abs(expected).max())


def small(last=lambda x: x):
    """The image, two sets of logits and the pooled features that they are of, or something made of them."""
    image = keras.Input((8, 8, 3))
    pooled = keras.layers.GlobalAveragePooling2D(name="pooled")(keras.layers.Conv2D(4, 3)(image))
    return image, *(keras.layers.Dense(3, name=name)(pooled) for name in ("main", "aux1")), last(pooled)


@pytest.fixture(scope="module")
def small_model():
    """A model of float images, and three of them."""
    image, main, aux1, pooled = small()
    of_neck = {"main_features": pooled, "aux1_features": pooled, "embedding": pooled}
    network = keras.Model(image, {"main": main, "aux1": aux1, **of_neck}, name="small")
    return dhm.DHM(network, class_names=["a", "b", "c"]), (IMAGES[:, :8, :8] / 255).astype("float32")


def test_main_alone_is_exported_as_what_it_is_said_to_give(small_model, tmp_path):
    model, images = small_model
    with pytest.raises(
        ValueError, match=r"`model`. Expected logits. Received: 'small_main', which ends in 'pooled', a"
    ):
        export_main(model.main, tmp_path / "serving")
    assert not (tmp_path / "serving").exists()
    features = inferred(model.main, images)
    serve = signatures(export_main(model.main, tmp_path, heads=None))
    np.testing.assert_allclose(serve("serving_default", images=images)["embedding"], features, rtol=1e-5)
    np.testing.assert_allclose(float32_logits(model.main, images, heads=None), features, rtol=1e-5)
    np.testing.assert_allclose(float32_logits(model, images), features, rtol=1e-5)


def test_a_branch_is_exported_with_its_logits_and_names(small_model, tmp_path):
    model, images = small_model
    answers = signatures(export_main(model, tmp_path, heads="aux1"))("logits", images=images)
    np.testing.assert_allclose(answers["logits"], inferred(model, images)["aux1"], rtol=1e-5)
    assert answers.keys() == {"logits", "probabilities", "classes", "scores", "class_names"}


def test_the_callback_ships_it_and_asking_for_it_changes_nothing(small_model, tmp_path):
    model, images = small_model
    callback = dhm.callbacks.ExportMain(tmp_path, embedding=True)
    callback.set_model(model)
    callback.on_train_begin()
    callback.on_train_end()
    answers = signatures(tmp_path / "1")("normalized", images=images)  # the network takes floats, as they are
    np.testing.assert_allclose(answers["embedding"], inferred(model.main, images), rtol=1e-5)
    assert stored(export_main(model, tmp_path, ["main"])) == stored(tmp_path / "1")
    with pytest.raises(ValueError, match=r"`class_names`. Expected None with a network that ships an embedding"):
        export_main(model, tmp_path, class_names=["a", "b", "c"])
    with pytest.raises(ValueError, match=r"`heads`. Expected one or several of \['aux1', 'main'\]"):
        export_main(model, tmp_path, heads=None)


@pytest.mark.parametrize(
    "last",
    [
        lambda x: x,
        keras.layers.BatchNormalization(),
        dhm.layers.BatchNormalization(),
        keras.layers.ReLU(),
        keras.layers.UnitNormalization(),
        lambda x: keras.layers.Concatenate()([x, x]),
    ],
)
def test_one_output_that_no_classifier_gives_is_refused(last, tmp_path):
    image, _, _, features = small(last)
    with pytest.raises(ValueError, match=r"pass heads=None; if logits, a model whose output is the dict"):
        export_main(keras.Model(image, features), tmp_path)
    assert float32_logits(keras.Model(image, {"main": features}), np.ones((2, 8, 8, 3))).shape[0] == 2


def test_the_clients_print_it(folder, expected, tmp_path, monkeypatch, capsys):
    path = tmp_path / "person.png"
    path.write_bytes(tf.io.encode_png(IMAGES[0]).numpy())
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with serving(folder) as (url, address):
        for client, server in (("rest", ["--url", url]), ("grpc", ["--address", address])):
            program = runpy.run_path(str(folder / f"client_{client}.py"))
            monkeypatch.setattr(sys, "argv", [f"client_{client}.py", str(path), *server])
            program["main"]()
            printed, numbers = capsys.readouterr().out.splitlines()
            assert printed == str(path)
            np.testing.assert_allclose([float(number) for number in numbers.split()], expected[0], rtol=1e-4, atol=1e-4)


@pytest.fixture
def only(monkeypatch):
    """A function that leaves some runtimes, which are not timed for long."""
    module = sys.modules["dhm_keras.export.check"]
    monkeypatch.setattr(module, "SECONDS", 0)
    of = lambda keys: tuple(each for each in module.RUNTIMES if each.key in keys)
    return lambda *keys: monkeypatch.setattr(module, "RUNTIMES", of(keys))


@pytest.mark.parametrize(
    "keys", [("openvino",), pytest.param(("tensorflow", "onnxruntime", "litert"), marks=pytest.mark.slow)]
)
def test_other_runtimes_give_the_same(small_model, keys, only, tmp_path):
    model, images = small_model
    version = export_main(model, tmp_path)
    if len(keys) > 1:
        to_onnx(version)
        to_litert(version)
    only(*keys)
    report = check(version, images, float32_logits(model, images), never_branched=version)
    assert report.equal and len(report.rows) == len(keys)
    for row in report.rows:
        assert not row.problem and row.others is None and row.difference < 1e-5 and row.ratio
    assert f"{report.rows[0].difference:.1e}                " in str(report)  # no classes are compared
    with pytest.raises(ValueError, match=r"Expected finite numbers of shape \(3, 4\)"):
        check(version, images, np.zeros((3, 3)))


@pytest.mark.slow
def test_the_recipe_compares_it_with_the_network_without_branches(only, tmp_path, capsys):
    """CDNet as published, with its 1,796,600 parameters."""
    only("tensorflow")
    network = dhm.models.cdnet(num_classes=5, branches=("aux1",), input_shape=(64, 32, 3), normalization=RAW)
    model = dhm.DHM(network, class_names=PERSONS)
    assert sum(variable.numpy().size for variable in model.main.trainable_variables) == 1_796_600
    model.save(tmp_path / "model.keras")
    with recipe_module("export") as recipe, flagsaver.flagsaver():
        recipe.main(flags.FLAGS(["export.py", str(tmp_path / "model.keras"), str(tmp_path / "serving"), "--check"]))
    shapes, size = stored(tmp_path / "serving" / "1")
    assert f"Equal to the never-branched network: {len(shapes)} variables" in (out := capsys.readouterr().out), out
    assert sum(int(np.prod(shape)) for shape in shapes) == sum(weight.size for weight in model.main.get_weights())
    assert 4 * 1_796_600 < size < 1.1 * 4 * 1_796_600
    assert json.loads((tmp_path / "serving" / "1" / "assets.extra" / "model_card.json").read_text())["classes"] is None
