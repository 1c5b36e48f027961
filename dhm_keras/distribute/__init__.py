"""What depends on devices and machines, and on how a backend of Keras trains: the one place for it.

Each backend has a module with the same functions; here are those of the backend at hand.
"""

import keras

if keras.backend.backend() == "tensorflow":
    from dhm_keras.distribute.tensorflow import (
        all_sum,
        assign,
        checked_labels,
        compile_settings,
        make_train_function,
        num_replicas,
        on_share,
        run_step,
        share_of_mean,
        symbolic_build,
        to_numpy,
        unless_empty,
        updating_only,
    )
    from dhm_keras.distribute.tensorflow_data import batches_of_arrays, plain_errors, validation_data
    from dhm_keras.distribute.tensorflow_devices import (
        all_equal,
        alone,
        data_parallel,
        deterministic,
        is_chief,
        num_devices,
        process,
        strategy_of,
    )
else:
    from dhm_keras.distribute.jax import (
        all_equal,
        all_sum,
        alone,
        assign,
        batches_of_arrays,
        checked_labels,
        compile_settings,
        data_parallel,
        deterministic,
        is_chief,
        num_devices,
        num_replicas,
        on_share,
        plain_errors,
        process,
        run_step,
        share_of_mean,
        strategy_of,
        symbolic_build,
        to_numpy,
        unless_empty,
        validation_data,
    )
    from dhm_keras.distribute.jax_training import make_train_function, updating_only

__all__ = [
    "all_equal",
    "all_sum",
    "alone",
    "assign",
    "batches_of_arrays",
    "checked_labels",
    "compile_settings",
    "data_parallel",
    "deterministic",
    "is_chief",
    "make_train_function",
    "num_devices",
    "num_replicas",
    "on_share",
    "plain_errors",
    "process",
    "run_step",
    "share_of_mean",
    "strategy_of",
    "symbolic_build",
    "to_numpy",
    "unless_empty",
    "updating_only",
    "validation_data",
]
