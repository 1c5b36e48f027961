"""TensorFlow: `tf.data` pipelines, shared out among the replicas of a `tf.distribute` strategy."""

import contextlib

import numpy as np
import tensorflow as tf
from keras.src.trainers.data_adapters import array_data_adapter


def without_autotune(dataset):
    """A `tf.data.Dataset` that no background thread tunes.

    The tuning thread sleeps for longer and longer, and whoever lets go of the iterator waits until it wakes: an
    evaluation takes twice its time, and after a long training seconds pass (seen with TensorFlow 2.19 and 2.21).

    Args:
        dataset: A `tf.data.Dataset`.

    Returns:
        The same data set with the option off.
    """
    options = tf.data.Options()
    options.autotune.enabled = False
    return dataset.with_options(options)


def batches_of_arrays(x, y, sample_weight, class_weight, batch_size, shuffle):
    """The pipeline that Keras makes of arrays, without autotune.

    Args:
        x, y, sample_weight, class_weight, batch_size, shuffle: As in `keras.Model.fit`.

    Returns:
        `tf.data.Dataset`; None where `x` is anything else.
    """
    if not array_data_adapter.can_convert_arrays((x, y, sample_weight)):
        return None
    settings = {"batch_size": batch_size, "shuffle": shuffle, "class_weight": class_weight}
    adapter = array_data_adapter.ArrayDataAdapter(x, y, sample_weight=sample_weight, **settings)
    dataset = adapter.get_tf_dataset().apply(tf.data.experimental.assert_cardinality(adapter.num_batches))
    return without_autotune(dataset)


def shares(n, batch_size, context=None):
    """Where the shares of batches begin and end, for the replicas of this machine.

    Args:
        n: Integer. Number of rows of all batches together.
        batch_size: Integer. Rows of a batch; the last may be smaller.
        context: `tf.distribute.InputContext`. Defaults to one replica.

    Returns:
        int64 `(steps * replicas of this machine, 2)`, in the order in which the replicas take them. A share is empty
        where a batch has fewer rows than there are replicas.
    """
    replicas = context.num_replicas_in_sync if context else 1
    here = replicas // context.num_input_pipelines if context else 1
    first = context.input_pipeline_id * here if context else 0
    start = np.arange(0, n, batch_size)[:, None]
    size = np.minimum(batch_size, n - start)
    edges = start - (-size * np.arange(first, first + here + 1)) // replicas
    return np.stack([edges[:, :-1], edges[:, 1:]], axis=-1).reshape(-1, 2)


def distributed(pipeline, strategy):
    """An endless `tf.data` pipeline as `keras.Model.fit` takes it.

    Args:
        pipeline: Function of a `tf.distribute.InputContext`, or None, to an endless `tf.data.Dataset` of shares.
        strategy: `tf.distribute.Strategy` or None.

    Returns:
        `tf.data.Dataset`; under a strategy a `tf.distribute.DistributedDataset`, of which each machine makes its part.
    """
    if strategy is None:
        return pipeline(None)
    endless = tf.data.experimental.assert_cardinality(tf.data.INFINITE_CARDINALITY)
    return strategy.distribute_datasets_from_function(lambda context: pipeline(context).apply(endless))


def validation_data(data, batch_size, strategy=None):
    """What to validate on, as Keras wants it.

    Args:
        data: `validation_data` of `fit`.
        batch_size: Integer.
        strategy: `tf.distribute.Strategy` or None.

    Returns:
        (data, steps): in place of a tuple of NumPy arrays, and of batches that know how, a `tf.data.Dataset` of
        batches, otherwise `data`; and the number of batches where the data do not end by themselves, else None.
    """
    if hasattr(data, "for_backend"):
        return data.for_backend(strategy), data.num_batches if strategy else None
    if not (isinstance(data, (tuple, list)) and all(isinstance(array, np.ndarray) for array in data)):
        return data, None
    if strategy is None:
        return without_autotune(tf.data.Dataset.from_tensor_slices(tuple(data)).batch(batch_size).prefetch(2)), None
    with tf.device("CPU"):
        arrays = [tf.constant(array) for array in data]

    def pipeline(context):
        parts = tf.data.Dataset.from_tensor_slices(shares(len(data[0]), batch_size, context)).repeat()
        parts = parts.map(lambda share: tuple(array[share[0] : share[1]] for array in arrays))
        return without_autotune(parts.prefetch(4))

    return distributed(pipeline, strategy), -(-len(data[0]) // batch_size)


def from_function(part, n, batch_size, signature, strategy=None, first_batch=0, batches=None):
    """A `tf.data` pipeline of batches that a Python function makes.

    Args:
        part: Function of an epoch and the first and last of its examples to a tuple of NumPy arrays. Two calls at a
            time.
        n: Integer. Examples of an epoch.
        batch_size: Integer. The last batch of an epoch may be smaller.
        signature: Tuple of `(dtype, shape)`, of the arrays.
        strategy: `tf.distribute.Strategy` or None.
        first_batch: Integer. Number of the batch to begin with, counted through all epochs. Defaults to `0`.
        batches: Integer. After so many it ends; under a strategy it is endless all the same. Defaults to endless.

    Returns:
        `tf.data.Dataset`, or `tf.distribute.DistributedDataset`, as of `distributed`.
    """

    def pipeline(context):
        bounds = shares(n, batch_size, context)
        first = first_batch * len(bounds) // -(-n // batch_size)

        def share(number):
            epoch, at = divmod(int(number), len(bounds))
            return part(epoch, *map(int, bounds[at]))

        def arrays(number):
            # Not "stateful": tf.data would make the batches one by one where operations are deterministic.
            made = tf.numpy_function(share, [number], [dtype for dtype, _ in signature], stateful=False)
            return tuple(tf.ensure_shape(value, shape) for value, (_, shape) in zip(made, signature, strict=True))

        numbers = tf.data.Dataset.counter(first) if batches is None or strategy else tf.data.Dataset.range(batches)
        return without_autotune(numbers.map(arrays, num_parallel_calls=2).prefetch(2))

    return distributed(pipeline, strategy)


@contextlib.contextmanager
def plain_errors(*sources):
    """Within, what went wrong in the function of `from_function` is raised as it was, not wrapped by TensorFlow.

    Args:
        *sources: What was given to train or evaluate on; a source that reads files lists in `errors` what it raised.

    Yields:
        Nothing.
    """
    try:
        yield
    except tf.errors.OpError as wrapped:
        for error in (error for source in sources for error in getattr(source, "errors", ())):
            if str(error) in str(wrapped):
                raise error.with_traceback(None) from None
        raise
