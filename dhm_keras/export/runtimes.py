"""Runs an exported model in one runtime: a program that imports neither Keras nor this library.

`dhm_keras.export.check` starts it in a fresh process, so that what answers has nothing in common with what trained:

    python -P runtimes.py openvino images.npy answers.npy 3 logits serving/resnet32/1 [another/1]

It writes an output of the first model, and prints a line of JSON: the runtime's version and the milliseconds that an
image takes alone, of two models their ratio; or what went wrong. Each runtime computes on the CPU, in float32, with as
many threads as it takes by itself.
"""

import json
import sys
import time

import numpy as np

BATCH = 32  # images answered at once: activations of 224 x 224 images stay below a gigabyte
CALLS = 5  # in a block
LEAST = 10  # pairs of blocks, one of each model


def main(runtime, images, answers_file, seconds, output, *models):
    """Answers, measures and prints; see above.

    Args:
        runtime: String, one of `RUNTIMES`.
        images: Path of an `.npy` file, images as `serving_default` takes them.
        answers_file: Path to write an `.npy` file to, float32 `(images, ...)`.
        seconds: String, about how long to measure.
        output: String, the name of the output.
        *models: Paths of one or two models.
    """
    try:
        version, *runs = load(runtime, models, output)
        images = np.load(images, mmap_mode="r")
        np.save(answers_file, answers(runs[0], images))
        told = {"version": version, **latency(runs, images[:1], float(seconds))}
    except Exception as error:  # of any of the runtimes; whoever started this reads it in its line
        told = {"error": " ".join(f"{type(error).__name__}: {error}".split())}
    print(json.dumps(told))


def load(runtime, models, output="logits"):
    """The runtime's version, and for each model a function from images to an output, both NumPy arrays."""
    open_model, version = RUNTIMES[runtime](output)
    return version, *map(open_model, models)


def answers(run, images):
    """The output for all images, a batch at a time."""
    starts = range(0, max(len(images), 1), BATCH)  # a model answers no images, too
    return np.concatenate([run(np.array(images[start : start + BATCH])) for start in starts])


def latency(runs, image, seconds):
    """Milliseconds of a call with one image, and the ratio of the first model to the second.

    A machine gets faster and slower while it is measured, so the models take turns in short blocks, and neighbours are
    compared.

    Args:
        runs: One or two functions of images.
        image: Array of one image.
        seconds: Float, how long to measure, if that is long enough for `LEAST` pairs of blocks.

    Returns:
        Dict: `ms`, a list of a median a model; `ratio`, the 10th, 50th and 90th percentile, `None` of one model.
    """
    if not len(image):
        return {"ms": [None] * len(runs), "ratio": None}
    image = np.array(image)
    for run in runs:  # the first calls compile, and find their memory
        _block(run, image)
    blocks, start = [], time.perf_counter()
    while len(blocks) < LEAST or time.perf_counter() - start < seconds:
        first = len(blocks) % len(runs)  # each is first as often as the other
        blocks.append(np.roll([_block(run, image) for run in (*runs[first:], *runs[:first])], first))
    blocks = np.array(blocks)
    ratio = np.percentile(blocks[:, 0] / blocks[:, 1], [10, 50, 90]).tolist() if len(runs) == 2 else None
    return {"ms": (1e3 * np.median(blocks, axis=0)).tolist(), "ratio": ratio}


def _block(run, image):
    """Seconds of the median call: not of the first, which finds the caches full of the other model."""
    times = []
    for _ in range(CALLS):
        start = time.perf_counter()
        run(image)
        times.append(time.perf_counter() - start)
    return float(np.median(times))


def tensorflow(output):
    sys.modules.setdefault("keras", None)  # TensorFlow imports Keras where it finds it; hidden, it does without
    import tensorflow as tf

    def open_model(path):
        loaded = tf.saved_model.load(path)
        # The attribute is read at each call: `loaded` has to live as long as its functions.
        return lambda images: loaded.signatures["serving_default"](images=tf.constant(images))[output].numpy()

    return open_model, tf.__version__


def openvino(output):
    import openvino

    core = openvino.Core()
    # By itself it computes in bfloat16 where the CPU can.
    config = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}

    def open_model(path):
        compiled = core.compile_model(path, "CPU", config)
        return lambda images: np.array(compiled({"images": images})[output])

    return open_model, openvino.__version__.split("-")[0]


def onnxruntime(output):
    import onnxruntime

    def open_model(path):
        options = onnxruntime.SessionOptions()
        # Its threads spin for a while after a call, and would take the CPU from the model whose turn it is.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        return lambda images: session.run([output], {"images": images})[0]

    return open_model, onnxruntime.__version__


def litert(output):
    import importlib.metadata

    from ai_edge_litert.interpreter import Interpreter

    def open_model(path):
        interpreter = Interpreter(path)
        signature = interpreter.get_signature_runner("serving_default")
        image = signature.get_input_details()["images"]["index"]
        answer = signature.get_output_details()[output]["index"]
        shape = None

        def run(images):
            nonlocal shape
            if images.shape != shape:  # not the signature's own call: that cannot read the names of no images
                interpreter.resize_tensor_input(image, images.shape)
                interpreter.allocate_tensors()
                shape = images.shape
            interpreter.set_tensor(image, images)
            interpreter.invoke()
            return interpreter.get_tensor(answer)

        return run

    return open_model, importlib.metadata.version("ai-edge-litert")


RUNTIMES = {"tensorflow": tensorflow, "openvino": openvino, "onnxruntime": onnxruntime, "litert": litert}

if __name__ == "__main__":
    main(*sys.argv[1:])
