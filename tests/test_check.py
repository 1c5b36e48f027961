"""The parity report: the exported main head in other runtimes, beside the network that never had branches."""

import dataclasses
import importlib
import importlib.util
import pathlib
import shutil
from collections import Counter

import keras
import numpy as np
import pytest
from networks import RAW, resnet8, tiny

import dhm_keras as dhm
from dhm_keras.export import check, convert, export_main, runtimes
from dhm_keras.export.contents import compare, contents, size
from dhm_keras.export.report import Report, Row

pytestmark = pytest.mark.tensorflow

# Sums in another order: these logits are below 10, where neighbouring float32 numbers are 1e-6 apart.
CLOSE = 1e-5
MODULE = importlib.import_module("dhm_keras.export.check")
IMAGES = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3)).astype("uint8")


@pytest.fixture(autouse=True)
def soon(monkeypatch):
    monkeypatch.setattr(MODULE, "SECONDS", 0)


def only(monkeypatch, *keys):
    """Within the test there are no other runtimes."""
    monkeypatch.setattr(MODULE, "RUNTIMES", tuple(each for each in MODULE.RUNTIMES if each.key in keys))


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """Versions with and without branches, and what the trained model answers to `IMAGES`."""
    folder = tmp_path_factory.mktemp("serving")
    keras.utils.set_random_seed(0)
    model = dhm.DHM(resnet8(normalization=RAW))
    version = export_main(model, folder / "branched", class_names=[*"abcdefghij"])
    plain = export_main(resnet8({}, normalization=RAW), folder / "plain", class_names=[*"abcdefghij"])
    return version, plain, model.main.predict(IMAGES, verbose=0)


@pytest.fixture(scope="module")
def report(exported):
    version, plain, logits = exported
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(MODULE, "SECONDS", 0)
        return check(version, IMAGES, logits, never_branched=plain)


def test_tensorflow_and_openvino_answer_as_the_trained_model(report, exported):
    assert [row.runtime.split()[0] for row in report.rows] == ["TensorFlow", "OpenVINO"]
    for row in report.rows:
        assert not row.problem and row.difference < CLOSE and row.others == ()
        assert row.milliseconds > 0 and row.ratio[0] <= row.ratio[1] <= row.ratio[2]
        files = [path for path in pathlib.Path(exported[0]).rglob("*") if path.is_file()]
        assert row.size == sum(path.stat().st_size for path in files)


def test_it_is_made_of_what_the_never_branched_network_is_made_of(report, exported):
    variables = resnet8({}, normalization=RAW).variables
    data = pathlib.Path(exported[0], "variables", "variables.data-00000-of-00001")
    assert report.equal
    assert f"{len(variables)} variables of the same names and shapes, {data.stat().st_size:,} bytes" in report.notes[0]


def test_a_runtime_without_its_file_is_named_with_the_call_that_writes_it(report, exported):
    assert report.notes[1:] == (
        f"ONNX Runtime was not run: dhm_keras.export.to_onnx({exported[0]!r}) writes the file that it reads.",
        f"LiteRT was not run: dhm_keras.export.to_litert({exported[0]!r}) writes the file that it reads.",
    )


def test_a_runtime_that_is_not_installed_is_named_with_the_command_that_brings_it(exported, monkeypatch):
    version, _, logits = exported
    only(monkeypatch, "tensorflow", "openvino")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    report = check(version, IMAGES, logits)
    assert report.rows == () and report.equal is None
    assert report.notes == (
        "TensorFlow was not run: pip install tensorflow",
        "OpenVINO was not run: pip install openvino",
    )


def test_more_images_than_a_batch_are_answered_in_their_order(monkeypatch):
    monkeypatch.setattr(runtimes, "BATCH", 2)
    sizes = []
    run = lambda images: sizes.append(len(images)) or images.reshape(len(images), -1).astype("float32")
    np.testing.assert_array_equal(runtimes.answers(run, IMAGES), IMAGES.reshape(5, -1))
    assert sizes == [2, 2, 1]


def test_the_time_of_each_of_two_is_its_own(monkeypatch):
    """A clock that the models turn on themselves: the first takes 3 ms, the second 2, in whatever order they run."""
    now = [0.0]

    def takes(seconds):
        def run(image):
            now[0] += seconds

        return run

    monkeypatch.setattr(runtimes.time, "perf_counter", lambda: now[0])
    told = runtimes.latency([takes(3e-3), takes(2e-3)], IMAGES[:1], 0.5)
    np.testing.assert_allclose(told["ms"], [3, 2])
    np.testing.assert_allclose(told["ratio"], [1.5] * 3)
    assert now[0] > 0.5


FRESH = """
import sys
runtime, model, folder, program = sys.argv[1:]
sys.path.append(program)
import numpy as np, runtimes
_, run = runtimes.load(runtime, [model])
images = np.load(folder + "/images.npy")
np.savez(folder + "/logits.npz", *[run(images[:count]) for count in (3, 1, 0, 3)])
imported = {name.split(".")[0] for name, module in sys.modules.items() if module}
print(sorted(imported & {"keras", "tf_keras", "dhm_keras"}))
"""


def assert_answers(runtime, model, logits, folder):
    """In a process without Keras and this library a model answers batches of 3, 1, 0 and 3 images with these logits."""
    np.save(folder / "images.npy", IMAGES)
    process = convert.run_program("-c", FRESH, runtime, model, folder, MODULE.PROGRAM.parent)
    assert process.stdout.splitlines()[-1:] == ["[]"], process.stdout + process.stderr[-1000:]
    with np.load(folder / "logits.npz") as answers:
        for answer, count in zip(answers.values(), (3, 1, 0, 3), strict=True):
            assert answer.shape == (count, 10)
            np.testing.assert_allclose(answer, logits[:count], atol=CLOSE)


@pytest.mark.parametrize("runtime", ["openvino", pytest.param("tensorflow", marks=pytest.mark.slow)])
def test_batches_of_any_size_in_a_process_without_keras_and_without_this_library(runtime, exported, tmp_path):
    version, _, logits = exported
    assert_answers(runtime, version, logits, tmp_path)


@pytest.mark.parametrize("which", [0, 1])
def test_a_changed_file_is_told(which, exported, tmp_path):
    *versions, logits = exported
    copy = tmp_path / "1"
    shutil.copytree(versions[which], copy)
    data = copy / "variables" / "variables.data-00000-of-00001"
    changed = bytearray(data.read_bytes())
    changed[1000] ^= 1
    data.write_bytes(changed)
    versions[which] = copy
    with pytest.raises(ValueError, match=r"variables\.data-00000-of-00001"):
        check(versions[0], IMAGES, logits, never_branched=versions[1])


def test_another_network_is_not_equal_and_the_difference_is_named(exported, tmp_path):
    other = export_main(dhm.DHM(tiny()), tmp_path)
    equal, sentence = compare(contents(pathlib.Path(exported[0])), contents(pathlib.Path(other)))
    assert not equal and "images of another shape or type there" in sentence
    assert "bn/beta (16,) only here" in sentence and sentence.startswith("Not equal to the never-branched network: ")


def test_another_graph_of_the_same_variables_is_not_equal(exported):
    here = contents(pathlib.Path(exported[0]))
    there = dataclasses.replace(here, operations=here.operations + Counter(["Tanh", "Tanh"]))
    equal, sentence = compare(here, there)
    assert not equal and "2 Tanh only there" in sentence


def test_longer_counters_in_names_are_no_other_graph(exported):
    here = contents(pathlib.Path(exported[0]))
    equal, sentence = compare(here, dataclasses.replace(here, graph=123_456))
    assert equal and "(123,456 there, by the counters in names)" in sentence


def test_a_network_of_other_images_is_compared_but_not_timed(exported, tmp_path, monkeypatch):
    only(monkeypatch, "openvino")
    version, _, logits = exported
    report = check(version, IMAGES, logits, never_branched=export_main(dhm.DHM(tiny()), tmp_path))
    assert report.equal is False
    assert report.rows[0].difference < CLOSE and report.rows[0].ratio is None


@keras.saving.register_keras_serializable(package="test_check")
class Bessel(keras.layers.Layer):
    """An operator that TensorFlow has, and no other runtime."""

    def call(self, x):
        import tensorflow as tf

        return tf.math.bessel_i0e(x)


def bessel():
    image = keras.Input((4, 4, 1))
    return keras.Model(image, keras.layers.Dense(3)(keras.layers.Flatten()(Bessel()(image))))


def test_a_runtime_that_fails_on_the_model_says_so_in_its_row(tmp_path, monkeypatch):
    only(monkeypatch, "openvino")
    network = bessel()
    images = np.ones((2, 4, 4, 1), "float32")
    report = check(export_main(network, tmp_path), images, network.predict(images, verbose=0))
    assert "BesselI0e" in report.rows[0].problem
    assert f"OpenVINO failed: {report.rows[0].problem}" in str(report)


def test_a_runtime_that_breaks_down_does_not_stop_the_others(exported, tmp_path, monkeypatch):
    program = tmp_path / "program.py"
    program.write_text("import os, sys\nprint('the last word', file=sys.stderr, flush=True)\nos.abort()\n")
    monkeypatch.setattr(MODULE, "PROGRAM", program)
    version, _, logits = exported
    report = check(version, IMAGES, logits)
    assert [row.problem for row in report.rows] == ["its process ended with -6. the last word"] * 2


@pytest.mark.parametrize(
    "images, changes, message",
    [
        (IMAGES.astype("float32"), {}, r"`images`. Expected uint8 \(batch, 32, 32, 3\). Received: float32 \(5, 32, 32"),
        (IMAGES[:, :31], {}, r"`images`. Expected .* Received: uint8 \(5, 31, 32, 3\)"),
        (IMAGES[0], {}, r"`images`. Expected .* Received: uint8 \(32, 32, 3\)"),
        (IMAGES[:4], {}, r"`logits`. Expected finite numbers of shape \(4, 10\). Received: float32 \(5, 10\)"),
        (IMAGES, {"nan": True}, r"`logits`. Expected finite numbers"),
    ],
)
def test_other_arrays_are_refused(images, changes, message, exported):
    version, _, logits = exported
    with pytest.raises(ValueError, match=message):
        check(version, images, logits * np.nan if changes else logits)


def test_a_folder_that_is_no_version_is_refused(exported, tmp_path):
    version, _, logits = exported
    with pytest.raises(ValueError, match=r"argument `version`\. Expected the folder of a version"):
        check(tmp_path, IMAGES, logits)
    with pytest.raises(ValueError, match=r"argument `never_branched`\. Expected the folder of a version"):
        check(version, IMAGES, logits, never_branched=tmp_path)


def test_another_class_is_counted_with_the_margin_that_the_trained_model_had(exported, monkeypatch):
    only(monkeypatch, "openvino")
    version, _, logits = exported
    trained = logits.copy()
    best, second = np.argsort(trained[3])[[-1, -2]]
    trained[3, second] = trained[3, best] + 0.5  # as if the trained model had answered otherwise
    report = check(version, IMAGES, trained)
    assert report.rows[0].others == (3,)
    np.testing.assert_allclose(report.rows[0].margin, 0.5, atol=1e-5)


def test_the_report_as_text():
    rows = (
        Row("TensorFlow 2.21.0", 0.0, (), 0.0, 3.8312, (0.972, 1.004, 1.051), 1509310),
        Row("OpenVINO 2026.4.1", 2.4e-6, (3, 5, 8, 13, 21, 34), 1.5e-6, 12.5, None, 1509310),
        Row("ONNX Runtime", size=1129771, problem="no such operator."),
    )
    report = Report("serving/1", 1000, rows, None, ("LiteRT was not run: pip install ai-edge-litert",))
    assert (
        str(report)
        == """\
serving/1: 1,000 images, compared to the trained model (CPU, float32)
runtime             max |difference|       same class   ms an image    ratio (10 - 90 %)       bytes
TensorFlow 2.21.0            0.0e+00   1,000 of 1,000          3.83   1.00 (0.97 - 1.05)   1,509,310
OpenVINO 2026.4.1            2.4e-06     994 of 1,000         12.50                        1,509,310
ONNX Runtime                  failed                                                       1,129,771
ONNX Runtime failed: no such operator.
OpenVINO 2026.4.1 has another class for 6 of 1,000 images (3, 5, 8, 13, 21, ...); there the trained model's two best \
logits are at most 1.5e-06 apart.
LiteRT was not run: pip install ai-edge-litert"""
    )


def test_the_size_of_a_folder_is_that_of_its_files(tmp_path):
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "x").write_bytes(b"12345")
    (tmp_path / "a" / "b" / "y").write_bytes(b"123")
    assert size(tmp_path) == 8 and size(tmp_path / "a" / "x") == 5
