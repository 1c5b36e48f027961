"""TensorFlow: `tf.data` pipelines, shared out among the replicas of a `tf.distribute` strategy."""

import numpy as np
import tensorflow as tf


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
    """Arrays to validate on, as Keras wants them.

    Args:
        data: `validation_data` of `fit`.
        batch_size: Integer.
        strategy: `tf.distribute.Strategy` or None.

    Returns:
        (data, steps): in place of a tuple of NumPy arrays a `tf.data.Dataset` of batches, otherwise `data`; and the
        number of batches where the data do not end by themselves, else None.
    """
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
