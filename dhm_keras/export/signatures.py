"""What a server answers to: signatures as TensorFlow functions, with named inputs and outputs."""

import math

import tensorflow as tf

TOP = 5  # classes that are named, best first


def signatures(shipped, crop):
    """The functions that are saved, and an example of what each takes.

    All of them give `logits` and `probabilities`, float32 `(batch, classes)`; `classes`, int32, and `scores`, float32
    `(batch, 5)`, the most probable classes, of fewer than five all; `class_names`, strings `(batch, 5)`, where they are
    known; `embedding`, float32 `(batch, features)`, where it was asked for. Of several heads the probabilities are the
    mean, and the logits its logarithm. Where the embedding alone is shipped, they give that, and the signature for
    images that are normalised already is called `normalized`, not `logits`.

    Args:
        shipped: `Shipped`.
        crop: Float or `None`, see `export_main`.

    Returns:
        `(functions, examples)`, dicts by the signature's name: `tf.function`s of one argument, and a dict from the
        argument's name to a batch of one black image.
    """
    image = shipped.model.inputs[0].shape[1:]
    prepared = shipped.compute.inputs[0]
    of_prepared = "logits" if shipped.heads else "normalized"
    preprocess = shipped.preprocess or (lambda images: images)

    @tf.function(input_signature=[tf.TensorSpec(prepared.shape, prepared.dtype)], autograph=False)
    def answer(prepared):
        batch, size = tf.shape(prepared)[0], [side or tf.shape(prepared)[1 + i] for i, side in enumerate(image)]
        # TensorFlow's fused convolutions cannot take an empty batch: they get one image, whose answer is cut off.
        filling = tf.zeros([tf.maximum(1 - batch, 0), *size], prepared.dtype)
        heads = shipped.compute(tf.concat([prepared, filling], axis=0), training=False)
        # Cut last: ONNX Runtime before 1.31 is killed by the best of no classes.
        return {name: tensor[:batch] for name, tensor in _named(heads, shipped).items()}

    def function(name, shape, dtype, prepare):
        """One signature: an input of that name, whose shape is checked when it runs."""

        @tf.function(input_signature=[tf.TensorSpec(shape, dtype, name=name)], autograph=False)
        def serve(given):
            return answer(prepare(tf.ensure_shape(given, shape)))

        return serve

    shape = (None, *image)
    black = tf.zeros([1, *(side or 224 for side in image)], tf.uint8)
    if not shipped.takes_raw:
        floats = {"images": tf.cast(black, prepared.dtype)}
        same = function("images", shape, prepared.dtype, lambda images: images)
        return {"serving_default": same, of_prepared: same}, {"serving_default": floats, of_prepared: floats}
    functions, examples = {"serving_default": function("images", shape, tf.uint8, preprocess)}, {}
    examples["serving_default"] = {"images": black}
    if shipped.preprocess:
        functions[of_prepared] = function("images", shape, prepared.dtype, lambda images: images)
        examples[of_prepared] = {"images": tf.cast(black, prepared.dtype)}
    if None not in image and image[-1] in (1, 3):
        read = lambda contents: preprocess(decoded(contents, image, crop))
        functions["image_bytes"] = function("image_bytes", (None,), tf.string, read)
        examples["image_bytes"] = {"image_bytes": tf.io.encode_png(black[0])[None]}
    return functions, examples


def _named(heads, shipped):
    """The outputs of a signature, from what the network gives."""
    if not shipped.heads:
        return {"embedding": heads["embedding"]}
    logits = heads[shipped.heads[0]]
    if (count := len(shipped.heads)) > 1:
        log_probs = tf.stack([tf.nn.log_softmax(heads[head]) for head in shipped.heads])
        logits = tf.reduce_logsumexp(log_probs, axis=0) - math.log(count)
    best, classes = tf.math.top_k(tf.nn.log_softmax(logits), min(TOP, shipped.num_classes))
    named = {"logits": logits, "probabilities": tf.nn.softmax(logits), "scores": tf.exp(best), "classes": classes}
    if shipped.class_names:
        named["class_names"] = tf.gather(tf.constant(shipped.class_names), classes)
    if "embedding" in heads:
        named["embedding"] = heads["embedding"]
    return named


def decoded(contents, shape, crop):
    """JPEGs and PNGs as images of one size, as `data.JpegTestBatches` makes them with Pillow.

    Args:
        contents: Strings `(batch,)`.
        shape: `(height, width, channels)`.
        crop: Float or `None`, see `export_main`.

    Returns:
        uint8 `(batch, height, width, channels)`.
    """

    def one(content):
        # The accurate transform is Pillow's; a PNG is decoded, too.
        image = tf.io.decode_jpeg(content, channels=shape[-1], dct_method="INTEGER_ACCURATE")
        return resized(image, shape[:2], crop)

    return tf.map_fn(one, contents, fn_output_signature=tf.TensorSpec(shape, tf.uint8))


def resized(image, size, crop):
    """An image at another size, antialiased and bilinear.

    Args:
        image: uint8 `(h, w, channels)`.
        size: `(height, width)`.
        crop: Float or `None`, see `export_main`.

    Returns:
        uint8 `(height, width, channels)`.
    """
    before = tf.shape(image)[:2]
    if crop is None:
        after, corner = tf.constant(size), tf.zeros([2])
    else:  # the sides in whole pixels and the corner as in `data.jpeg.resized_window`
        window = tf.constant([round(side / crop) for side in size])
        height, width = before[0], before[1]
        by_height = tf.stack([window[0], window[0] * width // height])
        by_width = tf.stack([window[1] * height // width, window[1]])
        after = tf.where(window[0] * width >= window[1] * height, by_height, by_width)
        corner = tf.round(tf.cast(after - tf.constant(size), tf.float32) / 2)
    pixels = tf.raw_ops.ScaleAndTranslate(
        images=tf.cast(image[None], tf.float32),
        size=tf.constant(size),
        scale=tf.cast(after, tf.float32) / tf.cast(before, tf.float32),
        translation=-corner,
        kernel_type="triangle",
        antialias=True,
    )[0]
    return tf.cast(tf.clip_by_value(tf.round(pixels), 0, 255), tf.uint8)
