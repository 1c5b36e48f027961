"""Warm-up records: what a server computes before it says that a version is ready."""

import pathlib


def write_warmup(path, name, requests):
    """Writes the warm-up file of a version.

    TensorFlow prepares much of its work at the first request, which takes many times as long as the others. A server
    that finds this file in `assets.extra/` answers the requests in it while it loads the version, and takes the version
    into service after that. The format, a TFRecord file of `PredictionLog` messages, is that of TensorFlow Serving's
    `saved_model_warmup.md`. The messages are encoded here, as the package that defines them wants its own version of
    TensorFlow.

    Example:

    ```python
    images = np.zeros((1, 32, 32, 3), "uint8")
    write_warmup("1/assets.extra/tf_serving_warmup_requests", "resnet32", {"serving_default": {"images": images}})
    ```

    Args:
        path: Path of the file; its folder is made if need be.
        name: String. The name under which the model is served.
        requests: Dict from the name of a signature to a dict from the name of an input to a NumPy array with the dtype
            and shape of that input; strings are an object array of `bytes`. One record each, in this order; a server
            takes 1000 at most.

    Raises:
        tf.errors.OpError: if the file cannot be written.
    """
    import tensorflow as tf

    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tf.io.TFRecordWriter(str(path)) as writer:
        for signature, inputs in requests.items():
            tensors = {key: tf.make_tensor_proto(value).SerializeToString() for key, value in inputs.items()}
            writer.write(_prediction_log(name, signature, tensors))


def _prediction_log(name, signature, tensors):
    """A `PredictionLog` message with one `PredictRequest`; the numbers are those of tensorflow_serving/apis/*.proto."""
    model_spec = _field(1, name.encode()) + _field(3, signature.encode())  # ModelSpec.name, .signature_name
    request = _field(1, model_spec)  # PredictRequest.model_spec
    for key, tensor in tensors.items():
        request += _field(2, _field(1, key.encode()) + _field(2, tensor))  # PredictRequest.inputs: key, value
    predict_log = _field(1, request)  # PredictLog.request
    return _field(6, predict_log)  # PredictionLog.predict_log


def _field(number, payload):
    """A length-delimited field of a protocol buffer: number and wire type 2, length, bytes."""
    return _varint(number << 3 | 2) + _varint(len(payload)) + payload


def _varint(number):
    """A number as protocol buffers have it: seven bits a byte, the lowest first; the eighth says that more follow."""
    encoded = bytearray()
    while number > 127:
        encoded.append(number & 127 | 128)
        number >>= 7
    return bytes([*encoded, number])
