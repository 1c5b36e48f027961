"""What callbacks remember from epoch to epoch: what a checkpoint keeps of them."""

import keras

# Of Keras's own callbacks. Others say so in their attribute `remembers`.
REMEMBERED = {
    keras.callbacks.EarlyStopping: ("wait", "stopped_epoch", "best", "best_weights", "best_epoch"),
    keras.callbacks.ReduceLROnPlateau: ("wait", "cooldown_counter", "best"),
    keras.callbacks.ModelCheckpoint: ("best", "_batches_seen_since_last_saving", "_last_batch_seen"),
    keras.callbacks.SwapEMAWeights: ("_ema_weights_in_model",),
    keras.callbacks.History: ("history", "epoch"),
}


def remembering(callbacks):
    """Those that remember something.

    Args:
        callbacks: List of Keras callbacks.

    Returns:
        List of `(place, callback, names)`: the place is its class and number within it, the names are of attributes.
    """
    found, count = [], {}
    for callback in callbacks:
        of_keras = [kind for kind in REMEMBERED if isinstance(callback, kind)]
        names = [*getattr(callback, "remembers", ()), *(name for kind in of_keras for name in REMEMBERED[kind])]
        if names:
            name = (of_keras or [type(callback)])[0].__name__  # a class of ours may stand in for Keras's
            count[name] = count.get(name, 0) + 1
            found.append((f"{name}-{count[name]}", callback, names))
    return found


def check_remembered(callbacks):
    """Raises `ValueError` if a callback remembers an attribute that it has not when a training begins.

    Args:
        callbacks: List of Keras callbacks.
    """
    for callback in callbacks:
        if missing := [name for name in getattr(callback, "remembers", ()) if not hasattr(callback, name)]:
            raise ValueError(
                f"{type(callback).__name__} remembers {missing}, and has no such attribute. Set it in `__init__`, or "
                "correct its name in `remembers`."
            )
