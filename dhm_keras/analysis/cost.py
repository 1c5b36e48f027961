"""What a network costs when it runs."""

import math

from dhm_keras.forking.graph import trace


def multiply_adds(model):
    """Multiplications, each with an addition, of a network's convolutions and dense layers for one image.

    What papers call multiply-adds, or FLOPs; normalization, activations and poolings are not counted. A layer that is
    called twice counts twice.

    Args:
        model: Functional model, or `keras.Sequential`, of one input; of a model for images of any size they are those
            for 224x224 pixels.

    Returns:
        Integer.

    Raises:
        ValueError: if Keras cannot tell the shape of what a layer gives.
    """
    return sum(map(_of_call, trace(model).calls))


def _of_call(call):
    layer = call.operation
    if hasattr(layer, "pointwise_kernel"):  # a separable convolution
        pixels = math.prod(call.output.shape[1:]) // layer.pointwise_kernel.shape[-1]
        return pixels * (math.prod(layer.depthwise_kernel.shape) + math.prod(layer.pointwise_kernel.shape))
    kernel = getattr(layer, "kernel", None)
    if kernel is None:
        return 0
    if "Transpose" in call.kind:  # (height, width, filters, channels), once at every pixel of the input
        return math.prod(call.inputs[0].shape[1:]) // kernel.shape[-1] * math.prod(kernel.shape)
    channels = kernel.shape[-1] * (kernel.shape[-2] if "Depthwise" in call.kind else 1)
    return math.prod(call.output.shape[1:]) // channels * math.prod(kernel.shape)
