"""What stands around a SavedModel for a server and its clients: parsed by the server's own messages, and tried."""

import base64
import json
import os
import pathlib
import re
import runpy
import shutil
import subprocess
import sys
import urllib.error
import urllib.request

import numpy as np
import pytest
import tensorflow as tf
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format, wrappers_pb2
from model_server import serving
from networks import RAW, resnet8
from tensorflow_serving.apis import prediction_log_pb2
from tensorflow_serving.config import model_server_config_pb2

from dhm_keras.export import export_main
from dhm_keras.export.server_files import write_server_files
from dhm_keras.export.warmup import write_warmup

pytestmark = pytest.mark.tensorflow

NAMES = [f"class {number} é" for number in range(10)]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    """A folder with one version of a network of raw images, as it is exported."""
    folder = tmp_path_factory.mktemp("serving") / "a folder"
    network = resnet8(branches={}, normalization=RAW, input_shape=(16, 16, 3), name="résnet 8")
    export_main(network, folder, class_names=NAMES)
    return folder


@pytest.fixture(scope="module")
def server(bundle):
    with serving(bundle) as addresses:
        yield addresses


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3), "uint8")


@pytest.fixture(scope="module")
def signatures(bundle):
    return tf.saved_model.load(bundle / "1").signatures


@pytest.fixture
def pictures(images, tmp_path):
    """The images as files."""
    paths = [tmp_path / f"{number}.png" for number in range(len(images))]
    for path, image in zip(paths, images):
        path.write_bytes(tf.io.encode_png(image).numpy())
    return paths


def parsed(message, text):
    return text_format.Parse(text, message)


def records(path):
    return [
        prediction_log_pb2.PredictionLog.FromString(record.numpy()) for record in tf.data.TFRecordDataset(str(path))
    ]


# The warm-up.


def test_warm_up_records_are_prediction_logs(tmp_path):
    requests = {
        "a": {"images": np.arange(2 * 90 * 100 * 3, dtype="uint8").reshape(2, 90, 100, 3)},  # lengths of three bytes
        "b": {"image_bytes": np.array([b"", b"\x00\xff"], object), "other": np.float32([[0.5]])},
    }
    write_warmup(tmp_path / "assets.extra" / "tf_serving_warmup_requests", "näme", requests)
    logs = records(tmp_path / "assets.extra" / "tf_serving_warmup_requests")
    assert [log.predict_log.request.model_spec.signature_name for log in logs] == list(requests)
    for log, inputs in zip(logs, requests.values()):
        assert log.WhichOneof("log_type") == "predict_log"
        assert log.predict_log.request.model_spec.name == "näme"
        assert set(log.predict_log.request.inputs) == set(inputs)
        for key, value in inputs.items():
            np.testing.assert_array_equal(tf.make_ndarray(log.predict_log.request.inputs[key]), value)
        size = log.ByteSize()
        log.DiscardUnknownFields()
        assert log.ByteSize() == size  # there were none


def test_an_exported_version_brings_a_record_for_each_signature(bundle, signatures):
    logs = records(bundle / "1" / "assets.extra" / "tf_serving_warmup_requests")
    requests = {log.predict_log.request.model_spec.signature_name: log.predict_log.request for log in logs}
    assert set(requests) == set(signatures) == {"serving_default", "logits", "image_bytes"}
    for name, request in requests.items():
        assert request.model_spec.name == "r_snet_8"
        answer = signatures[name](**{key: tf.constant(tf.make_ndarray(value)) for key, value in request.inputs.items()})
        assert answer["logits"].shape == (1, 10)


# The server's files.


def test_models_config_serves_the_newest_version(bundle):
    text = (bundle / "models.config").read_text()
    config = parsed(model_server_config_pb2.ModelServerConfig(), text)
    (model,) = config.model_config_list.config
    assert (model.name, model.base_path, model.model_platform) == ("r_snet_8", "/models/r_snet_8", "tensorflow")
    assert model.model_version_policy.latest.num_versions == 1
    # The other policy, as the file's comment has it.
    rollback = re.sub("latest {.*}", re.search(r"specific {.*}", text)[0] + " }", text)
    (model,) = parsed(model_server_config_pb2.ModelServerConfig(), rollback).model_config_list.config
    assert list(model.model_version_policy.specific.versions) == [1]


def batching_parameters():
    """`BatchingParameters` of tensorflow_serving/servables/tensorflow/session_bundle_config.proto, in part."""
    file = descriptor_pb2.FileDescriptorProto(name="batching.proto", package="tensorflow.serving", syntax="proto3")
    file.dependency.append("google/protobuf/wrappers.proto")
    message = file.message_type.add(name="BatchingParameters")
    fields = ("max_batch_size", "batch_timeout_micros", "max_enqueued_batches", "num_batch_threads")
    for number, name in enumerate(fields, 1):
        message.field.add(name=name, number=number, type=11, type_name=".google.protobuf.Int64Value", label=1)
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(wrappers_pb2.DESCRIPTOR.serialized_pb)
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("tensorflow.serving.BatchingParameters"))()


def test_batching_config(bundle):
    text = (bundle / "batching.config").read_text()
    parameters = parsed(batching_parameters(), text)
    assert {field.name: value.value for field, value in parameters.ListFields()} == {
        "max_batch_size": 64,
        "batch_timeout_micros": 1000,
        "max_enqueued_batches": 100,
    }
    with_threads = parsed(batching_parameters(), text.replace("# num_batch", "num_batch"))
    assert with_threads.num_batch_threads.value == 4


def test_requests_can_be_computed_as_one_batch(signatures, images):
    """What a server's batching asks of a signature: outputs that are split as the inputs were put together."""
    pngs = tf.stack([tf.io.encode_png(image) for image in images])
    for name, inputs in (
        ("serving_default", {"images": tf.constant(images)}),
        ("logits", {"images": tf.constant(images, tf.float32)}),
        ("image_bytes", {"image_bytes": pngs}),
    ):
        together = signatures[name](**inputs)
        for number in range(2):
            alone = signatures[name](**{key: value[number : number + 1] for key, value in inputs.items()})
            for key, value in together.items():
                assert len(value) == 2
                if value.dtype.is_floating:
                    np.testing.assert_allclose(value[number], alone[key][0], rtol=1e-4, atol=1e-5)
                else:
                    np.testing.assert_array_equal(value[number], alone[key][0])


def test_compose_fits_the_other_files(bundle):
    text = (bundle / "compose.yaml").read_text()
    lines = [line.split("  #")[0].strip() for line in text.splitlines() if not line.strip().startswith("#")]
    assert not any("\t" in line for line in lines)
    assert re.fullmatch(r"image: tensorflow/serving:\d+\.\d+\.\d+", lines[2])
    items = [line[2:] for line in lines if line.startswith("- ")]
    assert ".:/models/r_snet_8:ro" in items
    assert [item for item in items if item.startswith('"')] == ['"127.0.0.1:8500:8500"', '"127.0.0.1:8501:8501"']
    flags = dict(item.removeprefix("--").split("=") for item in items if item.startswith("--"))
    assert set(flags) == {
        "model_config_file",
        "model_config_file_poll_wait_seconds",
        "enable_batching",
        "batching_parameters_file",
    }
    for flag in ("model_config_file", "batching_parameters_file"):
        mount, file = os.path.split(flags[flag])
        assert mount == "/models/r_snet_8" and (bundle / file).is_file()


def test_health_check(bundle, server):
    """The command that is run in the container says whether the server has the model."""
    command = re.search(r"- >-\n((?:  .*\n)+?)      interval", (bundle / "compose.yaml").read_text())[1]
    command = " ".join(command.split()).replace("8501", server[0].rpartition(":")[2])

    def healthy(command):
        return subprocess.run(["bash", "-c", command], capture_output=True, timeout=20).returncode == 0

    assert healthy(command)
    assert not healthy(command.replace("r_snet_8", "another"))
    assert not healthy(re.sub(r"tcp/127.0.0.1/\d+", "tcp/127.0.0.1/1", command))


def test_files_that_are_there_stay(bundle, tmp_path):
    (tmp_path / "models.config").write_text("mine")
    (tmp_path / "client_rest.py").write_text("")
    write_server_files(tmp_path, "another")
    assert (tmp_path / "models.config").read_text() == "mine"
    assert (tmp_path / "client_rest.py").read_text() == ""
    files = {"models.config", "batching.config", "compose.yaml", "client_rest.py", "client_grpc.py"}
    assert {path.name for path in tmp_path.iterdir()} == files
    assert "/models/another" in (tmp_path / "compose.yaml").read_text()


# The clients, and what they ask.


def run_client(path, *arguments, **environment):
    """A client as a user starts it, with Python alone."""
    environment = {**os.environ, "no_proxy": "127.0.0.1", "PYTHONIOENCODING": "utf-8", **environment}
    command = [sys.executable, path.name, *map(str, arguments)]
    return subprocess.run(command, cwd=path.parent, env=environment, capture_output=True, encoding="utf-8", timeout=100)


def expected_print(signatures, pictures):
    """What a client prints of the SavedModel's answers."""
    answers = signatures["image_bytes"](image_bytes=tf.constant([path.read_bytes() for path in pictures]))
    for row, path in enumerate(pictures):
        yield str(path)
        for score, number in zip(answers["scores"][row].numpy(), answers["classes"][row].numpy()):
            yield f"{100 * score:7.2f} %  {number} {NAMES[number]}"


def test_rest_client(bundle, server, signatures, pictures):
    process = run_client(bundle / "client_rest.py", *pictures, "--url", server[0])
    assert (process.returncode, process.stderr) == (0, "")
    assert process.stdout.splitlines() == list(expected_print(signatures, pictures))


def test_rest_client_tells_what_is_wrong(bundle, server, pictures, tmp_path):
    client, picture = bundle / "client_rest.py", pictures[0]
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"no image")
    for arguments, told in (
        ((broken, "--url", server[0]), f"{broken}: the server answers 400, "),
        ((picture, "--url", server[0], "--name", "x"), "answers 404, Servable not found for request: Latest(x)"),
        ((picture, "--url", "http://127.0.0.1:1"), "No server answers at http://127.0.0.1:1 ("),
        ((tmp_path / "none.png", "--url", server[0]), "none.png: No such file or directory"),
    ):
        process = run_client(client, *arguments)
        assert process.returncode == 1 and told in process.stderr and process.stderr.count("\n") == 1


def test_grpc_client(bundle, server, signatures, pictures, monkeypatch, capsys):
    main = runpy.run_path(str(bundle / "client_grpc.py"))["main"]
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(sys, "argv", ["client_grpc.py", *map(str, pictures), "--address", server[1]])
    main()
    assert capsys.readouterr().out.splitlines() == list(expected_print(signatures, pictures))


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--name", "x"], "answers NOT_FOUND, Servable not found for request: Latest(x)"),
        (["--address", "127.0.0.1:1"], "127.0.0.1:1 answers UNAVAILABLE, "),
        (["none.png"], "none.png: No such file or directory"),
        (["broken.jpg"], "answers INVALID_ARGUMENT, "),
    ],
)
def test_grpc_client_tells_what_is_wrong(bundle, server, pictures, monkeypatch, tmp_path, arguments, told):
    main = runpy.run_path(str(bundle / "client_grpc.py"))["main"]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "broken.jpg").write_bytes(b"no image")
    picture = [] if arguments[0].endswith("g") else [str(pictures[0])]
    argv = ["client_grpc.py", "--address", server[1], *picture, *arguments]
    monkeypatch.setattr(sys, "argv", argv)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with pytest.raises(SystemExit, match=re.escape(told)):
        main()


def test_grpc_client_says_what_it_needs(bundle, pictures, tmp_path):
    (tmp_path / "grpc.py").write_text("raise ImportError('there is no grpc here')\n")
    process = run_client(bundle / "client_grpc.py", pictures[0], PYTHONPATH=str(tmp_path))
    assert process.returncode == 1
    assert process.stderr == (
        "there is no grpc here. It comes with `pip install tensorflow-serving-api`; client_rest.py needs nothing.\n"
    )


@pytest.mark.slow
def test_grpc_client_as_a_process(bundle, server, signatures, pictures):
    process = run_client(bundle / "client_grpc.py", *pictures, "--address", server[1])
    assert process.returncode == 0, process.stderr
    assert process.stdout.splitlines() == list(expected_print(signatures, pictures))


def ask(url, body=None):
    """Status and JSON of a server's answer."""
    data = None if body is None else json.dumps(body).encode()
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(urllib.request.Request(url, data), timeout=60) as response:
            return response.status, json.load(response)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def test_json_of_each_signature(server, signatures, images):
    url = f"{server[0]}/v1/models/r_snet_8"
    floats = (images / 255).astype("float32")
    pngs = [tf.io.encode_png(image).numpy() for image in images]
    coded = [{"b64": base64.b64encode(png).decode()} for png in pngs]
    for name, key, tensor, values in (
        ("serving_default", "images", tf.constant(images), images.tolist()),
        ("logits", "images", tf.constant(floats), floats.tolist()),
        ("image_bytes", "image_bytes", tf.constant(pngs), coded),
    ):
        answers = {output: value.numpy() for output, value in signatures[name](**{key: tensor}).items()}
        for body in ({"instances": values}, {"instances": [{key: value} for value in values]}):
            status, rows = ask(f"{url}:predict", {"signature_name": name, **body})
            assert status == 200 and list(rows) == ["predictions"]
            columns = {output: [row[output] for row in rows["predictions"]] for output in rows["predictions"][0]}
            assert_answers(columns, answers)
        for body in ({"inputs": values}, {"inputs": {key: values}}):
            status, columns = ask(f"{url}/versions/1:predict", {"signature_name": name, **body})
            assert status == 200
            assert_answers(columns["outputs"], answers)
    assert ask(f"{url}:predict", {"instances": images.tolist()})[1]["predictions"][0][
        "classes"
    ]  # the default signature


def assert_answers(columns, answers):
    assert set(columns) == set(answers)
    for key, value in answers.items():
        if value.dtype == object:
            assert columns[key] == [[name.decode() for name in row] for row in value]
        else:
            np.testing.assert_array_equal(np.asarray(columns[key], value.dtype), value)


def test_errors_of_the_server_are_json(server, images):
    url = f"{server[0]}/v1/models/r_snet_8"
    for path, body, status in (
        (":predict", {"instances": images[:, :, :9].tolist()}, 400),  # another size
        (":predict", {"instances": [[[[0.5] * 3] * 16] * 16]}, 400),  # not uint8
        (":predict", {"signature_name": "none", "instances": [0]}, 400),
        (":predict", {"signature_name": "image_bytes", "instances": [{"b64": "AAAA"}]}, 400),  # no image
        ("/versions/7:predict", {"instances": images.tolist()}, 404),
    ):
        answer = ask(url + path, body)
        assert answer[0] == status and list(answer[1]) == ["error"]


def test_a_new_version_is_served_and_taken_back(bundle, tmp_path):
    folder = shutil.copytree(bundle, tmp_path / "copy")
    shutil.copytree(folder / "1", folder / "10")
    shutil.copytree(folder / "1", folder / "9")
    (folder / ".11.partial").mkdir()
    with serving(folder) as (url, _):
        status, metadata = ask(f"{url}/v1/models/r_snet_8/metadata")
        assert status == 200 and metadata["model_spec"]["version"] == "10"
        inputs = metadata["metadata"]["signature_def"]["signature_def"]["serving_default"]["inputs"]
        assert inputs == {"images": {"dtype": "DT_UINT8"}}
    config = folder / "models.config"
    config.write_text(config.read_text().replace("latest { num_versions: 1 }", "specific { versions: 9 }"))
    with serving(folder) as (url, _):
        states = ask(f"{url}/v1/models/r_snet_8")[1]["model_version_status"]
        assert [(state["version"], state["state"]) for state in states] == [("9", "AVAILABLE")]


def test_the_clients_are_the_package_s(bundle):
    import dhm_keras.export

    for client in ("client_rest.py", "client_grpc.py"):
        source = pathlib.Path(dhm_keras.export.__file__).with_name(client).read_text()
        assert source.count('NAME = "model"') == 1
        assert (bundle / client).read_text() == source.replace('NAME = "model"', 'NAME = "r_snet_8"')
