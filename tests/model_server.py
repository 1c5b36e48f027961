"""A stand-in for TensorFlow Serving's ModelServer, written from its documents: finds a bundle's newest version through
`models.config` and answers REST (g3doc/api_rest.md) and gRPC (PredictionService.Predict) with TensorFlow in Python."""

import base64
import contextlib
import http.server
import json
import pathlib
import re
import threading
from concurrent.futures import ThreadPoolExecutor

import grpc
import numpy as np
import tensorflow as tf
from google.protobuf import text_format
from tensorflow.core.framework.types_pb2 import DataType
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc
from tensorflow_serving.config import model_server_config_pb2


class NotFound(Exception):
    """No such model, or version."""


class Models:
    """What a server has loaded.

    Args:
        directory: Path of the folder that is mounted at /models/NAME.
    """

    def __init__(self, directory):
        self.directory = pathlib.Path(directory)
        config = model_server_config_pb2.ModelServerConfig()
        text_format.Parse((self.directory / "models.config").read_text(), config)
        self.loaded = {}  # by name and version
        for model in config.model_config_list.config:
            assert model.base_path == f"/models/{model.name}", model
            for version in self._versions(model.model_version_policy):
                self.loaded[model.name, version] = tf.saved_model.load(self.directory / str(version))

    def _versions(self, policy):
        there = sorted(int(path.name) for path in self.directory.iterdir() if re.fullmatch(r"\d+", path.name))
        if policy.WhichOneof("policy_choice") == "specific":
            return [version for version in there if version in policy.specific.versions]
        return there[-(policy.latest.num_versions or 1) :]

    def versions(self, name):
        """The versions of a model that answer, newest first."""
        versions = sorted((version for model, version in self.loaded if model == name), reverse=True)
        if not versions:
            raise NotFound(f"Servable not found for request: Latest({name})")
        return versions

    def signature(self, name, version, signature):
        version = version or self.versions(name)[0]
        if (name, version) not in self.loaded:
            raise NotFound(f"Servable not found for request: Specific({name}, {version})")
        signature = signature or "serving_default"
        signatures = self.loaded[name, version].signatures
        if signature not in signatures:
            raise ValueError(f'Serving signature name: "{signature}" not found in signature def')
        return signatures[signature]

    def predict(self, name, version, signature, tensors):
        """Answers with NumPy arrays, by the names of the outputs."""
        call = self.signature(name, version, signature)
        specs = call.structured_input_signature[1]
        if set(tensors) != set(specs):
            raise ValueError(f"input size does not match signature: {set(tensors)}, expected {set(specs)}")
        for key, tensor in tensors.items():
            if tensor.dtype != specs[key].dtype:
                raise ValueError(f"Expects arg[0] to be {specs[key].dtype.name} but {tensor.dtype.name} is provided")
        return {key: value.numpy() for key, value in call(**tensors).items()}


@contextlib.contextmanager
def serving(directory):
    """Within, a server answers for a bundle.

    Args:
        directory: Path of the bundle.

    Yields:
        The address for REST and the one for gRPC.
    """
    models = Models(directory)
    handler = type("Handler", (RestHandler,), {"models": models})
    rest = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=rest.serve_forever, daemon=True).start()
    rpc = grpc.server(ThreadPoolExecutor(2))
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(Servicer(models), rpc)
    port = rpc.add_insecure_port("127.0.0.1:0")
    rpc.start()
    try:
        yield f"http://127.0.0.1:{rest.server_port}", f"127.0.0.1:{port}"
    finally:
        rpc.stop(None)
        rest.shutdown()
        rest.server_close()


class Servicer(prediction_service_pb2_grpc.PredictionServiceServicer):
    """Predict over gRPC: tensors go in as they are, and must have the dtype of the signature."""

    def __init__(self, models):
        self.models = models

    def Predict(self, request, context):
        spec = request.model_spec
        try:
            tensors = {key: tf.constant(tf.make_ndarray(value)) for key, value in request.inputs.items()}
            answers = self.models.predict(spec.name, spec.version.value, spec.signature_name, tensors)
        except NotFound as error:
            context.abort(grpc.StatusCode.NOT_FOUND, str(error))
        except (LookupError, ValueError, TypeError, tf.errors.InvalidArgumentError) as error:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
        response = predict_pb2.PredictResponse()
        for key in request.output_filter or answers:
            response.outputs[key].CopyFrom(tf.make_tensor_proto(answers[key]))
        return response


class RestHandler(http.server.BaseHTTPRequestHandler):
    """Predict, status and metadata over REST."""

    models = None  # a `Models`, by a subclass

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self._answer(r"/v1/models/([^/:]+)(?:/versions/(\d+))?:predict", lambda *model: self._predict(body, *model))

    def do_GET(self):
        self._answer(r"/v1/models/([^/:]+)(?:/versions/(\d+))?(/metadata)?", self._describe)

    def _answer(self, pattern, act):
        match = re.fullmatch(pattern, self.path)
        try:
            if match is None:
                raise ValueError(f"Malformed request: {self.command} {self.path}")
            status, answer = 200, act(*match.groups())
        except NotFound as error:
            status, answer = 404, {"error": str(error)}
        except (LookupError, ValueError, TypeError, tf.errors.InvalidArgumentError) as error:
            status, answer = 400, {"error": str(error)}
        encoded = json.dumps(answer, indent=1).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(encoded)))
        self.end_headers()
        self.wfile.write(encoded)

    def _predict(self, body, name, version):
        request = json.loads(body)
        if ("instances" in request) == ("inputs" in request):
            raise ValueError("Expected either 'instances' or 'inputs'")
        version = version and int(version)
        signature = request.get("signature_name")
        specs = self.models.signature(name, version, signature).structured_input_signature[1]
        values = request.get("instances", request.get("inputs"))
        if "instances" in request:
            if not isinstance(values, list) or not values:
                raise ValueError("Excepting 'instances' to be an non-empty list/array")
            if isinstance(values[0], dict) and set(values[0]) != {"b64"}:  # named inputs, a dict an instance
                values = {key: [value[key] for value in values] for key in values[0]}
        if not isinstance(values, dict):  # one input needs no name
            values = dict.fromkeys(specs, values)
        tensors = {key: to_tensor(values[key], specs[key]) for key in specs if key in values}
        answers = self.models.predict(name, version, signature, tensors)
        columns = {key: to_json(value) for key, value in answers.items()}
        if len(columns) == 1:  # an only output has no name
            (values,) = columns.values()
            return {"outputs" if "inputs" in request else "predictions": values}
        if "inputs" in request:
            return {"outputs": columns}
        rows = len(next(iter(columns.values())))
        return {"predictions": [{key: value[row] for key, value in columns.items()} for row in range(rows)]}

    def _describe(self, name, version, metadata):
        versions = [int(version)] if version else self.models.versions(name)
        if not metadata:
            ok = {"error_code": "OK", "error_message": ""}
            states = [{"version": str(version), "state": "AVAILABLE", "status": ok} for version in versions]
            return {"model_version_status": states}
        signatures = self.models.loaded[name, versions[0]].signatures
        return {
            "model_spec": {"name": name, "signature_name": "", "version": str(versions[0])},
            "metadata": {"signature_def": {"signature_def": {key: describe(call) for key, call in signatures.items()}}},
        }

    def log_message(self, *arguments):
        """Nothing: a test's output is its own."""


def to_tensor(value, spec):
    """JSON as a tensor of an input's dtype; {"b64": ...} are bytes, and numbers must fit the dtype."""
    value = decoded(value)
    if spec.dtype == tf.string:
        return tf.constant(value, tf.string)
    array = np.asarray(value)
    if array.dtype.kind not in ("iu" if spec.dtype.is_integer else "iuf"):
        raise ValueError(f"JSON Value: {str(value)[:50]} is not of expected type: {spec.dtype.name}")
    return tf.constant(array.astype(spec.dtype.as_numpy_dtype))


def decoded(value):
    if isinstance(value, list):
        return [decoded(each) for each in value]
    return base64.b64decode(value["b64"]) if isinstance(value, dict) else value


def to_json(array):
    """An output as JSON; strings are UTF-8."""
    return (np.vectorize(bytes.decode, otypes=[object])(array) if array.dtype == object else array).tolist()


def describe(call):
    """A signature as the metadata shows it, in part."""

    def tensors(specs):
        return {key: {"dtype": DataType.Name(spec.dtype.as_datatype_enum)} for key, spec in specs.items()}

    return {"inputs": tensors(call.structured_input_signature[1]), "outputs": tensors(call.structured_outputs)}
