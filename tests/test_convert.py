"""The exported main head as ONNX and LiteRT files."""

import importlib.util
import pathlib
import subprocess

import keras
import numpy as np
import pytest
from networks import RAW, resnet8
from test_check import CLOSE, IMAGES, assert_answers, bessel, only, soon  # noqa: F401, a fixture

import dhm_keras as dhm
from dhm_keras.export import check, convert, export_main, to_litert, to_onnx

pytestmark = pytest.mark.tensorflow
SHAPES = {"logits": 10, "probabilities": 10, "scores": 5, "classes": 5, "class_names": 5}


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A version with its two files, the same network without branches, and the trained model's logits."""
    folder = tmp_path_factory.mktemp("serving")
    keras.utils.set_random_seed(0)
    model = dhm.DHM(resnet8(normalization=RAW))
    version = export_main(model, folder / "branched", class_names=[*"abcdefghij"])
    plain = export_main(resnet8({}, normalization=RAW), folder / "plain", class_names=[*"abcdefghij"])
    assert to_onnx(version) == f"{version}.onnx"
    assert to_litert(version) == f"{version}.tflite"
    return version, plain, model.main.predict(IMAGES, verbose=0)


@pytest.mark.slow
def test_onnx_has_the_signatures_names_types_and_shapes(exported):
    import onnxruntime

    session = onnxruntime.InferenceSession(f"{exported[0]}.onnx")
    (given,) = session.get_inputs()
    assert (given.name, given.type, given.shape[1:]) == ("images", "tensor(uint8)", [32, 32, 3])
    outputs = session.get_outputs()
    assert {each.name: each.shape[1] for each in outputs} == SHAPES
    assert not any(isinstance(each.shape[0], int) for each in [given, *outputs])
    types = {"classes": "tensor(int32)", "class_names": "tensor(string)"}
    assert {each.name: each.type for each in outputs} == {name: types.get(name, "tensor(float)") for name in SHAPES}


@pytest.mark.slow
def test_litert_has_the_signatures_names_types_and_shapes(exported):
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(f"{exported[0]}.tflite")
    assert list(interpreter.get_signature_list()) == ["serving_default"]
    signature = interpreter.get_signature_runner("serving_default")
    told = lambda details: {name: (each["dtype"], [*each["shape_signature"]]) for name, each in details.items()}
    assert told(signature.get_input_details()) == {"images": (np.uint8, [-1, 32, 32, 3])}
    types = {"classes": np.int32, "class_names": np.bytes_}
    assert told(signature.get_output_details()) == {
        name: (types.get(name, np.float32), [-1, shape]) for name, shape in SHAPES.items()
    }


@pytest.mark.slow
def test_the_names_of_the_best_classes_are_in_the_files(exported):
    import onnxruntime
    from ai_edge_litert.interpreter import Interpreter

    version, _, logits = exported
    best = [["abcdefghij"[i] for i in np.argsort(-row)[:5]] for row in logits]
    (names,) = onnxruntime.InferenceSession(f"{version}.onnx").run(["class_names"], {"images": IMAGES})
    assert names.tolist() == best
    names = Interpreter(f"{version}.tflite").get_signature_runner()(images=IMAGES)["class_names"]
    assert [[name.decode() for name in row] for row in names] == best


@pytest.mark.slow
@pytest.mark.parametrize("runtime, suffix", [("onnxruntime", ".onnx"), ("litert", ".tflite")])
def test_batches_of_any_size_in_a_process_without_keras_and_without_this_library(runtime, suffix, exported, tmp_path):
    version, _, logits = exported
    assert_answers(runtime, version + suffix, logits, tmp_path)


@pytest.mark.slow
def test_both_are_in_the_report_beside_the_never_branched_network(exported, monkeypatch):
    only(monkeypatch, "onnxruntime", "litert")
    version, plain, logits = exported
    report = check(version, IMAGES, logits, never_branched=plain)
    assert [row.runtime.split(" ")[0] for row in report.rows] == ["ONNX", "LiteRT"]
    for row in report.rows:
        assert not row.problem and row.difference < CLOSE and not row.others and row.ratio
    assert [row.size for row in report.rows] == [
        pathlib.Path(version + suffix).stat().st_size for suffix in (".onnx", ".tflite")
    ]
    assert report.equal and len(report.notes) == 1
    assert [path.name for path in pathlib.Path(plain).parent.glob("*1*")] == ["1"]  # nothing of the check stays


@pytest.mark.slow
@pytest.mark.parametrize("to_file, kind", [(to_onnx, "ONNX"), (to_litert, "LiteRT")])
def test_an_operator_that_cannot_be_converted_is_named(to_file, kind, tmp_path):
    version = export_main(bessel(), tmp_path)
    with pytest.raises(ValueError, match=rf"1 cannot be converted to {kind}, which has no operator BesselI0e\.$"):
        to_file(version)
    assert [path.name for path in tmp_path.glob("*1*")] == ["1"]


def process(returncode, stderr):
    return lambda *arguments: subprocess.CompletedProcess(arguments, returncode, "", stderr)


@pytest.fixture
def version(tmp_path):
    """What looks like a version, with the files of its conversion."""
    (tmp_path / "1").mkdir()
    for name in ("1/saved_model.pb", "1.onnx", "1.tflite"):
        (tmp_path / name).write_text("old")
    return tmp_path / "1"


@pytest.mark.parametrize(
    "returncode, log, message",
    [
        # tf2onnx writes this, a file that no runtime reads, and ends well
        (0, "2026 - ERROR - Tensorflow op [a/b: Lgamma] is not supported\n2026 - INFO - saved", "no operator Lgamma"),
        (0, "2026 - ERROR - something else\nsaved", r"converted to ONNX: 2026 - ERROR - something else\.$"),
        (1, "Traceback:\na.b.SomeError: no room\n%1 = x\n", r"converted to ONNX: a\.b\.SomeError: no room\.$"),
        (-6, "", r"converted to ONNX: the converter ended without a word\.$"),
    ],
)
def test_a_failed_conversion_is_one_sentence_and_leaves_the_old_file(returncode, log, message, version, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: True)
    monkeypatch.setattr(convert, "run_program", process(returncode, log))
    with pytest.raises(ValueError, match=message):
        to_onnx(version)
    assert sorted(path.name for path in version.parent.iterdir()) == ["1", "1.onnx", "1.tflite"]
    assert version.with_name("1.onnx").read_text() == "old"


def test_a_conversion_replaces_the_old_file(version, monkeypatch):
    def write(*arguments):
        pathlib.Path(arguments[-1]).write_text("new")
        return process(0, "")()

    monkeypatch.setattr(convert, "run_program", write)
    assert to_litert(version) == str(version.with_name("1.tflite"))
    assert version.with_name("1.tflite").read_text() == "new"


def test_without_tf2onnx_the_extra_is_named(version, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"tf2onnx, which is not installed: pip install 'dhm_keras\[onnx\]'"):
        to_onnx(version)


@pytest.mark.parametrize("to_file", [to_onnx, to_litert])
def test_a_folder_that_is_no_version_is_refused(to_file, tmp_path):
    with pytest.raises(ValueError, match=r"argument `version`\. Expected the folder of a version"):
        to_file(tmp_path)


def test_a_converter_sees_no_module_of_the_working_directory_and_no_gpu(tmp_path, monkeypatch):
    (tmp_path / "json.py").write_text("raise SystemExit('taken for a module')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PYTHONPATH", raising=False)
    process = convert.run_program("-c", "import json, os; print(json.dumps(os.environ['CUDA_VISIBLE_DEVICES']))")
    assert process.stdout == '"-1"\n'
