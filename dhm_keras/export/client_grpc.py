"""Asks TensorFlow Serving over gRPC what is on images. Needs `pip install tensorflow-serving-api`.

python client_grpc.py IMAGE...
"""

import argparse
import pathlib
import sys

NAME = "model"  # as in models.config


def predict(image, address, name):
    """What the server answers for one image.

    Args:
        image: Bytes of a JPEG or PNG file.
        address: String, as `"localhost:8500"`.
        name: String. The model's name.

    Returns:
        Dict from the name of an output to a NumPy array, its value for this image: `logits` and `probabilities` of all
        classes, `classes`, `scores` and, where known, `class_names` (bytes) of the best ones; or `embedding` alone.
    """
    import grpc
    import tensorflow as tf
    from tensorflow_serving.apis.predict_pb2 import PredictRequest
    from tensorflow_serving.apis.prediction_service_pb2_grpc import PredictionServiceStub

    request = PredictRequest()
    request.model_spec.name = name
    request.model_spec.signature_name = "image_bytes"
    request.inputs["image_bytes"].CopyFrom(tf.make_tensor_proto([image]))
    with grpc.insecure_channel(address) as channel:
        response = PredictionServiceStub(channel).Predict(request, timeout=60)
    return {key: tf.make_ndarray(value)[0] for key, value in response.outputs.items()}


def main():
    parser = argparse.ArgumentParser(description="Prints the best classes of each image, or what it is compared by.")
    parser.add_argument("images", nargs="+", type=pathlib.Path, metavar="IMAGE", help="JPEG or PNG file")
    parser.add_argument("--address", default="localhost:8500", help="of the server (default: %(default)s)")
    parser.add_argument("--name", default=NAME, help="of the model (default: %(default)s)")
    options = parser.parse_args()
    try:
        import grpc
        import tensorflow_serving.apis  # noqa: F401, before a file is read
    except ImportError as error:
        sys.exit(f"{error}. It comes with `pip install tensorflow-serving-api`; client_rest.py needs nothing.")
    for path in options.images:
        try:
            answer = predict(path.read_bytes(), options.address, options.name)
        except grpc.RpcError as error:
            sys.exit(f"{path}: {options.address} answers {error.code().name}, {' '.join(error.details().split())}")
        except OSError as error:
            sys.exit(f"{path}: {error.strerror or error}")
        print(path)
        if "classes" not in answer:
            print(*(f"{number:.6g}" for number in answer["embedding"]))
            continue
        names = answer.get("class_names", [b""] * len(answer["classes"]))
        for number, score, name in zip(answer["classes"], answer["scores"], names):
            print(f"{100 * score:7.2f} %  {number} {name.decode()}")


if __name__ == "__main__":
    main()
